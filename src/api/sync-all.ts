import { createRoute, type OpenAPIHono, z } from '@hono/zod-openapi';
import { countUnpublished, findUnpublished } from '../store/outbox.ts';
import { type PublishResult, publishBookings } from '../store/publish.ts';
import type { ApiEnv, RouteContext } from './context.ts';
import { marketUnavailable, requireMarket } from './market-outage.ts';
import { ACTION_PROBLEMS, documentProblems } from './problem.ts';
import { acceptNoBody, answerWithin } from './request-input.ts';

/** What one call does at most: what is left is reported as pending, and the pipeline or another call goes on. */
const SNAPSHOTS_MAX = 10_000;
const WORK_MS_MAX = 25_000;
/** A batch that has begun when the time is up ends by MongoDB's own timeouts. */
const ANSWER_MS_MAX = 45_000;
const BATCH_MAX = 100;

const resultSchema = z
  .object({
    booking_id: z.guid().openapi({ format: 'uuid' }),
    status: z.enum(['published', 'failed', 'parked']).openapi({
      description:
        '`failed` will be tried again; `parked` failed too often and is left alone until it is retried or its booking changes.',
    }),
    listing_id: z.string().nullable().openapi({ example: '665f1c2ab7e4c81d2f9a3c1f' }),
    error: z.string().optional().openapi({ description: 'Why it was not published.' }),
  })
  .openapi('SyncResult');

const reportSchema = z
  .object({
    success: z.literal(true),
    total: z.int().openapi({ description: 'published + failed + pending', example: 3 }),
    published: z.int().openapi({ description: 'Confirmed by MongoDB.', example: 2 }),
    failed: z.int().openapi({ description: 'Failed or parked.', example: 1 }),
    pending: z.int().openapi({
      description: `Left to the pipeline, or to another call: more than ${SNAPSHOTS_MAX} snapshots, more than ${WORK_MS_MAX / 1000} s of work, or MongoDB went away.`,
      example: 0,
    }),
    results: z.array(resultSchema),
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
    `Answers when it is done, at most ${SNAPSHOTS_MAX} snapshots or ${WORK_MS_MAX / 1000} s of work; call again while \`pending\` is not 0. Takes no body.`,
  middleware: [answerWithin(ANSWER_MS_MAX), acceptNoBody] as const,
  request: { query: z.strictObject({}) },
  responses: {
    200: { description: 'What was done.', content: { 'application/json': { schema: reportSchema } } },
    ...documentProblems([...ACTION_PROBLEMS, 'market_unavailable']),
  },
});

export function mountSyncAll(app: OpenAPIHono<ApiEnv>, ctx: RouteContext): void {
  app.openapi(route, async (c) => c.json(await syncAll(ctx), 200));
}

async function syncAll(ctx: RouteContext): Promise<SyncReport> {
  const bookingIds = await findUnpublished(ctx.pool, SNAPSHOTS_MAX);
  const beyond =
    bookingIds.length < SNAPSHOTS_MAX ? 0 : (await countUnpublished(ctx.pool)) - bookingIds.length;
  if (bookingIds.length > 0) await requireMarket(ctx);

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
    // A batch may come back smaller: what was deleted meanwhile is in none of the numbers.
    results.push(...outcome.results);
    at += batch.length;
  }
  return report(results, bookingIds.length - at + Math.max(0, beyond));
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
