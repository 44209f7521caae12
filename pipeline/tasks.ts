import type pg from 'pg';
import { crashPoint } from '../src/crash-point.ts';
import { describeError } from '../src/errors.ts';
import type { Logger } from '../src/log.ts';
import { classifyPostgresError } from '../src/postgres.ts';
import type { AskedJob } from '../src/queue.ts';
import { sleep } from '../src/sleep.ts';
import { countGrownTables, readSourceWrites } from '../src/store/live-work.ts';
import { findPause } from '../src/store/manual-actions.ts';
import { type PublishContext, type PublishResult, publishBookings } from '../src/store/publish.ts';
import type { Clock } from '../src/store/reconcile.ts';
import {
  backfillChunk,
  beginTask,
  finishTask,
  nextUnpublished,
  noteTaskError,
  recordChunk,
} from '../src/store/task-work.ts';
import {
  failTask,
  findTask,
  TASK_EXPIRE_SECONDS,
  type Task,
  type TaskKind,
  type TaskResult,
  taskQueue,
} from '../src/store/tasks.ts';
import { Pace } from './pace.ts';
import { untilResumed } from './resumed.ts';

export interface BackfillContext {
  pool: pg.Pool;
  log: Logger;
  clock: Clock;
  /** Bookings that one chunk recomputes or publishes at most. */
  chunkMax: number;
}

export interface TaskContext extends BackfillContext {
  publish: PublishContext;
}

/** Longest a sync-all keeps out of the way after a chunk. */
const YIELD_MS_MAX = 1_000;

/** `restMs`: how long to keep out of the way of others. */
type Step = { outcome: 'more'; restMs: number } | { outcome: 'end' | 'paused' | 'closed' };

/** The jobs that work tasks (D9). Whoever takes one up again, in whatever process, goes on behind its last whole chunk. */
export function taskJobs(ctx: TaskContext): AskedJob[] {
  // Claims are told apart by it: those of the sweep are not this one's to give back.
  const publish = { ...ctx.publish, publisher: `${ctx.publish.publisher}:tasks` };
  const job = (kind: TaskKind, step: (task: Task) => Promise<Step>): AskedJob => ({
    name: taskQueue(kind),
    expireInSeconds: TASK_EXPIRE_SECONDS,
    run: (id, signal) => workTask(ctx, { id, step, signal }),
  });
  return [
    job('sync_all', (task) => syncStep({ ...ctx, publish }, task)),
    {
      name: taskQueue('backfill'),
      expireInSeconds: TASK_EXPIRE_SECONDS,
      run: (id, signal) => workBackfill(ctx, { id, signal }),
    },
  ];
}

/**
 * Works a backfill to its end, in chunks that make way for live work. Several may work the same one: each chunk is one's
 * alone, and begins where the last one ended.
 */
export function workBackfill(
  ctx: BackfillContext,
  { id, signal }: { id: string; signal: AbortSignal },
): Promise<Outcome> {
  const pace = new Pace({ chunkMax: ctx.chunkMax });
  return workTask(ctx, { id, step: () => backfillStep(ctx, { id, pace }), signal });
}

type Outcome = Awaited<ReturnType<AskedJob['run']>>;

/** Works a task to its end. Throws what may pass: the queue has it taken up again. */
async function workTask(
  ctx: BackfillContext,
  { id, step, signal }: { id: string; step: (task: Task) => Promise<Step>; signal: AbortSignal },
): Promise<Outcome> {
  try {
    await waitForResume(ctx, signal);
    const task = await beginTask(ctx.pool, id);
    if (task !== undefined) await workChunks(ctx, { task, step, signal });
    return await readOutcome(ctx, id);
  } catch (error) {
    if (signal.aborted || isPassing(error)) {
      await noteTaskError(ctx.pool, { id, error: describeError(error) }).catch(() => undefined); // Only a note.
      throw error;
    }
    await failTask(ctx.pool, { id, error: describeError(error) });
    return { failed: true, output: { message: describeError(error) } };
  }
}

