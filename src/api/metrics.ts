import { createRoute, type OpenAPIHono, z } from '@hono/zod-openapi';
import { Counter, Gauge, Registry } from 'prom-client';
import { type Metrics, readMetrics } from '../store/metrics.ts';
import type { ApiContext, ApiEnv, RouteContext } from './context.ts';
import { createProbe, type Health, type Probe } from './probe.ts';
import { documentProblems } from './problem.ts';

/** Well below a scraper's patience, and that of whoever holds up the scrape. */
const READ_MS_MAX = 700;

interface Metric {
  name: string;
  help: string;
  kind: 'gauge' | 'counter';
  /** Null leaves the metric out: a zero would be a lie. */
  read: (metrics: Metrics) => number | null;
}

const OF_THE_DATABASE: Metric[] = [
  {
    name: 'market_sync_parked',
    help: 'Snapshots that failed too often and are left alone until they are retried or change.',
    kind: 'gauge',
    read: (metrics) => metrics.parked,
  },
  {
    name: 'market_sync_to_publish',
    help: 'Snapshots whose newest revision MongoDB has not confirmed yet, without parked ones.',
    kind: 'gauge',
    read: (metrics) => metrics.to_publish,
  },
  {
    name: 'market_sync_epoch',
    help: 'Epoch in force. It rises when history was cut: changes may have been lost or undone.',
    kind: 'gauge',
    read: (metrics) => metrics.epoch,
  },
  {
    name: 'market_sync_resyncs_total',
    help: 'Recomputes of everything that were asked for, the first start included.',
    kind: 'counter',
    read: (metrics) => metrics.resyncs,
  },
  {
    name: 'market_sync_resync_open',
    help: '1 while everything is being recomputed, else 0.',
    kind: 'gauge',
    read: (metrics) => Number(metrics.resync_open),
  },
  {
    name: 'market_sync_consumer_alive',
    help: '1 while a consumer shows signs of life, else 0.',
    kind: 'gauge',
    read: (metrics) => Number(metrics.consumer_alive),
  },
  {
    name: 'market_sync_lag_bytes',
    help: 'WAL written since the checkpoint.',
    kind: 'gauge',
    read: (metrics) => metrics.lag_bytes,
  },
  {
    name: 'market_sync_slot_active',
    help: '1 while the replication slot is streamed from, 0 when it is not or is missing.',
    kind: 'gauge',
    read: (metrics) => Number(metrics.slot_active),
  },
  {
    name: 'market_sync_slot_retained_wal_bytes',
    help: 'WAL that PostgreSQL keeps for the replication slot; absent without a slot that can be used.',
    kind: 'gauge',
    read: (metrics) => metrics.slot_retained_wal_bytes,
  },
  {
    name: 'market_sync_slot_safe_wal_bytes',
    help: 'WAL that may still be written before the replication slot is in danger of being lost; absent where max_slot_wal_keep_size sets no limit.',
    kind: 'gauge',
    read: (metrics) => metrics.slot_safe_wal_bytes,
  },
  {
    name: 'market_sync_malformed_messages_total',
    help: 'Messages on the change stream that nobody could parse; they were skipped.',
    kind: 'counter',
    read: (metrics) => metrics.malformed_messages,
  },
];

const OF_THE_PROCESS: { name: string; help: string; read: () => number }[] = [
  {
    name: 'process_resident_memory_bytes',
    help: 'Memory of this process that is in RAM.',
    read: () => process.memoryUsage.rss(),
  },
  {
    name: 'nodejs_heap_size_used_bytes',
    help: "Memory of this process that is in use on JavaScript's heap.",
    read: () => process.memoryUsage().heapUsed,
  },
  {
    name: 'nodejs_external_memory_bytes',
    help: "Memory of this process that JavaScript's objects hold outside of the heap.",
    read: () => process.memoryUsage().external,
  },
  {
    name: 'process_start_time_seconds',
    help: 'When this process started, in seconds since 1970.',
    read: () => performance.timeOrigin / 1000,
  },
];

const route = createRoute({
  method: 'get',
  path: '/metrics',
  operationId: 'getMetrics',
  tags: ['Health'],
  summary: 'Figures for Prometheus',
  description:
    'Read from PostgreSQL when asked, so that any process answers for all; memory is that of the process that answers. ' +
    'While PostgreSQL does not answer, `market_sync_postgres_up` is 0 and its figures are left out.',
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
  app.openapi(route, async (c) => {
    const { metrics } = await probeMetrics();
    const registry = fillRegistry(metrics);
    return c.text(await registry.metrics(), 200, { 'content-type': registry.contentType });
  });
}

type MetricsAnswer = Health & { metrics: Metrics | undefined };

const createMetricsProbe = ({ pool, log }: ApiContext): Probe<MetricsAnswer> =>
  createProbe<MetricsAnswer>(
    async () => ({ ok: true, detail: 'answers', metrics: await readMetrics(pool) }),
    { otherwise: (detail) => ({ ok: false, detail, metrics: undefined }), timeoutMs: READ_MS_MAX, log },
  );

/** A registry for one answer: nothing is kept, so nothing can be stale or counted twice. */
function fillRegistry(metrics: Metrics | undefined): Registry {
  const registry = new Registry();
  const registers = [registry];
  const set = ({ name, help }: { name: string; help: string }, value: number): void =>
    new Gauge({ name, help, registers }).set(value);
  const up = { name: 'market_sync_postgres_up', help: '1 when PostgreSQL answered this scrape, else 0.' };
  set(up, Number(metrics !== undefined));
  for (const { name, help, kind, read } of OF_THE_DATABASE) {
    const value = metrics === undefined ? null : read(metrics);
    if (value === null) continue;
    if (kind === 'counter') new Counter({ name, help, registers }).inc(value);
    else set({ name, help }, value);
  }
  for (const metric of OF_THE_PROCESS) set(metric, metric.read());
  return registry;
}
