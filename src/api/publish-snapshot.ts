import { createRoute, type OpenAPIHono, z } from '@hono/zod-openapi';
import { crashPoint } from '../crash-point.ts';
import type { Snapshot } from '../domain/snapshot.ts';
import { findPublishable } from '../store/outbox.ts';
import { type PublishResult, publishBookings } from '../store/publish.ts';
import { bookingExists, findSnapshot } from '../store/snapshots.ts';
import type { ApiEnv, RouteContext } from './context.ts';
import { marketUnavailable, requireMarket } from './market-outage.ts';
import { ACTION_PROBLEMS, documentProblems, ProblemError, unavailable } from './problem.ts';
import { acceptNoBody, answerWithin } from './request-input.ts';
import { bookingIdParam } from './snapshot-resource.ts';

const route = createRoute({
  method: 'post',
  path: '/storage-guard/snapshots/{booking_id}/publish',
  operationId: 'publishSnapshot',
  tags: ['Snapshots'],
  summary: 'Write the listing now',
  description:
    'Writes the snapshot as it is to Market Connect and answers when MongoDB has confirmed it. Nothing is recomputed. ' +
    'Allowed at any time: a snapshot that is published already is written again, which restores a listing that was ' +
    'deleted by hand, and a parked one gets another attempt. Takes no body.',
  middleware: [answerWithin(5_000), acceptNoBody] as const,
  request: { params: bookingIdParam, query: z.strictObject({}) },
  responses: {
    200: {
      description: 'MongoDB has confirmed the listing.',
      content: {
        'application/json': {
          schema: z.object({
            success: z.literal(true),
            message: z.string().openapi({ example: 'the listing is published at revision 7' }),
            listing_id: z.string().openapi({
              description: "The listing's `_id`, fixed for the life of the booking.",
              example: '665f1c2ab7e4c81d2f9a3c1f',
            }),
          }),
        },
      },
    },
    ...documentProblems([
      ...ACTION_PROBLEMS,
      'not_publishable',
      'not_found',
      'not_computed',
      'not_processable',
      'market_unavailable',
      'publisher_busy',
    ]),
  },
});

export function mountPublishSnapshot(app: OpenAPIHono<ApiEnv>, ctx: RouteContext): void {
  app.openapi(route, async (c) => {
    const { booking_id } = c.req.valid('param');
    requirePublishable(await findExisting(ctx, booking_id));
    await requireMarket(ctx);
    await crashPoint('api.before_publish');
    const published = await publishNow(ctx, booking_id);
    await crashPoint('api.published');
    // Its booking may have ended in between; what was written is then its tombstone, and nothing was published.
    requirePublishable(await findExisting(ctx, booking_id));
    return c.json(
      {
        success: true as const,
        message: `the listing is published at revision ${published.revision}`,
        listing_id: published.listingId,
      },
      200,
    );
  });
}

async function findExisting(ctx: RouteContext, bookingId: string): Promise<Snapshot> {
  const snapshot = await findSnapshot(ctx.pool, bookingId);
  if (snapshot !== undefined) return snapshot;
  const detail = (await bookingExists(ctx.pool, bookingId))
    ? 'This booking has no snapshot yet. Reconcile it first.'
    : 'There is no snapshot of this booking.';
  throw new ProblemError('not_found', { detail });
}

const NOT_PUBLISHABLE: Partial<Record<Snapshot['status'], string>> = {
  withdrawn: 'The booking was cancelled or deleted: its snapshot is withdrawn and cannot be published.',
  completed: 'The booking is completed: its snapshot cannot be published any more.',
};

function requirePublishable(snapshot: Snapshot): void {
  const detail = NOT_PUBLISHABLE[snapshot.status];
  if (detail !== undefined) throw new ProblemError('not_publishable', { detail });
}

async function publishNow(
  ctx: RouteContext,
  bookingId: string,
): Promise<PublishResult & { result: 'published' }> {
  const outcome = await publishBookings(ctx.publish, [bookingId]);
  if (outcome.outcome === 'unavailable') throw marketUnavailable(outcome.error);
  const result = outcome.results[0];
  if (result === undefined) {
    if ((await findPublishable(ctx.pool, [bookingId])).length > 0) {
      throw unavailable('publisher_busy', {
        detail:
          'Another publisher has this snapshot in work and has not finished. It will be published; try again to see.',
      });
    }
    throw new ProblemError('not_computed', {
      detail: 'The snapshot was taken over and has not been computed yet. Reconcile it first.',
    });
  }
  if (result.result !== 'published') {
    const fate = result.result === 'parked' ? 'It is parked.' : 'It will be tried again.';
    throw new ProblemError('not_processable', {
      detail: `The listing cannot be written: ${result.error}. ${fate}`,
    });
  }
  return result;
}
