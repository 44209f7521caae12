import { createRoute, type OpenAPIHono, z } from '@hono/zod-openapi';
import { findSnapshot } from '../store/snapshots.ts';
import type { ApiEnv, RouteContext } from './context.ts';
import { READ_PROBLEMS, documentProblems, ProblemError } from './problem.ts';
import { answerWithin } from './request-input.ts';
import { requireRole } from './role.ts';
import { bookingIdParam, snapshotSchema, toSnapshotResource } from './snapshot-resource.ts';

const route = createRoute({
  method: 'get',
  path: '/storage-guard/snapshots/{booking_id}',
  operationId: 'getSnapshot',
  tags: ['Snapshots'],
  summary: "One booking's snapshot",
  middleware: [requireRole('reader'), answerWithin(10_000)] as const,
  request: { params: bookingIdParam, query: z.strictObject({}) },
  responses: {
    200: {
      description: 'The snapshot as it is now.',
      content: {
        'application/json': { schema: z.object({ success: z.literal(true), snapshot: snapshotSchema }) },
      },
    },
    ...documentProblems([...READ_PROBLEMS, 'not_found']),
  },
});

export function mountGetSnapshot(app: OpenAPIHono<ApiEnv>, ctx: RouteContext): void {
  app.openapi(route, async (c) => {
    const { booking_id } = c.req.valid('param');
    const snapshot = await findSnapshot(ctx.pool, booking_id);
    if (snapshot === undefined) {
      throw new ProblemError('not_found', { detail: 'There is no snapshot of this booking.' });
    }
    return c.json({ success: true as const, snapshot: toSnapshotResource(snapshot) }, 200);
  });
}
