import { createRoute, type OpenAPIHono, z } from '@hono/zod-openapi';
import type { Context } from 'hono';
import { findPause, recordAction } from '../store/manual-actions.ts';
import { countUnpublished, findUnpublished } from '../store/outbox.ts';
import { type PublishResult, publishBookings } from '../store/publish.ts';
import { requestTask, type Task } from '../store/tasks.ts';
import { actorOf } from './caller.ts';
import type { ApiEnv, RouteContext } from './context.ts';
import { jobPath, jobSchema, syncResultSchema, toJobResource } from './job-resource.ts';
import { act, requireRunning } from './manual-action.ts';
import { marketUnavailable, requireMarket } from './market-outage.ts';
import { ACTION_PROBLEMS, documentProblems } from './problem.ts';
import { acceptNoBody, answerWithin } from './request-input.ts';
import { requireRole } from './role.ts';

/** What one call does while its caller waits; more becomes a job. */
const SNAPSHOTS_MAX = 1_000;
const WORK_MS_MAX = 25_000;
/** A batch that has begun when the time is up ends by MongoDB's own timeouts. */
const ANSWER_MS_MAX = 45_000;
const BATCH_MAX = 100;

const reportSchema = z
  .object({
    success: z.literal(true),
    total: z.int().openapi({ description: 'published + failed + pending', example: 3 }),
    published: z.int().openapi({ description: 'Confirmed by MongoDB.', example: 2 }),
    failed: z.int().openapi({ description: 'Failed or parked.', example: 1 }),
    pending: z.int().openapi({
      description: `Left to the pipeline, or to another call: more than ${WORK_MS_MAX / 1000} s of work, MongoDB went away, or the pipeline was paused.`,
      example: 0,
    }),
    results: z.array(syncResultSchema),
  })
  .openapi('SyncReport');

type SyncReport = z.infer<typeof reportSchema>;

const route = createRoute({
  method: 'post',
  path: '/storage-guard/snapshots/sync-all',
  operationId: 'syncAll',
  tags: ['Snapshots'],
  summary: 'Publish everything that is not published',
  description:
    'Writes the listing of every snapshot that MongoDB has not confirmed at its newest revision, tombstones included; parked ones are left alone. ' +
    `Up to ${SNAPSHOTS_MAX} snapshots are published before the answer, within ${WORK_MS_MAX / 1000} s: call again while ` +
    '`pending` is not 0. More become a job; one that is under way starts over, so that it finds what came since. Takes no body.',
  middleware: [requireRole('operator'), answerWithin(ANSWER_MS_MAX), acceptNoBody] as const,
  request: { query: z.strictObject({}) },
  responses: {
    200: { description: 'What was done.', content: { 'application/json': { schema: reportSchema } } },
    202: {
      description: 'There is more to do: the job that does it. Its address is in `Location`.',
      headers: { Location: { description: 'Where the job can be looked at.', schema: { type: 'string' } } },
      content: { 'application/json': { schema: z.object({ success: z.literal(true), job: jobSchema }) } },
    },
    ...documentProblems([...ACTION_PROBLEMS, 'paused', 'market_unavailable']),
  },
});

export function mountSyncAll(app: OpenAPIHono<ApiEnv>, ctx: RouteContext): void {
  app.openapi(route, async (c) => {
    await requireRunning(ctx);
    const waiting = await countUnpublished(ctx.pool);
    if (waiting > SNAPSHOTS_MAX) {
      const task = await requestSync(ctx, c);
      return c.json({ success: true as const, job: toJobResource(task) }, 202, {
        location: jobPath(task.id),
      });
    }
    if (waiting > 0) await requireMarket(ctx);
    // Should this process end after that, the pipeline publishes them.
    const bookingIds = await act(ctx, c, async (client) => {
      const due = await findUnpublished(client, SNAPSHOTS_MAX);
      if (due.length > 0) {
        await recordAction(client, { action: 'sync_all', details: { snapshots: due.length } });
      }
      return due;
    });
    return c.json(await publishAll(ctx, bookingIds), 200);
  });
}

function requestSync(ctx: RouteContext, c: Context<ApiEnv>): Promise<Task> {
  const { actor } = actorOf(c);
  return act(ctx, c, async (client) => {
    const { task } = await requestTask(client, { kind: 'sync_all', requestedBy: actor });
    await recordAction(client, { action: 'sync_all', details: { job_id: task.id } });
    return task;
  });
}

async function publishAll(ctx: RouteContext, bookingIds: string[]): Promise<SyncReport> {
  const enough = AbortSignal.any([AbortSignal.timeout(WORK_MS_MAX), ctx.stopping]);
  const results: PublishResult[] = [];
  let at = 0;
  while (at < bookingIds.length && !enough.aborted) {
    const batch = bookingIds.slice(at, at + BATCH_MAX);
    const outcome = await publishBookings(ctx.publish, batch);
    if (outcome.outcome === 'unavailable') {
      if (results.length > 0) break;
      throw marketUnavailable(outcome.error);
    }
    results.push(...outcome.results);
    at += batch.length;
    const left = batch.length - outcome.results.length;
    // It was paused meanwhile: nothing more is published. Otherwise a batch that comes back smaller has lost what another
    // publisher has in work, or what was deleted: that is in none of the numbers.
    if (left > 0 && (await findPause(ctx.pool)) !== undefined) {
      return report(results, bookingIds.length - at + left);
    }
  }
  return report(results, bookingIds.length - at);
}

function report(results: PublishResult[], pending: number): SyncReport {
  const published = results.filter((result) => result.result === 'published').length;
  return {
    success: true,
    total: results.length + pending,
    published,
    failed: results.length - published,
    pending,
    results: results.map((result) => ({
      booking_id: result.bookingId,
      status: result.result,
      listing_id: result.result === 'published' ? result.listingId : null,
      ...(result.result === 'published' ? {} : { error: result.error }),
    })),
  };
}
