import type pg from 'pg';
import type { Config } from '../src/config.ts';
import { crashPoint } from '../src/crash-point.ts';
import type { Logger } from '../src/log.ts';
import type { Market } from '../src/mongo.ts';
import type { AskedJob, ScheduledJob } from '../src/queue.ts';
import { claimExpired, deleteEnded, foldMeasurements, releaseExpired } from '../src/store/cleanup.ts';
import { deleteOldAudits } from '../src/store/drift-run.ts';
import { deleteOldAnswers } from '../src/store/idempotency.ts';
import { deleteListings } from '../src/store/listings.ts';
import { findPause } from '../src/store/manual-actions.ts';
import { type PublishContext, publishBatch } from '../src/store/publish.ts';
import { type Clock, findDueForRefresh, reconcileBookings } from '../src/store/reconcile.ts';
import { closeLostTasks, deleteOldTasks, sendTaskJobs } from '../src/store/tasks.ts';
import { auditOnce } from './audit.ts';
import { followPartitions } from './partitions.ts';
import { taskJobs } from './tasks.ts';

export interface ScheduleContext {
  pool: pg.Pool;
  market: Market;
  log: Logger;
  clock: Clock;
  config: Config;
  publish: PublishContext;
}

/** Snapshots that one transaction of a scheduled job recomputes or deletes. */
const CHUNK_MAX = 250;

/** Days for which ended tasks can be looked at. */
const TASK_DAYS = 30;

/** Days for which what audits found can be looked at. */
const AUDIT_DAYS = 90;

/** Kept answers that one cleanup deletes; what is left the next one does. */
const ANSWERS_MAX = 1_000_000;

/** Everything that pg-boss runs (D9): what is scheduled, and what is asked for. */
export const queueJobs = (ctx: ScheduleContext): (ScheduledJob | AskedJob)[] => [
  ...scheduledJobs(ctx),
  ...taskJobs({ ...ctx, chunkMax: ctx.config.batchKeysMax }),
];

/** The scheduled jobs. Each may be repeated at any time and stops between chunks when its signal aborts. */
function scheduledJobs(ctx: ScheduleContext): ScheduledJob[] {
  return [
    {
      name: 'publish-sweep',
      cron: ctx.config.publishSweepCron,
      expireInSeconds: 300,
      run: (signal) => unlessPaused(ctx, () => sweepUnpublished(ctx, signal)),
    },
    {
      name: 'refresh',
      cron: ctx.config.refreshCron,
      expireInSeconds: 300,
      run: async (signal) => {
        await sendTaskJobs(ctx.pool);
        await closeLostTasks(ctx.pool);
        return unlessPaused(ctx, async () => ({
          ...(await refreshDue(ctx, signal)),
          ...(await followPartitions(ctx, signal)),
        }));
      },
    },
    {
      name: 'cleanup',
      cron: ctx.config.cleanupCron,
      expireInSeconds: 3600,
      run: async (signal) => ({
        ...(await unlessPaused(ctx, () => cleanUp(ctx, signal))),
        ...(await tidyUp(ctx)),
      }),
    },
    {
      name: 'audit',
      cron: ctx.config.auditCron,
      expireInSeconds: 23 * 3600,
      run: (signal) =>
        unlessPaused(ctx, () =>
          auditOnce(ctx, { asked: { reason: 'daily', repair: ctx.config.auditRepair }, signal }),
        ),
    },
  ];
}

/** While the pipeline is paused nothing runs by itself; the next run finds what this one leaves. */
async function unlessPaused(
  { pool }: ScheduleContext,
  run: () => Promise<Record<string, unknown>>,
): Promise<Record<string, unknown>> {
  return (await findPause(pool)) === undefined ? run() : { paused: true };
}

/** Snapshots that a sweep publishes at once, so that live changes, which go first, wait for few of them. */
const SWEEP_BATCH_MAX = 50;

/** Publishes whatever is due: the net under the immediate path. */
async function sweepUnpublished(
  ctx: ScheduleContext,
  signal: AbortSignal,
): Promise<{ published: number; failed: number }> {
  let [published, failed] = [0, 0];
  while (!signal.aborted) {
    const outcome = await publishBatch(ctx.publish, {
      limit: Math.min(SWEEP_BATCH_MAX, ctx.config.publishBatchMax),
    });
    if (outcome.outcome === 'idle') break;
    if (outcome.outcome === 'unavailable') throw outcome.error;
    for (const result of outcome.results) {
      if (result.result === 'published') published += 1;
      else failed += 1;
    }
  }
  return { published, failed };
}

/** Recomputes the snapshots that the clock alone has changed (D10). */
export async function refreshDue(
  ctx: Pick<ScheduleContext, 'pool' | 'clock'>,
  signal: AbortSignal,
): Promise<{ refreshed: number; changed: number }> {
  let [refreshed, changed] = [0, 0];
  let previous = '';
  while (!signal.aborted) {
    const due = await findDueForRefresh(ctx.pool, { now: ctx.clock(), limit: CHUNK_MAX });
    // The same ones again would mean that a recompute did not move them: leave them for the next run.
    if (due.length === 0 || due.join() === previous) break;
    previous = due.join();
    const reconciled = await reconcileBookings(ctx.pool, { bookingIds: due, now: ctx.clock() });
    await crashPoint('refresh.between_chunks');
    refreshed += due.length;
    changed += reconciled.filter((entry) => entry.changed).length;
  }
  return { refreshed, changed };
}

/**
 * Deletes completed and withdrawn snapshots older than the retention, the listing first: a kill in between leaves a
 * snapshot without listing, which the next run deletes, and never a listing without snapshot.
 */
export async function cleanUp(
  ctx: Pick<ScheduleContext, 'pool' | 'clock' | 'market'>,
  signal: AbortSignal,
): Promise<{ deleted: number }> {
  let deleted = 0;
  // What a run before this one has claimed and left, because it was killed or interrupted. Should it still be in work,
  // both delete the same versions and no others.
  await releaseExpired(ctx.pool);
  while (!signal.aborted) {
    const expired = await claimExpired(ctx.pool, { now: ctx.clock(), limit: CHUNK_MAX });
    if (expired.length === 0) break;
    await crashPoint('cleanup.claimed');
    const outcomes = await deleteListings(ctx.market, expired);
    const failed = outcomes.find((outcome) => outcome.result === 'failed');
    const gone = expired.filter((_, index) => outcomes[index]?.result === 'deleted_or_newer');
    await crashPoint('cleanup.listings_deleted');
    const count = await deleteEnded(ctx.pool, gone);
    await crashPoint('cleanup.snapshots_deleted');
    deleted += count;
    const kept = expired.filter((entry) => !gone.includes(entry)).map((entry) => entry.bookingId);
    if (kept.length > 0) await releaseExpired(ctx.pool, kept);
    // The queue tries a failed job again, and keeps its error for people to see.
    if (failed !== undefined) throw failed.error;
    if (count === 0) break;
  }
  return { deleted };
}

/** What nobody asks for any more: old tasks, answers and figures. None of it is anybody's listing: a pause does not keep it. */
async function tidyUp({ pool, config }: ScheduleContext): Promise<Record<string, unknown>> {
  const tasks = await deleteOldTasks(pool, TASK_DAYS);
  const answers = await deleteOldAnswers(pool, {
    olderThanSeconds: config.idempotencySeconds,
    limit: ANSWERS_MAX,
  });
  await deleteOldAudits(pool, AUDIT_DAYS);
  await foldMeasurements(pool);
  return { tasks_deleted: tasks, answers_deleted: answers };
}
