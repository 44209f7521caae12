import { describeError } from '../src/errors.ts';
import { startListening } from '../src/listen.ts';
import { classifyPostgresError } from '../src/postgres.ts';
import { sleep } from '../src/sleep.ts';
import { nextAttemptInMs, releaseClaims } from '../src/store/outbox.ts';
import { type PublishContext, publishBatch } from '../src/store/publish.ts';
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
 * Publishes as soon as reconcile has committed, batch after batch until the outbox is empty. While MongoDB is not to be
 * had it waits with growing, jittered delays; snapshots wait in their table, the slot does not (D8).
 */
export function startPublisher(ctx: PublishContext, { batchMax }: { batchMax: number }): Publisher {
  const abort = new AbortController();
  const lanes: Lane[] = [];
  // To one that has nothing to do: what a busy one would find, it looks for anyway before it goes idle.
  const wake = (): void => (lanes.find((lane) => lane.idle) ?? lanes[0])?.wakeup.notify();
  for (let number = 1; number <= LANES; number += 1) {
    const publisher = `${ctx.publisher}:${number}`;
    lanes.push(
      startLane(
        { ...ctx, publisher },
        { batchMax, first: number === 1, wakeNext: wake, signal: abort.signal },
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
  options: { batchMax: number; first: boolean; wakeNext: () => void; signal: AbortSignal },
): Lane {
  const { batchMax, first, wakeNext, signal } = options;
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
        // The first alone keeps the time for what is not due yet.
        keepsTime: first,
        onClaimed: (count) => {
          if (count === batchMax) wakeNext();
        },
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

/** One batch; answers how long to wait before the next. Throws what is fatal. */
async function publishStep(
  ctx: PublishContext,
  options: {
    batchMax: number;
    failures: number;
    abandoned: boolean;
    keepsTime: boolean;
    onClaimed: (count: number) => void;
  },
): Promise<Step> {
  const { batchMax, failures, abandoned, keepsTime, onClaimed } = options;
  try {
    if (abandoned) await releaseClaims(ctx.pool, { publisher: ctx.publisher });
    const startedAt = performance.now();
    const outcome = await publishBatch(ctx, { limit: batchMax, onClaimed });
    switch (outcome.outcome) {
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
