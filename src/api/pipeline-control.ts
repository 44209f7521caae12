import { createRoute, type OpenAPIHono, z } from '@hono/zod-openapi';
import type { MiddlewareHandler } from 'hono';
import { pausePipeline, resumePipeline, resyncAll } from '../store/manual-actions.ts';
import type { ApiEnv, RouteContext } from './context.ts';
import { act, withReason } from './manual-action.ts';
import { ACTION_PROBLEMS, documentProblems } from './problem.ts';
import { acceptJsonBody, acceptNoBody, answerWithin } from './request-input.ts';
import { requireRole } from './role.ts';

const guarded = (body: MiddlewareHandler<ApiEnv>): MiddlewareHandler<ApiEnv>[] => [
  requireRole('admin'),
  answerWithin(10_000),
  body,
];

const request = {
  query: z.strictObject({}),
  body: { required: true, content: { 'application/json': { schema: withReason } } },
};

const pauseRoute = createRoute({
  method: 'post',
  path: '/pipeline/pause',
  operationId: 'pausePipeline',
  tags: ['Pipeline'],
  summary: 'Stop everything that runs by itself, in every process',
  description:
    'Within a second nothing is recomputed from changes, refreshed, published or cleaned up. Changes wait in the ' +
    'replication slot, which keeps WAL for them: watch `slot_health`. Pausing a paused pipeline changes the reason.',
  middleware: guarded(acceptJsonBody),
  request,
  responses: {
    200: {
      description: 'It is paused.',
      content: {
        'application/json': {
          schema: z.object({
            success: z.literal(true),
            message: z.string().openapi({ example: 'the pipeline is paused' }),
            paused_at: z.string().openapi({ format: 'date-time', example: '2026-03-01T06:30:00.000Z' }),
          }),
        },
      },
    },
    ...documentProblems([...ACTION_PROBLEMS, 'bad_argument']),
  },
});

const doneSchema = z.object({
  success: z.literal(true),
  message: z.string().openapi({ example: 'the pipeline goes on' }),
});

const resumeRoute = createRoute({
  method: 'post',
  path: '/pipeline/resume',
  operationId: 'resumePipeline',
  tags: ['Pipeline'],
  summary: 'End a pause',
  description: 'What waited is worked off. Takes no body.',
  middleware: guarded(acceptNoBody),
  request: { query: z.strictObject({}) },
  responses: {
    200: { description: 'It goes on.', content: { 'application/json': { schema: doneSchema } } },
    ...documentProblems([...ACTION_PROBLEMS, 'conflict']),
  },
});

const resyncRoute = createRoute({
  method: 'post',
  path: '/pipeline/resync',
  operationId: 'resync',
  tags: ['Pipeline'],
  summary: 'Recompute everything',
  description:
    'Every snapshot is recomputed beside live work, and what has changed is published. `GET /pipeline/status` says how far ' +
    'it is. One that has not begun serves all who ask.',
  middleware: guarded(acceptJsonBody),
  request,
  responses: {
    200: {
      description: 'It is asked for.',
      content: {
        'application/json': {
          schema: doneSchema.extend({
            resync_id: z.int().openapi({ description: 'In `market_sync.resync`.', example: 3 }),
          }),
        },
      },
    },
    ...documentProblems([...ACTION_PROBLEMS, 'bad_argument']),
  },
});

export function mountPipelineControl(app: OpenAPIHono<ApiEnv>, ctx: RouteContext): void {
  app.openapi(pauseRoute, async (c) => {
    const { reason } = c.req.valid('json');
    const pausedAt = await act(ctx, c, (client) => pausePipeline(client, reason));
    return c.json(
      { success: true as const, message: 'the pipeline is paused', paused_at: pausedAt.toISOString() },
      200,
    );
  });
  app.openapi(resumeRoute, async (c) => {
    await act(ctx, c, resumePipeline);
    return c.json({ success: true as const, message: 'the pipeline goes on' }, 200);
  });
  app.openapi(resyncRoute, async (c) => {
    const { reason } = c.req.valid('json');
    const resyncId = await act(ctx, c, (client) => resyncAll(client, reason));
    return c.json(
      { success: true as const, message: 'everything is being recomputed', resync_id: resyncId },
      200,
    );
  });
}
