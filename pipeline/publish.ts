import { describeError } from '../src/errors.ts';
import { startListening } from '../src/listen.ts';
import { classifyPostgresError } from '../src/postgres.ts';
import { sleep } from '../src/sleep.ts';
import { nextAttemptInMs, releaseClaims } from '../src/store/outbox.ts';
import { type PublishContext, type PublishOutcome, publishBatch } from '../src/store/publish.ts';
import { outageDelayMs } from './outage-delay.ts';
import { Wakeup } from './wakeup.ts';

export interface Publisher {
  /** Looks for work at once, as after a notification. */
  wake(): void;
  /** Finishes the batch in work, then ends. */
  stop(): Promise<void>;
  /** Rejected with the error that nothing can be done about. */
  ended: Promise<void>;
}

/** Nothing is due: look again after this long, whatever was notified or not. */
const LOOK_AGAIN_MS = 30_000;

/**
 * Batches in work at once. While one is with MongoDB, PostgreSQL claims and marks others: with a single one each server
 * waits for the other, at half the rate.
 */
const LANES = 3;

/**
 * While live changes come, what a backfill or a resync made is published in batches of this many, and for half of the
 * time at most: a live change waits for the batch in work.
 */
const BACKGROUND_BATCH_MAX = 50;

/**
 * Milliseconds after which such a batch is published before live changes: where these keep the publisher busy without end, a
 * backfill would never come to its own, which is some 200 listings a second.
 */
const BACKGROUND_DUE_MS = 250;

/** Milliseconds for which a live change counts as a sign that more are to come. */
const LIVE_MS = 2_000;

/**
 * Publishes as soon as reconcile has committed, batch after batch until the outbox is empty: live changes first, then
 * what nobody waits for. While MongoDB is not to be
 * had it waits with growing, jittered delays; snapshots wait in their table, the slot does not (D8).
 */
export function startPublisher(ctx: PublishContext, { batchMax }: { batchMax: number }): Publisher {
  const abort = new AbortController();
  const lanes: Lane[] = [];
  const background: Background = { liveUntilMs: 0, restUntilMs: 0, dueMs: 0 };
  // The first always, because it keeps the time: another one that finds nothing due yet does not come back for it. While the
  // first is busy, one that has nothing to do, too.
  const wake = (): void => {
    const [first] = lanes;
    if (first?.idle === false) lanes.find((lane) => lane.idle)?.wakeup.notify();
    first?.wakeup.notify();
  };
  for (let number = 1; number <= LANES; number += 1) {
    const publisher = `${ctx.publisher}:${number}`;
    lanes.push(
      startLane(
        { ...ctx, publisher },
        { batchMax, first: number === 1, background, wakeNext: wake, signal: abort.signal },
      ),
    );
  }
  const listener = startListening(ctx, {
    channel: 'market_sync_publish',
    onNotify: wake,
    onConnect: () => {
      for (const lane of lanes) lane.reconnected();
    },
  });
  const ended = Promise.all(lanes.map((lane) => lane.ended)).then(() => undefined);
  // Whoever started it watches `ended`; before that a rejection is not unhandled.
  ended.catch(() => undefined);
  return {
    wake,
    ended,
    stop: async () => {
      abort.abort();
      for (const { wakeup } of lanes) wakeup.notify();
      await Promise.all([ended, listener.stop()]);
    },
  };
}

/** Publishes one batch after the other, under a name of its own. */
interface Lane {
  readonly idle: boolean;
  wakeup: Wakeup;
  /** PostgreSQL may have gone away and come back. */
  reconnected(): void;
  ended: Promise<void>;
}

function startLane(
  ctx: PublishContext,
  options: {
    batchMax: number;
    first: boolean;
    background: Background;
    wakeNext: () => void;
    signal: AbortSignal;
  },
): Lane {
  const { batchMax, first, background, wakeNext, signal } = options;
  const wakeup = new Wakeup();
  let idle = false;
  // Claims in this lane's name that nobody works on would hold their snapshots back until the lease runs out: of a
  // process of the same name before this one, or from before PostgreSQL went away. Marks do not wait for the disk, so a
  // crash may undo one that was made and bring its claim back, while this lane notices nothing but a new connection.
  let abandoned = true;
  const run = async (): Promise<void> => {
    for (let failures = 0; !signal.aborted; ) {
      const release = abandoned;
      abandoned = false;
      const step = await publishStep(ctx, {
        batchMax,
        failures,
        abandoned: release,
        background,
        // The first alone keeps the time for what is not due yet.
        keepsTime: first,
        wakeNext,
      });
      failures = step.failed ? failures + 1 : 0;
      abandoned ||= step.interrupted;
      if (step.waitMs === 0) continue;
      // A notification cuts the wait for work short, never the wait for MongoDB.
      if (step.failed) await sleep(step.waitMs, signal);
      else {
        idle = true;
        await wakeup.wait(step.waitMs);
        idle = false;
      }
    }
  };
  return {
    get idle() {
      return idle;
    },
    wakeup,
    reconnected: () => {
      abandoned = true;
      wakeup.notify();
    },
    ended: run(),
  };
}

