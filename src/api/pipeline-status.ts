import { createRoute, type OpenAPIHono, z } from '@hono/zod-openapi';
import { readStatus } from '../store/status.ts';
import type { ApiEnv, RouteContext } from './context.ts';
import { documentProblems, READ_PROBLEMS } from './problem.ts';
import { answerWithin } from './request-input.ts';
import { requireRole } from './role.ts';

const time = () =>
  z.string().nullable().openapi({ format: 'date-time', example: '2026-03-01T06:30:00.000Z' });
const figure = () => z.number().nullable();

const queueSchema = z.object({
  state: z.enum(['to_publish', 'in_work', 'waiting_for_retry', 'parked', 'held', 'due_for_refresh']),
  count: z.int(),
  oldest_at: time(),
  oldest_seconds: figure(),
});

const latencySchema = z
  .object({
    stage: z.enum(['snapshot', 'listing']).openapi({
      description: 'From the commit to the snapshot, and to MongoDB having confirmed the listing.',
    }),
    window_minutes: z.union([z.literal(1), z.literal(15), z.literal(60)]),
    count: z.int(),
    p50_ms: figure(),
    p95_ms: figure(),
    p99_ms: figure(),
    max_ms: figure(),
  })
  .openapi('Latency', { description: 'Percentiles are upper bounds; null while nothing was measured.' });

const statusSchema = z
  .object({
    consumer: z.object({
      state: z.enum(['active', 'absent']).openapi({ description: '`absent`: none shows signs of life.' }),
      holder: z.string().nullable().openapi({ example: 'sync-1:4711' }),
    }),
    paused: z
      .object({ at: time(), by: z.string().nullable(), reason: z.string().nullable() })
      .nullable()
      .openapi({ description: 'Null unless somebody has paused the pipeline.' }),
    slot: z
      .object({
        name: z.string().nullable(),
        state: z.enum(['ok', 'filling', 'lost', 'missing', 'none']),
        active: z.boolean(),
        active_pid: z.int().nullable(),
        wal_status: z.string().nullable().openapi({ example: 'reserved' }),
        retained_wal_bytes: figure(),
        safe_wal_bytes: figure().openapi({
          description:
            'What may still be written before the slot is in danger; null where nothing limits it.',
        }),
      })
      .openapi({ description: 'The replication slot.' }),
    checkpoint: z.object({
      commit_lsn: z.string().nullable().openapi({ example: '0/1A2B3C4' }),
      advanced_at: time(),
      lag_bytes: figure(),
      lag_seconds: figure(),
      epoch: z.int(),
      malformed_messages: z.int(),
    }),
    publisher: z.object({
      claims: z.int().openapi({ description: 'Snapshots being written to MongoDB now.' }),
      last_confirmed_at: time(),
      behind_seconds: figure().openapi({
        description: 'Age of the oldest change that MongoDB has not confirmed.',
      }),
    }),
    snapshots: z
      .object({
        total: z.int(),
        on_market: z.int().openapi({ description: 'Neither ended nor held.' }),
        ended: z.int().openapi({ description: 'Completed or withdrawn.' }),
        to_publish: z.int(),
        parked: z.int(),
        held: z.int(),
        due_for_refresh: z.int(),
      })
      .openapi({ description: '`total` and `ended` are estimates beyond 100,000.' }),
    resync: z
      .object({
        id: z.int(),
        reason: z.string(),
        phase: z.string(),
        bookings_done: z.int(),
        requested_at: time(),
      })
      .nullable()
      .openapi({ description: 'The recompute of everything that is under way.' }),
    versions: z.object({
      migration: z.string(),
      postgres: z.string(),
      pg_boss: z.int().nullable(),
    }),
    queue: z.array(queueSchema),
    latency: z.array(latencySchema),
  })
  .openapi('PipelineStatus', { description: 'How everything stands. Null: not known, or there is none.' });

const route = createRoute({
  method: 'get',
  path: '/pipeline/status',
  operationId: 'getStatus',
  tags: ['Pipeline'],
  summary: 'How everything stands',
  description: 'What `market-sync status` says, and the view `market_sync.status` in SQL.',
  middleware: [requireRole('reader'), answerWithin(10_000)] as const,
  request: { query: z.strictObject({}) },
  responses: {
    200: {
      description: 'The status of one moment.',
      content: {
        'application/json': { schema: z.object({ success: z.literal(true), status: statusSchema }) },
      },
    },
    ...documentProblems(READ_PROBLEMS),
  },
});

export function mountPipelineStatus(app: OpenAPIHono<ApiEnv>, { pool }: RouteContext): void {
  app.openapi(route, async (c) => {
    const status = await readStatus(pool);
    return c.json({ success: true as const, status }, 200);
  });
}
