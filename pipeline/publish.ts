import { startListening } from '../src/listen.ts';
import { nextAttemptInMs } from '../src/store/outbox.ts';
import { type PublishContext, type PublishOutcome, publishBatch } from '../src/store/publish.ts';
import { type Reservation, startDirectLanes } from './direct-lanes.ts';
import { type Lane, type LaneOutcome, startLane } from './lane.ts';

export interface Publisher {
  /** A name to claim in, for the consumer of this process; undefined while nothing more can be taken. */
  reserve(): Reservation | undefined;
  /** Nothing that the consumer of this process has sent before can commit any more. */
  fenced(): void;
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
 * Publishes as soon as reconcile has committed. What the consumer of this process changes comes claimed (`reserve`); what is
 * left, and what others change, is claimed batch after batch until the outbox is empty: live changes first, then what
 * nobody waits for. While MongoDB is not to be had it waits with growing, jittered delays; snapshots wait in their table, the
 * slot does not (D8).
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
    const named = { ...ctx, publisher: `${ctx.publisher}:${number}` };
    const turn = {
      batchMax,
      background,
      wakeNext: wake,
      // The first alone keeps the time for what is not due yet.
      keepsTime: number === 1,
    };
    lanes.push(startLane(named, { publishNext: () => publishNext(named, turn), signal: abort.signal }));
  }
  let notified = 0;
  const direct = startDirectLanes(ctx, {
    batchMax,
    onReserved: () => {
      const notifiedBefore = notified;
      return (results) => {
        background.liveUntilMs = performance.now() + LIVE_MS;
        // Nobody else comes back for what is to be tried again, or changed meanwhile and was not to be claimed before these marks.
        if (notified > notifiedBefore || results.some(({ result }) => result !== 'published')) wake();
      };
    },
  });
  const listener = startListening(ctx, {
    channel: 'market_sync_publish',
    onNotify: (payload) => {
      if (isAllClaimed(payload)) return;
      notified += 1;
      wake();
    },
    onConnect: () => {
      // What was notified while nobody listened is not repeated.
      notified += 1;
      direct.reconnected();
      for (const lane of lanes) lane.abandonClaims();
    },
  });
  const ended = Promise.all([direct.ended, ...lanes.map((lane) => lane.ended)]).then(() => undefined);
  // Whoever started it watches `ended`; before that a rejection is not unhandled.
  ended.catch(() => undefined);
  return {
    wake,
    reserve: direct.reserve,
    fenced: direct.fenced,
    ended,
    stop: async () => {
      abort.abort();
      for (const { wakeup } of lanes) wakeup.notify();
      await Promise.all([direct.stop(), ended, listener.stop()]);
    },
  };
}

/** What this notification tells of is claimed by a publisher already. */
function isAllClaimed(payload: string): boolean {
  try {
    return payload !== '' && JSON.parse(payload)?.unclaimed === 0;
  } catch {
    return false;
  }
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

interface Turn {
  batchMax: number;
  background: Background;
  wakeNext: () => void;
  keepsTime: boolean;
}

/** The next batch: of live changes if there are any, of the rest if it is their turn. */
async function publishNext(ctx: PublishContext, turn: Turn): Promise<LaneOutcome> {
  const { batchMax, background, wakeNext, keepsTime } = turn;
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
  if (live.outcome !== 'idle') {
    if (live.outcome === 'published') background.liveUntilMs = now + LIVE_MS;
    return live;
  }
  if (!due) {
    if (now < background.restUntilMs)
      return { outcome: 'idle', waitMs: Math.ceil(background.restUntilMs - now) };
    const rest = await publishBackground(ctx, { limit, beside, background, wakeNext });
    if (rest.outcome !== 'idle') return rest;
  }
  const dueInMs = keepsTime ? await nextAttemptInMs(ctx.pool) : undefined;
  return { outcome: 'idle', waitMs: Math.min(dueInMs ?? LOOK_AGAIN_MS, LOOK_AGAIN_MS) + 1 };
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