async function workChunks(
  ctx: BackfillContext,
  { task, step, signal }: { task: Task; step: (task: Task) => Promise<Step>; signal: AbortSignal },
): Promise<void> {
  for (;;) {
    stopIfNeeded(signal);
    await crashPoint('task.between_chunks');
    const done = await step(task);
    if (done.outcome === 'more') {
      if (done.restMs > 0) await sleep(done.restMs, signal);
    } else if (done.outcome === 'paused') await waitForResume(ctx, signal);
    else return;
  }
}

const waitForResume = ({ pool }: BackfillContext, signal: AbortSignal): Promise<void> =>
  untilResumed(pool, { stopIfNeeded: () => stopIfNeeded(signal), signal });

function stopIfNeeded(signal: AbortSignal): void {
  if (signal.aborted) throw new Error('the process stops: another run goes on with it');
}

async function backfillStep(ctx: BackfillContext, { id, pace }: { id: string; pace: Pace }): Promise<Step> {
  if (pace.isLookDue) pace.lookAtWrites(await readSourceWrites(ctx.pool));
  const chunk = await backfillChunk(ctx.pool, { id, limit: pace.size, now: ctx.clock() });
  if (chunk.outcome === 'end') await finishTask(ctx.pool, { id });
  if (chunk.outcome !== 'more') return chunk;
  const { bookings: items, heldMs: tookMs, live } = chunk;
  const restMs = pace.restMs({ items, tookMs, live });
  if (pace.isCountDue) await countGrownTables(ctx.pool);
  return { outcome: 'more', restMs };
}

/** MongoDB is not to be had: nothing is wrong with the task. */
class MarketAwayError extends Error {
  override name = 'MarketAwayError';
}

const isPassing = (error: unknown): boolean =>
  error instanceof MarketAwayError || classifyPostgresError(error) === 'retryable';

async function syncStep(ctx: TaskContext, { id }: Task): Promise<Step> {
  const startedAt = performance.now();
  // Live work takes the same locks: it gets as much time as the task takes.
  const more = (): Step => ({
    outcome: 'more',
    restMs: Math.min(performance.now() - startedAt, YIELD_MS_MAX),
  });
  const next = await nextUnpublished(ctx.pool, { id, limit: ctx.chunkMax });
  if (next === undefined) return { outcome: 'closed' };
  if (next.paused) return { outcome: 'paused' };
  const last = next.bookingIds.at(-1);
  if (last === undefined) {
    return (await finishTask(ctx.pool, { id, after: next.after })) === undefined
      ? more()
      : { outcome: 'end' };
  }
  const outcome = await publishBookings(ctx.publish, next.bookingIds);
  if (outcome.outcome === 'unavailable') {
    throw new MarketAwayError('MongoDB cannot be written, trying again', { cause: outcome.error });
  }
  // What is in no result, another publisher has in work, or nobody publishes because of a pause: then it comes again.
  const paused = outcome.results.length < next.bookingIds.length && (await findPause(ctx.pool)) !== undefined;
  const results = outcome.results.map(toTaskResult);
  const done = results.filter((result) => result.status === 'published').length;
  await recordChunk(ctx.pool, {
    id,
    after: next.after,
    upto: paused ? next.after : last,
    done,
    failed: results.length - done,
    results,
  });
  return paused ? { outcome: 'paused' } : more();
}

const toTaskResult = (result: PublishResult): TaskResult => ({
  booking_id: result.bookingId,
  status: result.result,
  listing_id: result.result === 'published' ? result.listingId : null,
  ...(result.result === 'published' ? {} : { error: result.error }),
});

/** What is kept with the job for people to see. */
async function readOutcome({ pool }: BackfillContext, id: string): Promise<Outcome> {
  const task = await findTask(pool, id);
  if (task === undefined) return { failed: true, output: { message: 'the task was deleted' } };
  const { state, total, done, failed } = task;
  return { failed: false, output: { state, total, done, failed } };
}
