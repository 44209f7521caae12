import { createRoute, type OpenAPIHono, z } from '@hono/zod-openapi';
import type pg from 'pg';
import { crashPoint } from '../crash-point.ts';
import { reconcileNow } from '../store/manual-actions.ts';
import type { Reconciled } from '../store/reconcile.ts';
import { bookingExists, findSnapshot, findTrouble } from '../store/snapshots.ts';
import type { ApiEnv, RouteContext } from './context.ts';
import { act, sayWhen } from './manual-action.ts';
import { ACTION_PROBLEMS, documentProblems, ProblemError } from './problem.ts';
import { acceptNoBody, answerWithin } from './request-input.ts';
import { requireRole } from './role.ts';
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
  middleware: [requireRole('operator'), answerWithin(10_000), acceptNoBody] as const,
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
    const reconciled = await act(ctx, c, (client) => reconcile(ctx, client, booking_id));
    const snapshot = await findSnapshot(ctx.pool, booking_id);
    if (reconciled === undefined) throw await explainParked(ctx, booking_id);
    if (snapshot === undefined) throw noSuchBooking();
    return c.json(
      {
        success: true as const,
        message: reconciled.changed
          ? await sayWhen(ctx, 'the snapshot has changed')
          : 'the snapshot was up to date',
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

/** Undefined: its data cannot be processed, and it has just been parked. Nothing is audited for what nobody knows. */
async function reconcile(
  ctx: RouteContext,
  client: pg.PoolClient,
  bookingId: string,
): Promise<Reconciled | undefined> {
  const [reconciled] = await reconcileNow(client, { bookingIds: [bookingId], now: ctx.clock?.() });
  if (reconciled !== undefined) return reconciled;
  const known =
    (await findSnapshot(client, bookingId)) !== undefined || (await bookingExists(client, bookingId));
  if (!known || (await findTrouble(client, bookingId))?.parked !== true) throw noSuchBooking();
  return undefined;
}

async function explainParked({ pool }: RouteContext, bookingId: string): Promise<ProblemError> {
  const trouble = await findTrouble(pool, bookingId);
  return new ProblemError('not_processable', {
    detail: `The snapshot cannot be computed: ${trouble?.error ?? 'unknown error'}. It is parked.`,
  });
}
