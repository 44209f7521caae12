import { createRoute, type OpenAPIHono, z } from '@hono/zod-openapi';
import type { Context, MiddlewareHandler } from 'hono';
import type pg from 'pg';
import { holdBookings, releaseBookings, withdrawBookings } from '../store/manual-actions.ts';
import type { ApiEnv, RouteContext } from './context.ts';
import { act, readSnapshot, reasonField, sayWhen, withReason } from './manual-action.ts';
import { ACTION_PROBLEMS, documentProblems } from './problem.ts';
import { acceptJsonBody, answerWithin } from './request-input.ts';
import { requireRole } from './role.ts';
import { bookingIdParam, snapshotSchema } from './snapshot-resource.ts';

const ANSWER_MS_MAX = 10_000;

const doneSchema = z
  .object({
    success: z.literal(true),
    message: z.string().openapi({ example: 'the listing is off the market' }),
    snapshot: snapshotSchema.nullable().openapi({
      description:
        'As it is now; null when the booking has none (it cannot be computed, or ended without one).',
    }),
  })
  .openapi('ManualActionDone');

const withOptionalReason = z.strictObject({ reason: reasonField.optional() }).openapi('WithOptionalReason');

const responses = {
  200: { description: 'Done and audited.', content: { 'application/json': { schema: doneSchema } } },
  ...documentProblems([...ACTION_PROBLEMS, 'not_found', 'conflict', 'bad_argument']),
};

const middleware: MiddlewareHandler<ApiEnv>[] = [
  requireRole('operator'),
  answerWithin(ANSWER_MS_MAX),
  acceptJsonBody,
];

const common = {
  method: 'post' as const,
  tags: ['Snapshots'],
  middleware,
  responses,
};

const holdRoute = createRoute({
  ...common,
  path: '/storage-guard/snapshots/{booking_id}/hold',
  operationId: 'holdSnapshot',
  summary: 'Take the listing off the market until it is released',
  description:
    'The listing gets the status `held`; its content goes on following the source. A hold wins over every change, sweep ' +
    'and sync-all, whatever comes first. Holding a held one changes the reason.',
  request: {
    params: bookingIdParam,
    query: z.strictObject({}),
    body: { required: true, content: { 'application/json': { schema: withReason } } },
  },
});

const withdrawRoute = createRoute({
  ...common,
  path: '/storage-guard/snapshots/{booking_id}/withdraw',
  operationId: 'withdrawSnapshot',
  summary: 'Withdraw the listing as if the booking were cancelled',
  description:
    'The snapshot is frozen with the status `withdrawn`, and cleaned up after the retention. Only a release brings it back.',
  request: {
    params: bookingIdParam,
    query: z.strictObject({}),
    body: { required: true, content: { 'application/json': { schema: withReason } } },
  },
});

const releaseRoute = createRoute({
  ...common,
  path: '/storage-guard/snapshots/{booking_id}/release',
  operationId: 'releaseSnapshot',
  summary: 'End the hold, or the withdrawal by hand',
  description: 'The snapshot says again what the source tables say, and is published.',
  request: {
    params: bookingIdParam,
    query: z.strictObject({}),
    body: { required: false, content: { 'application/json': { schema: withOptionalReason } } },
  },
});

export function mountTakeOffMarket(app: OpenAPIHono<ApiEnv>, ctx: RouteContext): void {
  const done = async (
    c: Context<ApiEnv>,
    bookingId: string,
    { message, work }: { message: string; work: (client: pg.PoolClient) => Promise<void> },
  ): Promise<z.infer<typeof doneSchema>> => {
    await act(ctx, c, work);
    return {
      success: true,
      message: await sayWhen(ctx, message),
      snapshot: await readSnapshot(ctx, bookingId),
    };
  };
  app.openapi(holdRoute, async (c) => {
    const { booking_id } = c.req.valid('param');
    const { reason } = c.req.valid('json');
    const work = (client: pg.PoolClient) => holdBookings(client, { bookingIds: [booking_id], reason });
    return c.json(await done(c, booking_id, { message: 'the listing is held', work }), 200);
  });
  app.openapi(withdrawRoute, async (c) => {
    const { booking_id } = c.req.valid('param');
    const { reason } = c.req.valid('json');
    const work = (client: pg.PoolClient) => withdrawBookings(client, { bookingIds: [booking_id], reason });
    return c.json(await done(c, booking_id, { message: 'the listing is withdrawn', work }), 200);
  });
  app.openapi(releaseRoute, async (c) => {
    const { booking_id } = c.req.valid('param');
    const { reason } = c.req.valid('json');
    const work = (client: pg.PoolClient) => releaseBookings(client, { bookingIds: [booking_id], reason });
    return c.json(await done(c, booking_id, { message: 'the listing is released', work }), 200);
  });
}
