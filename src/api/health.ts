import { createRoute, type OpenAPIHono, z } from '@hono/zod-openapi';
import { findMissing } from '../migrate.ts';
import { query } from '../postgres.ts';
import { readCheckpoint } from '../store/checkpoint.ts';
import { findPause } from '../store/manual-actions.ts';
import { findOpenResync } from '../store/resync.ts';
import { readSlotHealth, type SlotHealth } from '../store/slot-health.ts';
import type { ApiContext, ApiEnv, RouteContext } from './context.ts';
import { createProbe, type Health, type Probe } from './probe.ts';
import { documentProblems } from './problem.ts';

/** Less than the second in which publishing promises an answer. */
const PROBE_MS_MAX = 700;

/** Whether MongoDB answers. It is asked, not remembered: a driver learns of a server's end late. */
export const createMarketProbe = ({ market, log }: ApiContext): Probe =>
  createProbe<Health>(
    async () => {
      await market.client.db('admin').command({ ping: 1 });
      return { ok: true, detail: market.server.standIn ? 'the embedded stand-in answers' : 'answers' };
    },
    { otherwise: (detail) => ({ ok: false, detail }), timeoutMs: PROBE_MS_MAX, log },
  );

export const createDatabaseProbe = ({ pool, log }: ApiContext): Probe =>
  createProbe<Health>(
    async () => {
      await query(pool, 'select 1');
      return { ok: true, detail: 'answers' };
    },
    { otherwise: (detail) => ({ ok: false, detail }), timeoutMs: PROBE_MS_MAX, log },
  );

const healthSchema = z.object({
  ok: z.boolean(),
  detail: z.string().openapi({ example: 'answers' }),
});
const readinessSchema = z
  .object({
    status: z.enum(['ready', 'not_ready']),
    checks: z.object({
      postgres: healthSchema,
      mongodb: healthSchema,
      consumer: healthSchema.extend({
        alive: z.boolean().openapi({ description: 'Whether a consumer follows the changes.' }),
        holder: z.string().nullable().openapi({ description: 'Which one.' }),
      }),
      resync: healthSchema.extend({
        open: z.boolean().openapi({ description: 'Whether everything is being recomputed.' }),
      }),
      slot: healthSchema,
      capture: healthSchema,
      pause: healthSchema.openapi({ description: 'Whether somebody has paused the pipeline.' }),
    }),
  })
  .openapi('Readiness');

type Readiness = z.infer<typeof readinessSchema>;

const healthRoute = createRoute({
  method: 'get',
  path: '/healthz',
  operationId: 'getHealth',
  tags: ['Health'],
  summary: 'Whether the process is alive',
  description: 'Asks nobody else. Needs no key.',
  security: [],
  request: { query: z.strictObject({}) },
  responses: {
    200: {
      description: 'It is.',
      content: { 'application/json': { schema: z.object({ status: z.literal('ok') }) } },
    },
    ...documentProblems(['malformed_request', 'wrong_host']),
  },
});

const readinessRoute = createRoute({
  method: 'get',
  path: '/readyz',
  operationId: 'getReadiness',
  tags: ['Health'],
  summary: 'Whether listings follow the changes',
  description:
    'Ready means: PostgreSQL and MongoDB answer, a consumer is alive, no recompute of everything is under way, the ' +
    'replication slot is there and not about to be lost, publication and triggers are in place, and nobody has paused the pipeline. Parked bookings ' +
    'hold up nobody and leave it ready. Answers within 2 s. Needs no key.',
  security: [],
  request: { query: z.strictObject({}) },
  responses: {
    200: { description: 'Ready.', content: { 'application/json': { schema: readinessSchema } } },
    503: {
      description: 'Not ready; the checks say why.',
      content: { 'application/json': { schema: readinessSchema } },
    },
    ...documentProblems(['malformed_request', 'wrong_host']),
  },
});

export function mountHealth(app: OpenAPIHono<ApiEnv>, ctx: RouteContext): void {
  const probePipeline = createPipelineProbe(ctx);
  app.openapi(healthRoute, (c) => c.json({ status: 'ok' as const }, 200));
  app.openapi(readinessRoute, async (c) => {
    const [postgres, mongodb, pipeline] = await Promise.all([
      ctx.probeDatabase(),
      ctx.probeMarket(),
      probePipeline(),
    ]);
    const { consumer, resync, slot, capture, pause } = pipeline;
    const checks = { postgres, mongodb, consumer, resync, slot, capture, pause };
    const ready = Object.values(checks).every((check) => check.ok);
    return ready
      ? c.json({ status: 'ready' as const, checks }, 200)
      : c.json({ status: 'not_ready' as const, checks }, 503);
  });
}

type PipelineHealth = Health &
  Pick<Readiness['checks'], 'consumer' | 'resync' | 'slot' | 'capture' | 'pause'>;

const SLOT_DETAILS: Record<SlotHealth['state'], string> = {
  ok: 'keeps what the consumer needs',
  filling:
    'keeps too much WAL back: the consumer does not confirm, and the slot will be lost or the disk full',
  lost: 'WAL that the consumer needs was removed; it begins a new history',
  missing: 'was dropped; the consumer begins a new history',
  none: 'no consumer has made it yet',
};

/** The names are this project's own, and those of the application's tables, which the docs say too. */
function describeCapture(missing: { missing: string }[]): Health {
  const NAMES_MAX = 3;
  if (missing.length === 0) return { ok: true, detail: 'publication and triggers are in place' };
  const names = missing.slice(0, NAMES_MAX).map((entry) => entry.missing);
  const more = missing.length > NAMES_MAX ? ` and ${missing.length - NAMES_MAX} more` : '';
  return { ok: false, detail: `missing or disabled: ${names.join(', ')}${more}` };
}

/** As PostgreSQL knows it: the pipeline may run in another process, on another machine. */
const createPipelineProbe = ({ pool, log }: ApiContext): Probe<PipelineHealth> =>
  createProbe<PipelineHealth>(
    async () => {
      const [checkpoint, resync] = [await readCheckpoint(pool), await findOpenResync(pool)];
      const [slot, missing, pause] = [
        await readSlotHealth(pool),
        await findMissing(pool),
        await findPause(pool),
      ];
      return {
        ok: true,
        detail: 'answers',
        consumer: {
          ok: checkpoint.alive,
          detail: checkpoint.alive ? 'shows signs of life' : 'no consumer shows signs of life',
          alive: checkpoint.alive,
          holder: checkpoint.holder ?? null,
        },
        resync: {
          ok: resync === undefined,
          detail:
            resync === undefined ? 'none is open' : `${resync.reason}: ${resync.bookings} bookings done`,
          open: resync !== undefined,
        },
        slot: { ok: slot.state === 'ok', detail: SLOT_DETAILS[slot.state] },
        capture: describeCapture(missing),
        pause: {
          ok: pause === undefined,
          detail: pause === undefined ? 'is not paused' : 'is paused: changes wait',
        },
      };
    },
    {
      otherwise: (reason) => {
        const unknown = { ok: false, detail: `PostgreSQL ${reason}` };
        return {
          ...unknown,
          consumer: { ...unknown, alive: false, holder: null },
          resync: { ...unknown, open: false },
          slot: unknown,
          capture: unknown,
          pause: unknown,
        };
      },
      timeoutMs: PROBE_MS_MAX,
      log,
    },
  );
