import type pg from 'pg';
import { describeError } from '../src/errors.ts';
import type { Logger } from '../src/log.ts';
import type { Market } from '../src/mongo.ts';
import { classifyPostgresError } from '../src/postgres.ts';
import { sleep } from '../src/sleep.ts';
import {
  checkHistory,
  findUncheckedHistory,
  markHistoryChecked,
  recordHistoryCheck,
} from '../src/store/history.ts';

export interface HistoryCheck {
  stop(): Promise<void>;
  /** Rejected with the error that nothing can be done about. */
  ended: Promise<void>;
}

const LOOK_AGAIN_MS = 2_000;

/** Longer, because a comparison that failed half-way begins at the beginning. */
const RETRY_MS = 10_000;

/**
 * Compares every listing with its snapshot once under each postmaster, because no older copy of a cluster is put back
 * without another start of it (row 13). Beside all other work, which waits for neither this nor MongoDB: what is
 * published meanwhile is compared where it is written.
 */
export function startHistoryCheck(ctx: { pool: pg.Pool; market: Market; log: Logger }): HistoryCheck {
  const abort = new AbortController();
  const run = async (): Promise<void> => {
    while (!abort.signal.aborted) {
      const done = await checkOnce(ctx, abort.signal);
      await sleep(done ? LOOK_AGAIN_MS : RETRY_MS, abort.signal);
    }
  };
  const ended = run();
  return {
    ended,
    stop: async () => {
      abort.abort();
      await ended;
    },
  };
}

/** Compares what is to be compared; false when that began and could not be finished. Throws what is fatal. */
async function checkOnce(
  ctx: { pool: pg.Pool; market: Market; log: Logger },
  signal: AbortSignal,
): Promise<boolean> {
  let begun = false;
  try {
    const postmaster = await findUncheckedHistory(ctx.pool);
    if (postmaster === undefined) return true;
    begun = true;
    const startedAt = new Date();
    const { compared, cut } = await checkHistory(ctx, signal);
    await recordHistoryCheck(ctx.pool, { startedAt, compared, cut });
    ctx.log.info({ listings: compared, cut }, 'history checked against mongodb');
    // Last, so that a comparison that counts is told of, whatever is killed in between.
    await markHistoryChecked(ctx.pool, postmaster);
    return true;
  } catch (error) {
    if (signal.aborted) return true;
    if (classifyPostgresError(error) !== 'retryable') throw error;
    ctx.log.warn({ error: describeError(error) }, 'history cannot be checked yet, trying again');
    return !begun;
  }
}
