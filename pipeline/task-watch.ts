import type pg from 'pg';
import { describeError } from '../src/errors.ts';
import { startListening } from '../src/listen.ts';
import type { Logger } from '../src/log.ts';
import { sleep } from '../src/sleep.ts';
import { sendTaskJobs } from '../src/store/tasks.ts';
import { Wakeup } from './wakeup.ts';

/** Asked for while PostgreSQL went away, or before this version was here: the next refresh finds it, too. */
const RETRY_MS = 1_000;
const LOOK_AGAIN_MS = 60_000;

/**
 * Gives tasks that were asked for in SQL their jobs. SQL cannot do that itself: what pg-boss's tables look like is
 * pg-boss's business.
 */
export function startTaskWatch(ctx: { pool: pg.Pool; log: Logger }): { stop(): Promise<void> } {
  const wakeup = new Wakeup();
  const abort = new AbortController();
  const onNotify = (): void => wakeup.notify();
  const listener = startListening(ctx, { channel: 'market_sync_task', onNotify, onConnect: onNotify });
  const run = async (): Promise<void> => {
    while (!abort.signal.aborted) {
      await wakeup.wait(LOOK_AGAIN_MS);
      if (abort.signal.aborted) return;
      try {
        await sendTaskJobs(ctx.pool);
      } catch (error) {
        ctx.log.warn(
          { error: describeError(error) },
          'a task that was asked for could not be queued, trying again',
        );
        wakeup.notify();
        await sleep(RETRY_MS, abort.signal);
      }
    }
  };
  const ended = run();
  return {
    stop: async () => {
      abort.abort();
      wakeup.notify();
      await Promise.all([ended, listener.stop()]);
    },
  };
}
