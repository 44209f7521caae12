import type pg from 'pg';
import { crashPoint } from '../src/crash-point.ts';
import { describeError } from '../src/errors.ts';
import type { Logger } from '../src/log.ts';
import { classifyPostgresError } from '../src/postgres.ts';
import type { AskedJob } from '../src/queue.ts';
import { sleep } from '../src/sleep.ts';
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
import { untilResumed } from './resumed.ts';

export interface TaskContext {
  pool: pg.Pool;
  log: Logger;
  clock: Clock;
  publish: PublishContext;
  /** Bookings that one chunk recomputes or publishes. */
  chunkMax: number;
}

/** Longest a task keeps out of the way after a chunk. */
const YIELD_MS_MAX = 1_000;

type Step = 'more' | 'end' | 'paused' | 'closed';

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
    job('backfill', (task) => backfillStep(ctx, task)),
  ];
}

type Outcome = Awaited<ReturnType<AskedJob['run']>>;

/** Works a task to its end. Throws what may pass: the queue has it taken up again. */
async function workTask(
  ctx: TaskContext,
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
  ctx: TaskContext,
  { task, step, signal }: { task: Task; step: (task: Task) => Promise<Step>; signal: AbortSignal },
): Promise<void> {
  for (;;) {
    stopIfNeeded(signal);
    const startedAt = performance.now();
    await crashPoint('task.between_chunks');
    const done = await step(task);
    if (done === 'end' || done === 'closed') return;
    if (done === 'paused') await waitForResume(ctx, signal);
    // Live work takes the same locks: it gets as much time as the task takes.
    else await sleep(Math.min(performance.now() - startedAt, YIELD_MS_MAX), signal);
  }
}

const waitForResume = ({ pool }: TaskContext, signal: AbortSignal): Promise<void> =>
  untilResumed(pool, { stopIfNeeded: () => stopIfNeeded(signal), signal });

function stopIfNeeded(signal: AbortSignal): void {
  if (signal.aborted) throw new Error('the process stops: another run goes on with it');
}

async function backfillStep(ctx: TaskContext, { id }: Task): Promise<Step> {
  const outcome = await backfillChunk(ctx.pool, { id, limit: ctx.chunkMax, now: ctx.clock() });
  if (outcome === 'end') await finishTask(ctx.pool, { id });
  return outcome;
}

/** MongoDB is not to be had: nothing is wrong with the task. */
class MarketAwayError extends Error {
  override name = 'MarketAwayError';
}

const isPassing = (error: unknown): boolean =>
  error instanceof MarketAwayError || classifyPostgresError(error) === 'retryable';

async function syncStep(ctx: TaskContext, { id }: Task): Promise<Step> {
  const next = await nextUnpublished(ctx.pool, { id, limit: ctx.chunkMax });
  if (next === undefined) return 'closed';
  if (next.paused) return 'paused';
  const last = next.bookingIds.at(-1);
  if (last === undefined) {
    return (await finishTask(ctx.pool, { id, after: next.after })) === undefined ? 'more' : 'end';
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
  return paused ? 'paused' : 'more';
}

const toTaskResult = (result: PublishResult): TaskResult => ({
  booking_id: result.bookingId,
  status: result.result,
  listing_id: result.result === 'published' ? result.listingId : null,
  ...(result.result === 'published' ? {} : { error: result.error }),
});

/** What is kept with the job for people to see. */
async function readOutcome({ pool }: TaskContext, id: string): Promise<Outcome> {
  const task = await findTask(pool, id);
  if (task === undefined) return { failed: true, output: { message: 'the task was deleted' } };
  const { state, total, done, failed } = task;
  return { failed: false, output: { state, total, done, failed } };
}
