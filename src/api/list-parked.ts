import { createRoute, type OpenAPIHono, z } from '@hono/zod-openapi';
import { listParked } from '../store/parked.ts';
import type { ApiEnv, RouteContext } from './context.ts';
import { encodeCursor, LIMIT_DEFAULT, nextCursor, pageParams, readPage } from './cursor.ts';
import { parkedSchema, toParkedResource } from './parked-resource.ts';
import { READ_PROBLEMS, documentProblems } from './problem.ts';
import { answerWithin } from './request-input.ts';
import { requireRole } from './role.ts';

const route = createRoute({
  method: 'get',
  path: '/pipeline/parked',
  operationId: 'listParked',
  tags: ['Pipeline'],
  summary: 'Parked bookings, the last parked first, page by page',
  description:
    'What failed too often and is left alone until it is retried or its booking changes, with the last error. ' +
    'A parked booking holds up nobody else.',
  middleware: [requireRole('reader'), answerWithin(10_000)] as const,
  request: { query: z.strictObject(pageParams) },
  responses: {
    200: {
      description: 'A page of parked bookings.',
      content: {
        'application/json': {
          schema: z.object({
            success: z.literal(true),
            parked: z.array(parkedSchema),
            next_cursor: nextCursor,
          }),
        },
      },
    },
    ...documentProblems(READ_PROBLEMS),
  },
});

export function mountListParked(app: OpenAPIHono<ApiEnv>, ctx: RouteContext): void {
  app.openapi(route, async (c) => {
    const { cursor, limit } = c.req.valid('query');
    const page = await readPage(cursor, (after) =>
      listParked(ctx.pool, {
        after: after && { parkedAt: after.at, bookingId: after.bookingId },
        limit: limit ?? LIMIT_DEFAULT,
      }),
    );
    return c.json(
      {
        success: true as const,
        parked: page.parked.map(toParkedResource),
        next_cursor: encodeCursor(page.next && { at: page.next.parkedAt, bookingId: page.next.bookingId }),
      },
      200,
    );
  });
}