interface Step {
  waitMs: number;
  failed: boolean;
  /** PostgreSQL went away on the way: what was claimed may be claimed still. */
  interrupted: boolean;
}

/** When what nobody waits for may go on. */
interface Background {
  /** Until then live changes are reckoned with. */
  liveUntilMs: number;
  /** Not before that, beside live changes. */
  restUntilMs: number;
  /** From then on before live changes, once. */
  dueMs: number;
}

/** One batch; answers how long to wait before the next. Throws what is fatal. */
async function publishStep(
  ctx: PublishContext,
  options: {
    batchMax: number;
    failures: number;
    abandoned: boolean;
    keepsTime: boolean;
    background: Background;
    wakeNext: () => void;
  },
): Promise<Step> {
  const { batchMax, failures, abandoned, keepsTime, background, wakeNext } = options;
  try {
    if (abandoned) await releaseClaims(ctx.pool, { publisher: ctx.publisher });
    const startedAt = performance.now();
    const outcome = await publishNext(ctx, { batchMax, background, wakeNext });
    switch (outcome.outcome) {
      case 'resting':
        return { waitMs: outcome.restMs, failed: false, interrupted: false };
      case 'published':
        ctx.log.debug(
          { listings: outcome.results.length, duration_ms: Math.round(performance.now() - startedAt) },
          'batch published',
        );
        return { waitMs: 0, failed: false, interrupted: false };
      case 'idle': {
        const dueInMs = keepsTime ? await nextAttemptInMs(ctx.pool) : undefined;
        return {
          waitMs: Math.min(dueInMs ?? LOOK_AGAIN_MS, LOOK_AGAIN_MS) + 1,
          failed: false,
          interrupted: false,
        };
      }
      case 'unavailable': {
        const waitMs = outageDelayMs(failures, ctx.random);
        ctx.log.warn(
          {
            error: describeError(outcome.error),
            listings: outcome.claimed,
            retry_ms: Math.round(waitMs),
          },
          'mongodb cannot be written, trying again',
        );
        return { waitMs, failed: true, interrupted: false };
      }
    }
  } catch (error) {
    if (classifyPostgresError(error) !== 'retryable') throw error;
    const waitMs = outageDelayMs(failures, ctx.random);
    ctx.log.warn({ error: describeError(error) }, 'publisher interrupted, coming back');
    return { waitMs, failed: true, interrupted: true };
  }
}

/** The next batch: of live changes if there are any, of the rest if it is their turn. */
async function publishNext(
  ctx: PublishContext,
  { batchMax, background, wakeNext }: { batchMax: number; background: Background; wakeNext: () => void },
): Promise<PublishOutcome | { outcome: 'resting'; restMs: number }> {
  const startedAt = performance.now();
  const beside = startedAt < background.liveUntilMs;
  const limit = beside ? Math.min(BACKGROUND_BATCH_MAX, batchMax) : batchMax;
  const due = beside && startedAt >= background.dueMs;
  if (due) {
    const owed = await publishBackground(ctx, { limit, beside, background, wakeNext });
    if (owed.outcome !== 'idle') return owed;
  }
  const live = await publishBatch(ctx, {
    limit: batchMax,
    only: 'live',
    onClaimed: wakeWhenFull(batchMax, wakeNext),
  });
  const now = performance.now();
  if (live.outcome === 'published') background.liveUntilMs = now + LIVE_MS;
  if (live.outcome !== 'idle' || due) return live;
  if (now < background.restUntilMs) {
    return { outcome: 'resting', restMs: Math.ceil(background.restUntilMs - now) };
  }
  return publishBackground(ctx, { limit, beside, background, wakeNext });
}

/** There may be more where a whole batch was: for the next lane, while this one is with MongoDB. */
const wakeWhenFull =
  (limit: number, wakeNext: () => void) =>
  (count: number): void => {
    if (count >= limit) wakeNext();
  };

/** A batch of what nobody waits for; notes when the next one may and when it must come. */
async function publishBackground(
  ctx: PublishContext,
  {
    limit,
    beside,
    background,
    wakeNext,
  }: { limit: number; beside: boolean; background: Background; wakeNext: () => void },
): Promise<PublishOutcome> {
  const startedAt = performance.now();
  const outcome = await publishBatch(ctx, {
    limit,
    only: 'background',
    // Beside live changes one batch of it is in work at a time.
    onClaimed: wakeWhenFull(beside ? Number.POSITIVE_INFINITY : limit, wakeNext),
  });
  const endedAt = performance.now();
  background.dueMs = endedAt + BACKGROUND_DUE_MS;
  if (beside && outcome.outcome === 'published') background.restUntilMs = endedAt + (endedAt - startedAt);
  return outcome;
}
