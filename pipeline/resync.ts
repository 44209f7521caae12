import type pg from 'pg';
import { crashPoint } from '../src/crash-point.ts';
import { describeError } from '../src/errors.ts';
import { startListening } from '../src/listen.ts';
import type { Logger } from '../src/log.ts';
import type { Market } from '../src/mongo.ts';
import { classifyPostgresError } from '../src/postgres.ts';
import { sleep } from '../src/sleep.ts';
import { deleteListingsBefore } from '../src/store/listings.ts';
import { countGrownTables, readSourceWrites } from '../src/store/live-work.ts';
import type { Clock } from '../src/store/reconcile.ts';
import { finishResync, readEpochProgress, resyncChunk } from '../src/store/resync.ts';
import { explainFatal } from './explain-fatal.ts';
import { Pace } from './pace.ts';
import { Wakeup } from './wakeup.ts';

export interface ResyncContext {
  pool: pg.Pool;
  market: Market;
  log: Logger;
  clock: Clock;
  /** Bookings recomputed in one transaction. */
  chunkMax: number;
}

export interface Resyncer {
  stop(): Promise<void>;
  /** Rejected with the error that nothing can be done about. */
  ended: Promise<void>;
}

const LOOK_AGAIN_MS = 10_000;
const RETRY_MS = 1_000;
const VISIBLE_RETRY_MS = 20;

/**
 * Works off requests to recompute everything, chunk by chunk beside live work, each chunk in a transaction with its
 * cursor: a kill costs at most one chunk. Afterwards removes listings of bookings that this history never knew.
 */
export function startResyncer(ctx: ResyncContext): Resyncer {
  const wakeup = new Wakeup();
  const abort = new AbortController();
  const onNotify = (): void => wakeup.notify();
  const listener = startListening(ctx, { channel: 'market_sync_resync', onNotify, onConnect: onNotify });
  const pace = new Pace({ chunkMax: ctx.chunkMax });
  const run = async (): Promise<void> => {
    while (!abort.signal.aborted) {
      const step = await resyncStep(ctx, pace);
      if (step === 'more') continue;
      if (typeof step === 'number') await sleep(step, abort.signal);
      else if (step === 'soon') await sleep(VISIBLE_RETRY_MS, abort.signal);
      else if (step === 'wait') await sleep(RETRY_MS, abort.signal);
      else await wakeup.wait(LOOK_AGAIN_MS);
    }
  };
  const ended = run();
  return {
    ended,
    stop: async () => {
      abort.abort();
      wakeup.notify();
      await Promise.all([ended, listener.stop()]);
    },
  };
}

/** A number: there is more to do, after so many milliseconds in which others go first. */
async function resyncStep(
  ctx: ResyncContext,
  pace: Pace,
): Promise<number | 'more' | 'soon' | 'wait' | 'none'> {
  try {
    await crashPoint('resync.between_chunks');
    if (pace.isLookDue) pace.lookAtWrites(await readSourceWrites(ctx.pool));
    const limit = pace.size;
    const progress = await resyncChunk(ctx.pool, { limit, now: ctx.clock() });
    if (progress === undefined) return 'none';
    if (progress.phase === 'waiting') return 'soon';
    if (progress.phase !== 'ghosts') {
      const restMs = pace.restMs({ items: limit, tookMs: progress.heldMs, live: progress.live });
      if (pace.isCountDue) await countGrownTables(ctx.pool);
      return restMs > 0 ? restMs : 'more';
    }
    return (await removeGhosts(ctx, progress.id)) ? 'more' : 'wait';
  } catch (error) {
    if (classifyPostgresError(error) !== 'retryable') throw await explainFatal(ctx.pool, error);
    ctx.log.warn({ error: describeError(error) }, 'resync interrupted, coming back');
    return 'wait';
  }
}

/**
 * Once MongoDB has every listing in the current epoch, one of an older epoch is of a booking that this history does not
 * know: restored away, or deleted while nobody watched. Answers false while publishing is not that far.
 */
async function removeGhosts(ctx: ResyncContext, id: number): Promise<boolean> {
  const { epoch, behind, parked } = await readEpochProgress(ctx.pool);
  if (behind > 0) return false;
  let ghosts: number;
  try {
    await crashPoint('resync.before_ghosts');
    ghosts = await deleteListingsBefore(ctx.market, { epoch, except: parked });
  } catch (error) {
    ctx.log.warn({ error: describeError(error) }, 'mongodb cannot be read, trying again');
    return false;
  }
  await crashPoint('resync.ghosts_removed');
  const { bookings, seconds } = await finishResync(ctx.pool, id);
  ctx.log.info({ bookings, ghosts, seconds: Math.round(seconds * 10) / 10, epoch }, 'resync finished');
  return true;
}
