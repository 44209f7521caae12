import { createRoute, type OpenAPIHono, z } from '@hono/zod-openapi';
import { sqlStateOf } from '../postgres.ts';
import { listSnapshots, type SnapshotCursor, type SnapshotPage } from '../store/snapshots.ts';
import type { ApiEnv, RouteContext } from './context.ts';
import { decodeCursor, encodeCursor } from './cursor.ts';
import { documentProblems, ProblemError } from './problem.ts';
import { answerWithin } from './request-input.ts';
import { SNAPSHOT_STATUSES, snapshotSchema, toSnapshotResource } from './snapshot-resource.ts';

const LIMIT_DEFAULT = 50;
const LIMIT_MAX = 200;

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
  limit: z
    .string()
    .regex(/^\d{1,3}$/, `must be a whole number from 1 to ${LIMIT_MAX}`)
    .transform(Number)
    .pipe(z.int().min(1).max(LIMIT_MAX))
    .optional()
    .openapi({
      type: 'integer',
      minimum: 1,
      maximum: LIMIT_MAX,
      default: LIMIT_DEFAULT,
      description: 'Most snapshots on a page.',
    }),
  cursor: z
    .string()
    .max(200)
    .optional()
    .openapi({ description: '`next_cursor` of the page before, unchanged.' }),
});

const route = createRoute({
  method: 'get',
  path: '/storage-guard/snapshots',
  operationId: 'listSnapshots',
  tags: ['Snapshots'],
  summary: 'Snapshots, newest first, page by page',
  description:
    'Every given filter must match. A page after a cursor begins where the page before ended, whatever was added meanwhile.',
  middleware: [answerWithin(10_000)] as const,
  request: { query: querySchema },
  responses: {
    200: {
      description: 'A page of snapshots.',
      content: {
        'application/json': {
          schema: z.object({
            success: z.literal(true),
            snapshots: z.array(snapshotSchema),
            next_cursor: z
              .string()
              .nullable()
              .openapi({ description: 'Where the next page begins; null after the last one.' }),
          }),
        },
      },
    },
    ...documentProblems([
      'malformed_request',
      'key_refused',
      'wrong_host',
      'internal_error',
      'database_unavailable',
      'timed_out',
    ]),
  },
});

export function mountListSnapshots(app: OpenAPIHono<ApiEnv>, ctx: RouteContext): void {
  app.openapi(route, async (c) => {
    const query = c.req.valid('query');
    const page = await readPage(ctx, query);
    return c.json(
      {
        success: true as const,
        snapshots: page.snapshots.map(toSnapshotResource),
        next_cursor: page.next === undefined ? null : encodeCursor(page.next),
      },
      200,
    );
  });
}

async function readPage(ctx: RouteContext, query: z.output<typeof querySchema>): Promise<SnapshotPage> {
  const after = readCursor(query.cursor);
  try {
    return await listSnapshots(ctx.pool, {
      filter: {
        ...(query.status === undefined ? {} : { status: query.status }),
        ...(query.farmer_id === undefined ? {} : { farmerId: query.farmer_id }),
        ...(query.location_id === undefined ? {} : { locationId: query.location_id }),
        ...(query.crop_type === undefined ? {} : { cropType: query.crop_type }),
      },
      after,
      limit: query.limit ?? LIMIT_DEFAULT,
    });
  } catch (error) {
    // A cursor made by hand may hold a time that no calendar has: invalid_datetime_format, datetime_field_overflow.
    const state = sqlStateOf(error);
    if (after !== undefined && (state === '22007' || state === '22008')) throw malformedCursor();
    throw error;
  }
}

function readCursor(text: string | undefined): SnapshotCursor | undefined {
  if (text === undefined) return undefined;
  const cursor = decodeCursor(text);
  if (cursor === undefined) throw malformedCursor();
  return cursor;
}

const malformedCursor = (): ProblemError =>
  new ProblemError('malformed_request', {
    detail: 'query: cursor is none that was given out',
    errors: [{ in: 'query', name: 'cursor', message: 'is none that was given out' }],
  });
