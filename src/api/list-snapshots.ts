import { createRoute, type OpenAPIHono, z } from '@hono/zod-openapi';
import { SNAPSHOT_STATUSES } from '../domain/snapshot.ts';
import { listSnapshots, type SnapshotFilter } from '../store/snapshots.ts';
import type { ApiEnv, RouteContext } from './context.ts';
import { encodeCursor, LIMIT_DEFAULT, nextCursor, pageParams, readPage } from './cursor.ts';
import { READ_PROBLEMS, documentProblems } from './problem.ts';
import { answerWithin } from './request-input.ts';
import { requireRole } from './role.ts';
import { snapshotSchema, toSnapshotResource } from './snapshot-resource.ts';

const querySchema = z.strictObject({
  status: z.enum(SNAPSHOT_STATUSES).optional(),
  farmer_id: z.guid('must be a UUID').optional(),
  location_id: z.guid('must be a UUID').optional(),
  crop_type: z
    .string()
    .min(1)
    .max(120)
    // PostgreSQL's text has no NUL.
    .regex(/^[^\0]*$/, 'must not contain NUL')
    .optional()
    .openapi({ description: 'Exactly as the booking has it.', example: 'Tomato' }),
  ...pageParams,
});

const route = createRoute({
  method: 'get',
  path: '/storage-guard/snapshots',
  operationId: 'listSnapshots',
  tags: ['Snapshots'],
  summary: 'Snapshots, newest first, page by page',
  description:
    'Every given filter must match. A page after a cursor begins where the page before ended, whatever was added meanwhile.',
  middleware: [requireRole('reader'), answerWithin(10_000)] as const,
  request: { query: querySchema },
  responses: {
    200: {
      description: 'A page of snapshots.',
      content: {
        'application/json': {
          schema: z.object({
            success: z.literal(true),
            snapshots: z.array(snapshotSchema),
            next_cursor: nextCursor,
          }),
        },
      },
    },
    ...documentProblems(READ_PROBLEMS),
  },
});

export function mountListSnapshots(app: OpenAPIHono<ApiEnv>, ctx: RouteContext): void {
  app.openapi(route, async (c) => {
    const { cursor, limit, ...filter } = c.req.valid('query');
    const page = await readPage(cursor, (after) =>
      listSnapshots(ctx.pool, {
        filter: toFilter(filter),
        after: after && { createdAt: after.at, bookingId: after.bookingId },
        limit: limit ?? LIMIT_DEFAULT,
      }),
    );
    return c.json(
      {
        success: true as const,
        snapshots: page.snapshots.map(toSnapshotResource),
        next_cursor: encodeCursor(page.next && { at: page.next.createdAt, bookingId: page.next.bookingId }),
      },
      200,
    );
  });
}

const toFilter = (query: Omit<z.output<typeof querySchema>, 'cursor' | 'limit'>): SnapshotFilter => ({
  ...(query.status === undefined ? {} : { status: query.status }),
  ...(query.farmer_id === undefined ? {} : { farmerId: query.farmer_id }),
  ...(query.location_id === undefined ? {} : { locationId: query.location_id }),
  ...(query.crop_type === undefined ? {} : { cropType: query.crop_type }),
});
