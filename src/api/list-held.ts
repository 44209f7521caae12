import { createRoute, type OpenAPIHono, z } from '@hono/zod-openapi';
import { toIso } from '../domain/snapshot.ts';
import { type ListedManualState, listManualStates } from '../store/manual-states.ts';
import type { ApiEnv, RouteContext } from './context.ts';
import { encodeCursor, LIMIT_DEFAULT, nextCursor, pageParams, readPage } from './cursor.ts';
import { documentProblems, READ_PROBLEMS } from './problem.ts';
import { answerWithin } from './request-input.ts';
import { requireRole } from './role.ts';
import { manualStateSchema } from './snapshot-resource.ts';

const heldSchema = z
  .object({
    booking_id: z.guid().openapi({ format: 'uuid' }),
    crop_type: z.string().nullable().openapi({ description: 'Null without a snapshot.', example: 'Tomato' }),
    ...manualStateSchema.shape,
  })
  .openapi('Held', { description: 'A booking that a person has taken off the market.' });

const route = createRoute({
  method: 'get',
  path: '/pipeline/held',
  operationId: 'listHeld',
  tags: ['Pipeline'],
  summary: 'Bookings taken off the market by hand, the latest first, page by page',
  middleware: [requireRole('reader'), answerWithin(10_000)] as const,
  request: {
    query: z.strictObject({
      state: z.enum(['held', 'withdrawn']).optional().openapi({ description: '`held` unless given.' }),
      ...pageParams,
    }),
  },
  responses: {
    200: {
      description: 'A page of them.',
      content: {
        'application/json': {
          schema: z.object({
            success: z.literal(true),
            held: z.array(heldSchema),
            next_cursor: nextCursor,
          }),
        },
      },
    },
    ...documentProblems(READ_PROBLEMS),
  },
});

export function mountListHeld(app: OpenAPIHono<ApiEnv>, ctx: RouteContext): void {
  app.openapi(route, async (c) => {
    const { cursor, limit, state } = c.req.valid('query');
    const page = await readPage(cursor, (after) =>
      listManualStates(ctx.pool, {
        state: state ?? 'held',
        after: after && { since: after.at, bookingId: after.bookingId },
        limit: limit ?? LIMIT_DEFAULT,
      }),
    );
    return c.json(
      {
        success: true as const,
        held: page.listed.map(toResource),
        next_cursor: encodeCursor(page.next && { at: page.next.since, bookingId: page.next.bookingId }),
      },
      200,
    );
  });
}

const toResource = (entry: ListedManualState): z.infer<typeof heldSchema> => ({
  booking_id: entry.booking_id,
  crop_type: entry.crop_type,
  state: entry.state,
  reason: entry.reason,
  actor: entry.actor,
  since: toIso(entry.since),
});
