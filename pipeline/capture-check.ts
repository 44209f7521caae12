import type pg from 'pg';
import { describeError, EnvironmentError } from '../src/errors.ts';
import type { Logger } from '../src/log.ts';
import { verifyInstalled } from '../src/migrate.ts';
import { requestResync } from '../src/store/resync.ts';
import { checkSource } from '../src/store/source-shape.ts';

interface CheckContext {
  pool: pg.Pool;
  log: Logger;
}

/**
 * Looks at what changes are captured with and computed from. Answers why the consumer cannot go on; undefined when it can, or
 * when PostgreSQL did not answer, which others notice.
 */
export async function findCaptureFault(
  ctx: CheckContext,
  { generation }: { generation: number },
): Promise<EnvironmentError | undefined> {
  try {
    // A table that was renamed has no triggers either: the name comes first.
    await noticeSourceChange(ctx, { generation });
    await requireCapture(ctx);
    return undefined;
  } catch (error) {
    if (error instanceof EnvironmentError) return error;
    ctx.log.debug({ error: describeError(error) }, 'capture could not be checked');
    return undefined;
  }
}

/**
 * Looks at the source tables before a change of theirs is mistaken for bad data, which would park every booking, and also while
 * nothing is written. What can be gone on with is computed anew. Throws an `EnvironmentError` for what cannot.
 */
export async function noticeSourceChange(
  { pool, log }: CheckContext,
  { generation }: { generation: number },
): Promise<void> {
  if (await checkSource(pool, { generation })) {
    log.warn({}, 'columns of the source tables have changed, everything is recomputed');
  }
}

/**
 * Without its publication PostgreSQL goes on streaming and leaves bookings out, without an error. Stops before more is
 * confirmed, and sees to it that everything is recomputed once capture is whole again.
 */
async function requireCapture({ pool, log }: CheckContext): Promise<void> {
  try {
    await verifyInstalled(pool);
  } catch (error) {
    if (error instanceof EnvironmentError) {
      await requestResync(pool, 'capture was incomplete').catch((failure: unknown) =>
        log.warn({ error: describeError(failure) }, 'a resync could not be asked for'),
      );
    }
    throw error;
  }
}
