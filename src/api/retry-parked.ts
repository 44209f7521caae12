import { createRoute, type OpenAPIHono, z } from '@hono/zod-openapi';
import { findPause } from '../store/manual-actions.ts';
import { findParked, type Parked, retryParked } from '../store/parked.ts';
import { publishBatch } from '../store/publish.ts';
import { reconcileBookings } from '../store/reconcile.ts';
import { bookingExists, findSnapshot } from '../store/snapshots.ts';
import type { ApiEnv, RouteContext } from './context.ts';
import { act } from './manual-action.ts';
import { ACTION_PROBLEMS, documentProblems, ProblemError } from './problem.ts';
import { acceptNoBody, answerWithin } from './request-input.ts';
import { requireRole } from './role.ts';
import { bookingIdParam } from './snapshot-resource.ts';

const outcomeSchema = z
  .object({
    success: z.literal(true),
    outcome: z.enum(['published', 'released', 'failed', 'parked']).openapi({
      description:
        '`published`: MongoDB has confirmed the newest listing. `released`: the pipeline goes on with it. ' +
        '`failed`: failed again, and is tried again by itself. `parked`: failed again, and is parked again.',
    }),
    message: z.string().openapi({ example: 'the listing is published at revision 7' }),
    error: z.string().optional().openapi({ description: 'Why it failed again.' }),
  })
  .openapi('RetryOutcome');

type RetryOutcome = Omit<z.infer<typeof outcomeSchema>, 'success'>;

const route = createRoute({
  method: 'post',
  path: '/pipeline/parked/{booking_id}/retry',
  operationId: 'retryParked',
  tags: ['Pipeline'],
  summary: 'Try a parked booking again',
  description:
    'Gives it one more round of attempts and makes the first one now: recomputes the snapshot if that is what failed, then ' +
    'writes the listing at its newest revision. Takes no body.',
  middleware: [requireRole('operator'), answerWithin(5_000), acceptNoBody] as const,
  request: { params: bookingIdParam, query: z.strictObject({}) },
  responses: {
    200: {
      description: 'It is not parked any more, or failed again.',
      content: { 'application/json': { schema: outcomeSchema } },
    },
    ...documentProblems([...ACTION_PROBLEMS, 'not_found', 'not_parked']),
  },
});

export function mountRetryParked(app: OpenAPIHono<ApiEnv>, ctx: RouteContext): void {
  app.openapi(route, async (c) => {
    const { booking_id } = c.req.valid('param');
    const release = (id: string) => act(ctx, c, (client) => retryParked(client, [id]));
    const parked = await findParked(ctx.pool, booking_id);
    // Of two who ask at once, one releases it.
    if (parked === undefined || (await release(booking_id)) === 0) {
      throw await explainNotParked(ctx, booking_id);
    }
    return c.json({ success: true as const, ...(await tryNow(ctx, parked)) }, 200);
  });
}

async function explainNotParked(ctx: RouteContext, bookingId: string): Promise<ProblemError> {
  const known =
    (await findSnapshot(ctx.pool, bookingId)) !== undefined || (await bookingExists(ctx.pool, bookingId));
  return known
    ? new ProblemError('not_parked', { detail: 'This booking is not parked: there is nothing to retry.' })
    : new ProblemError('not_found', { detail: 'There is neither a snapshot nor a booking of this id.' });
}

/** The first attempt of the new round. What it does not come to is the pipeline's: the snapshot is released already. */
async function tryNow(ctx: RouteContext, { booking_id: bookingId, stage }: Parked): Promise<RetryOutcome> {
  if (stage === 'reconcile') {
    await reconcileBookings(ctx.pool, { bookingIds: [bookingId], now: ctx.clock?.() });
    const again = await findParked(ctx.pool, bookingId);
    if (again !== undefined) {
      return { outcome: 'parked', message: 'the snapshot cannot be computed', error: again.error };
    }
  }
  if ((await findPause(ctx.pool)) !== undefined) {
    return { outcome: 'released', message: 'it is published when the pipeline is resumed' };
  }
  const market = await ctx.probeMarket();
  if (!market.ok) {
    return { outcome: 'released', message: 'it is published when MongoDB can be had again' };
  }
  const attempt = await publishBatch(ctx.publish, { limit: 1, bookingIds: [bookingId] });
  const result = attempt.outcome === 'published' ? attempt.results[0] : undefined;
  if (result === undefined) return { outcome: 'released', message: 'the pipeline goes on with it' };
  if (result.result === 'published') {
    return { outcome: 'published', message: `the listing is published at revision ${result.revision}` };
  }
  const fate = result.result === 'parked' ? 'it is parked again' : 'it will be tried again';
  return {
    outcome: result.result,
    message: `the listing cannot be written, ${fate}`,
    error: result.error,
  };
}
