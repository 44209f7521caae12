import { createRoute, type OpenAPIHono, z } from '@hono/zod-openapi';
import { listAudit, listRevisions } from '../store/audit.ts';
import { bookingExists, findSnapshot } from '../store/snapshots.ts';
import { auditEntrySchema, revisionSchema, toAuditResource, toRevisionResource } from './audit-resource.ts';
import type { ApiEnv, RouteContext } from './context.ts';
import { decodeNumber, encodeNumber, LIMIT_DEFAULT, nextCursor, pageParams } from './cursor.ts';
import { documentProblems, ProblemError, READ_PROBLEMS } from './problem.ts';
import { answerWithin } from './request-input.ts';
import { requireRole } from './role.ts';
import { bookingIdParam } from './snapshot-resource.ts';

const route = createRoute({
  method: 'get',
  path: '/storage-guard/snapshots/{booking_id}/history',
  operationId: 'getHistory',
  tags: ['Snapshots'],
  summary: "A booking's revisions and manual actions",
  description:
    'The last revisions of the snapshot (16 are kept), and what people did to the booking by hand, newest first, page by ' +
    'page. Revisions are on the first page only.',
  middleware: [requireRole('reader'), answerWithin(10_000)] as const,
  request: { params: bookingIdParam, query: z.strictObject(pageParams) },
  responses: {
    200: {
      description: 'What became of the booking.',
      content: {
        'application/json': {
          schema: z.object({
            success: z.literal(true),
            revisions: z.array(revisionSchema),
            actions: z.array(auditEntrySchema),
            next_cursor: nextCursor,
          }),
        },
      },
    },
    ...documentProblems([...READ_PROBLEMS, 'not_found']),
  },
});

export function mountBookingHistory(app: OpenAPIHono<ApiEnv>, ctx: RouteContext): void {
  app.openapi(route, async (c) => {
    const { booking_id: bookingId } = c.req.valid('param');
    const { cursor, limit } = c.req.valid('query');
    const before = decodeNumber(cursor);
    const page = await listAudit(ctx.pool, { bookingId, before, limit: limit ?? LIMIT_DEFAULT });
    const revisions = before === undefined ? await listRevisions(ctx.pool, bookingId) : [];
    if (page.entries.length === 0 && revisions.length === 0 && !(await isKnown(ctx, bookingId))) {
      throw new ProblemError('not_found', { detail: 'Nothing is known of this booking.' });
    }
    return c.json(
      {
        success: true as const,
        revisions: revisions.map(toRevisionResource),
        actions: page.entries.map(toAuditResource),
        next_cursor: encodeNumber(page.next),
      },
      200,
    );
  });
}

const isKnown = async ({ pool }: RouteContext, bookingId: string): Promise<boolean> =>
  (await findSnapshot(pool, bookingId)) !== undefined || (await bookingExists(pool, bookingId));
