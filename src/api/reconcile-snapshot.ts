import { createRoute, type OpenAPIHono, z } from '@hono/zod-openapi';
import { crashPoint } from '../crash-point.ts';
import { reconcileBookings } from '../store/reconcile.ts';
import { bookingExists, findSnapshot, findTrouble } from '../store/snapshots.ts';
import type { ApiEnv, RouteContext } from './context.ts';
import { ACTION_PROBLEMS, documentProblems, ProblemError } from './problem.ts';
import { acceptNoBody, answerWithin } from './request-input.ts';
import { bookingIdParam, snapshotSchema, toSnapshotResource } from './snapshot-resource.ts';

const route = createRoute({
  method: 'post',
  path: '/storage-guard/snapshots/{booking_id}/reconcile',
  operationId: 'reconcileSnapshot',
  tags: ['Snapshots'],
  summary: 'Recompute the snapshot now',
  description:
    'Recomputes the snapshot from what the source tables say and answers what it says then. A live booking without a ' +
    'snapshot gets one; a booking at its end without one stays without. A change is published by the pipeline at once. ' +
    'Takes no body.',
  middleware: [answerWithin(10_000), acceptNoBody] as const,
  request: { params: bookingIdParam, query: z.strictObject({}) },
  responses: {
    200: {
      description: 'The snapshot says what the source tables say.',
      content: {
        'application/json': {
          schema: z.object({
            success: z.literal(true),
            message: z.string().openapi({ example: 'the snapshot has changed' }),
            changed: z.boolean().openapi({ description: 'Whether a buyer can see a difference.' }),
            snapshot: snapshotSchema,
          }),
        },
      },
    },
    ...documentProblems([...ACTION_PROBLEMS, 'not_found', 'not_processable']),
  },
});

export function mountReconcileSnapshot(app: OpenAPIHono<ApiEnv>, ctx: RouteContext): void {
  app.openapi(route, async (c) => {
    const { booking_id } = c.req.valid('param');
    await crashPoint('api.before_reconcile');
    const [reconciled] = await reconcileBookings(ctx.pool, {
      bookingIds: [booking_id],
      now: ctx.clock?.(),
    });
    const snapshot = await findSnapshot(ctx.pool, booking_id);
    if (reconciled === undefined) throw await explainNothing(ctx, booking_id, snapshot !== undefined);
    if (snapshot === undefined) throw noSuchBooking();
    return c.json(
      {
        success: true as const,
        message: reconciled.changed ? 'the snapshot has changed' : 'the snapshot was up to date',
        changed: reconciled.changed,
        snapshot: toSnapshotResource(snapshot),
      },
      200,
    );
  });
}

const noSuchBooking = (): ProblemError =>
  new ProblemError('not_found', {
    detail: 'There is neither a snapshot nor a live booking of this id.',
  });

/** Reconcile answers nothing for what it has no snapshot of, and for what it has just parked. */
async function explainNothing(
  ctx: RouteContext,
  bookingId: string,
  hasSnapshot: boolean,
): Promise<ProblemError> {
  const trouble = await findTrouble(ctx.pool, bookingId);
  if (trouble?.parked === true && (hasSnapshot || (await bookingExists(ctx.pool, bookingId)))) {
    return new ProblemError('not_processable', {
      detail: `The snapshot cannot be computed: ${trouble.error ?? 'unknown error'}. It is parked.`,
    });
  }
  return noSuchBooking();
}
