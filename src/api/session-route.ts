import { createRoute, type OpenAPIHono, z } from '@hono/zod-openapi';
import { ROLES } from '../store/api-keys.ts';
import type { ApiEnv } from './context.ts';
import { documentProblems, keyRefused, READ_PROBLEMS } from './problem.ts';
import { requireRole } from './role.ts';

const route = createRoute({
  method: 'get',
  path: '/session',
  operationId: 'getSession',
  tags: ['Session'],
  summary: 'Who this key is, and what it may do',
  middleware: [requireRole('reader')] as const,
  request: { query: z.strictObject({}) },
  responses: {
    200: {
      description: 'The caller.',
      content: {
        'application/json': {
          schema: z.object({
            success: z.literal(true),
            name: z.string().openapi({
              description:
                'As manual actions are audited: name of the key, `API_KEY`, `oidc:SUBJECT`, or `local` without a key.',
              example: 'night shift',
            }),
            role: z.enum(ROLES).openapi({ description: 'Each role may all that the ones before it may.' }),
            key_required: z.boolean().openapi({ description: 'Whether calls without a key are refused.' }),
            expires_at: z.string().nullable().openapi({
              format: 'date-time',
              description: 'When the key or token ends; null when it does not.',
              example: '2026-12-31T00:00:00.000Z',
            }),
          }),
        },
      },
    },
    ...documentProblems(READ_PROBLEMS),
  },
});

export function mountSession(app: OpenAPIHono<ApiEnv>): void {
  app.openapi(route, (c) => {
    const caller = c.get('caller');
    if (caller === undefined) throw keyRefused();
    return c.json(
      {
        success: true as const,
        name: caller.name,
        role: caller.role,
        key_required: c.get('keyRequired'),
        expires_at: caller.expiresAt?.toISOString() ?? null,
      },
      200,
    );
  });
}
