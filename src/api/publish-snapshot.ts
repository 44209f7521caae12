import { createRoute, type OpenAPIHono, z } from '@hono/zod-openapi';
import type { Context } from 'hono';
import { crashPoint } from '../crash-point.ts';
import { publishNow } from '../store/manual-actions.ts';
import { findPublishable } from '../store/outbox.ts';
import { type PublishResult, publishBookings } from '../store/publish.ts';
import { bookingExists, findSnapshot, type MarkedSnapshot } from '../store/snapshots.ts';
import type { ApiEnv, RouteContext } from './context.ts';
import { act, requireRunning } from './manual-action.ts';
import { marketUnavailable, requireMarket } from './market-outage.ts';
import { ACTION_PROBLEMS, documentProblems, ProblemError, unavailable } from './problem.ts';
import { acceptNoBody, answerWithin } from './request-input.ts';
import { requireRole } from './role.ts';
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
    'deleted by hand, and a parked one gets another attempt. What is held or withdrawn, or has ended, is refused with ' +
    '400, and everything with 409 while the pipeline is paused. Takes no body.',
  middleware: [requireRole('operator'), answerWithin(5_000), acceptNoBody] as const,
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
      'paused',
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
    await requireRunning(ctx);
    await requireMarket(ctx);
    await crashPoint('api.before_publish');
    await makeDue(ctx, c, booking_id);
    const published = await publishHere(ctx, booking_id);
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

async function findExisting(ctx: RouteContext, bookingId: string): Promise<MarkedSnapshot> {
  const snapshot = await findSnapshot(ctx.pool, bookingId);
  if (snapshot !== undefined) return snapshot;
  const detail = (await bookingExists(ctx.pool, bookingId))
    ? 'This booking has no snapshot yet. Reconcile it first.'
    : 'There is no snapshot of this booking.';
  throw new ProblemError('not_found', { detail });
}

function requirePublishable(snapshot: MarkedSnapshot): void {
  const detail = explainStatus(snapshot);
  if (detail !== undefined) throw new ProblemError('not_publishable', { detail });
}

function explainStatus({ status, manual_state: manual }: MarkedSnapshot): string | undefined {
  if (status === 'completed') return 'The booking is completed: its snapshot cannot be published any more.';
  if (status === 'held') return `The listing is held (${manual?.reason ?? 'by hand'}). Release it first.`;
  if (status !== 'withdrawn') return undefined;
  return manual === null
    ? 'The booking was cancelled or deleted: its snapshot is withdrawn and cannot be published.'
    : `The listing was withdrawn by hand (${manual.reason}). Release it first.`;
}

/** Audits the action and makes the listing due: should this process end now, a publisher writes it. */
async function makeDue(ctx: RouteContext, c: Context<ApiEnv>, bookingId: string): Promise<void> {
  try {
    await act(ctx, c, (client) => publishNow(client, [bookingId]));
  } catch (error) {
    if (!(error instanceof ProblemError) || error.code !== 'conflict') throw error;
    // It was taken off the market since it was looked at; or its booking has ended, and the snapshot does not say so yet.
    if ((await findPublishable(ctx.pool, [bookingId])).length === 0) throw notComputed();
    throw new ProblemError('not_publishable', { detail: error.message, cause: error });
  }
}

const notComputed = (): ProblemError =>
  new ProblemError('not_computed', {
    detail: 'The snapshot was taken over and has not been computed yet. Reconcile it first.',
  });

async function publishHere(
  ctx: RouteContext,
  bookingId: string,
): Promise<PublishResult & { result: 'published' }> {
  const outcome = await publishBookings(ctx.publish, [bookingId]);
  if (outcome.outcome === 'unavailable') throw marketUnavailable(outcome.error);
  const result = outcome.results[0];
  if (result === undefined) {
    await requireRunning(ctx); // It may have been paused since.
    if ((await findPublishable(ctx.pool, [bookingId])).length > 0) {
      throw unavailable('publisher_busy', {
        detail:
          'Another publisher has this snapshot in work and has not finished. It will be published; try again to see.',
      });
    }
    throw notComputed();
  }
  if (result.result !== 'published') {
    const fate = result.result === 'parked' ? 'It is parked.' : 'It will be tried again.';
    throw new ProblemError('not_processable', {
      detail: `The listing cannot be written: ${result.error}. ${fate}`,
    });
  }
  return result;
}
