import { createRoute, type OpenAPIHono, z } from '@hono/zod-openapi';
import { type Metrics, readMetrics } from '../store/metrics.ts';
import type { ApiContext, ApiEnv, RouteContext } from './context.ts';
import { describeDatabase } from './metric-database.ts';
import { describeProcess, watchEventLoop } from './metric-process.ts';
import { renderMetrics } from './metrics.ts';
import { createProbe, type Health, type Probe } from './probe.ts';
import { documentProblems } from './problem.ts';
import { requireRole } from './role.ts';

/** Below a scraper's patience (10 s), above what counting a backlog of a million snapshots takes (1.2 s measured). */
const READ_MS_MAX = 3_000;

const route = createRoute({
  method: 'get',
  path: '/metrics',
  operationId: 'getMetrics',
  tags: ['Health'],
  summary: 'Figures for Prometheus',
  description:
    'Read from PostgreSQL when asked, so that any process answers for all; requests, memory and event loop are those of ' +
    'the process that answers. While PostgreSQL does not answer, `market_sync_postgres_up` is 0 and its figures are left ' +
    'out. docs/operations.md lists them.',
  middleware: [requireRole('reader')] as const,
  request: { query: z.strictObject({}) },
  responses: {
    200: {
      description: "Prometheus' text format.",
      content: { 'text/plain': { schema: z.string() } },
    },
    ...documentProblems(['malformed_request', 'key_refused', 'wrong_host', 'internal_error']),
  },
});

export function mountMetrics(app: OpenAPIHono<ApiEnv>, ctx: RouteContext): void {
  const probeMetrics = createMetricsProbe(ctx);
  const counted = [...ctx.requestMeter.metrics, watchEventLoop()];
  app.openapi(route, async (c) => {
    const { metrics } = await probeMetrics();
    const families = [...describeDatabase(metrics), ...describeProcess()];
    const { text, contentType } = await renderMetrics({ families, counted });
    return c.text(text, 200, { 'content-type': contentType });
  });
}

type MetricsAnswer = Health & { metrics: Metrics | undefined };

const createMetricsProbe = ({ pool, log }: ApiContext): Probe<MetricsAnswer> =>
  createProbe<MetricsAnswer>(
    async () => ({ ok: true, detail: 'answers', metrics: await readMetrics(pool) }),
    { otherwise: (detail) => ({ ok: false, detail, metrics: undefined }), timeoutMs: READ_MS_MAX, log },
  );
