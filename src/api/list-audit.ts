import { createRoute, type OpenAPIHono, z } from '@hono/zod-openapi';
import { listAudit } from '../store/audit.ts';
import { auditEntrySchema, toAuditResource } from './audit-resource.ts';
import type { ApiEnv, RouteContext } from './context.ts';
import { decodeNumber, encodeNumber, LIMIT_DEFAULT, nextCursor, pageParams } from './cursor.ts';
import { documentProblems, READ_PROBLEMS } from './problem.ts';
import { answerWithin } from './request-input.ts';
import { requireRole } from './role.ts';

const route = createRoute({
  method: 'get',
  path: '/pipeline/audit-log',
  operationId: 'listAudit',
  tags: ['Pipeline'],
  summary: 'Manual actions, newest first, page by page',
  description: 'Who did what by hand, through the API or in SQL, and why.',
  middleware: [requireRole('reader'), answerWithin(10_000)] as const,
  request: { query: z.strictObject(pageParams) },
  responses: {
    200: {
      description: 'A page of the audit log.',
      content: {
        'application/json': {
          schema: z.object({
            success: z.literal(true),
            actions: z.array(auditEntrySchema),
            next_cursor: nextCursor,
          }),
        },
      },
    },
    ...documentProblems(READ_PROBLEMS),
  },
});

export function mountListAudit(app: OpenAPIHono<ApiEnv>, ctx: RouteContext): void {
  app.openapi(route, async (c) => {
    const { cursor, limit } = c.req.valid('query');
    const page = await listAudit(ctx.pool, { before: decodeNumber(cursor), limit: limit ?? LIMIT_DEFAULT });
    return c.json(
      {
        success: true as const,
        actions: page.entries.map(toAuditResource),
        next_cursor: encodeNumber(page.next),
      },
      200,
    );
  });
}
