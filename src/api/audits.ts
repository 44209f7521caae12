import { createRoute, type OpenAPIHono, z } from '@hono/zod-openapi';
import { toIso } from '../domain/snapshot.ts';
import { findAudit, type ListedAudit, listAudits } from '../store/drift-list.ts';
import { FINDING_KINDS } from '../store/drift-run.ts';
import { auditAll } from '../store/manual-actions.ts';
import type { ApiEnv, RouteContext } from './context.ts';
import { act, reasonField } from './manual-action.ts';
import { ACTION_PROBLEMS, documentProblems, ProblemError, READ_PROBLEMS } from './problem.ts';
import { acceptJsonBody, answerWithin } from './request-input.ts';
import { requireRole } from './role.ts';

const ANSWER_MS_MAX = 10_000;

/** Audits that one answer has at most: about those that are kept. */
const LIMIT_MAX = 100;
const LIMIT_DEFAULT = 20;

const time = () => z.string().openapi({ format: 'date-time', example: '2026-03-01T02:43:00.000Z' });

const repairField = z.enum(['off', 'safe', 'all']).openapi({
  description:
    '`off`: only look. `safe`: mend what reconcile and publisher mend, and delete listings of this project that belong to nothing. `all`: also delete listings that this project cannot have written.',
  example: 'safe',
});

const auditSchema = z
  .object({
    id: z.int().openapi({ description: 'As `audit_id` of the view `drift_findings`.', example: 12 }),
    state: z.enum(['queued', 'running', 'done', 'failed', 'cancelled']).openapi({
      description: '`queued` until a pipeline process takes it, which is at once unless there is none.',
      example: 'running',
    }),
    repair: repairField,
    reason: z.string().openapi({ example: 'somebody edited listings by hand' }),
    requested_by: z.string().openapi({ example: 'night shift' }),
    requested_at: time(),
    started_at: time().nullable(),
    finished_at: time().nullable(),
    total: z
      .int()
      .nullable()
      .openapi({ description: 'Bookings to compare; null until it begins.', example: 50_000 }),
    compared: z.int().openapi({ description: 'Bookings compared so far.', example: 15_000 }),
    listings: z.int().openapi({ description: 'Documents of MongoDB read for it.', example: 15_001 }),
    in_flight: z.int().openapi({
      description: 'Bookings left out because they were changing or on their way.',
      example: 2,
    }),
    parked: z.int().openapi({ description: 'Bookings left out because they are parked.', example: 0 }),
    found: z.int().openapi({ description: 'What was not as it must be, of every kind.', example: 3 }),
    repaired: z.int().openapi({ description: 'How much of that is mended.', example: 3 }),
    kinds: z
      .array(
        z.object({
          kind: z.enum(FINDING_KINDS).openapi({ example: 'listing_differs' }),
          found: z.int().openapi({ example: 3 }),
          repaired: z.int().openapi({ example: 3 }),
        }),
      )
      .openapi({ description: 'The kinds of which something was found.' }),
    error: z.string().nullable().openapi({ description: 'Why it failed, or was given up.', example: null }),
  })
  .openapi('Audit', {
    description:
      "A comparison of everything: each snapshot with its source rows, each listing with its snapshot. It goes on when nobody waits for it; a person's `market-sync audit` is one, too.",
  });

const auditAnswer = {
  content: { 'application/json': { schema: z.object({ success: z.literal(true), audit: auditSchema }) } },
};

const requestAuditRoute = createRoute({
  method: 'post',
  path: '/pipeline/audits',
  operationId: 'audit',
  tags: ['Pipeline'],
  summary: 'Compare everything, and mend what differs',
  description:
    'Beside live work. One is open at a time and serves all who ask, as it was asked for first. What exactly it finds is in the view `drift_findings`.',
  middleware: [requireRole('admin'), answerWithin(ANSWER_MS_MAX), acceptJsonBody] as const,
  request: {
    query: z.strictObject({}),
    body: {
      required: true,
      content: {
        'application/json': {
          schema: z
            .strictObject({ reason: reasonField, repair: repairField.optional() })
            .openapi('AuditRequest', { description: '`repair` is `safe` unless given.' }),
        },
      },
    },
  },
  responses: {
    202: {
      description: 'The audit; its address is in `Location`.',
      headers: { Location: { description: 'Where it can be looked at.', schema: { type: 'string' } } },
      ...auditAnswer,
    },
    ...documentProblems([...ACTION_PROBLEMS, 'bad_argument']),
  },
});

const listRoute = createRoute({
  method: 'get',
  path: '/pipeline/audits',
  operationId: 'listAudits',
  tags: ['Pipeline'],
  summary: 'The last audits, the last asked for first',
  description: 'Audits can be looked at for 90 days after they ended.',
  middleware: [requireRole('reader'), answerWithin(ANSWER_MS_MAX)] as const,
  request: {
    query: z.strictObject({
      limit: z.coerce
        .number()
        .int()
        .min(1)
        .max(LIMIT_MAX)
        .optional()
        .openapi({ description: `${LIMIT_DEFAULT} unless given.`, example: 1 }),
    }),
  },
  responses: {
    200: {
      description: 'The audits.',
      content: {
        'application/json': { schema: z.object({ success: z.literal(true), audits: z.array(auditSchema) }) },
      },
    },
    ...documentProblems(READ_PROBLEMS),
  },
});

const getRoute = createRoute({
  method: 'get',
  path: '/pipeline/audits/{audit_id}',
  operationId: 'getAudit',
  tags: ['Pipeline'],
  summary: 'How far an audit is, and what it found',
  middleware: [requireRole('reader'), answerWithin(ANSWER_MS_MAX)] as const,
  request: {
    params: z.strictObject({
      audit_id: z.coerce
        .number()
        .int()
        .min(1)
        .max(Number.MAX_SAFE_INTEGER)
        .openapi({ param: { name: 'audit_id', in: 'path' }, example: 12 }),
    }),
    query: z.strictObject({}),
  },
  responses: {
    200: { description: 'The audit.', ...auditAnswer },
    ...documentProblems([...READ_PROBLEMS, 'not_found']),
  },
});

export function mountAudits(app: OpenAPIHono<ApiEnv>, ctx: RouteContext): void {
  app.openapi(requestAuditRoute, async (c) => {
    const { reason, repair = 'safe' } = c.req.valid('json');
    const audit = await act(ctx, c, async (client) =>
      findAudit(client, await auditAll(client, { reason, repair })),
    );
    if (audit === undefined) throw noSuchAudit();
    return c.json({ success: true as const, audit: toResource(audit) }, 202, {
      location: `/pipeline/audits/${audit.id}`,
    });
  });
  app.openapi(listRoute, async (c) => {
    const audits = await listAudits(ctx.pool, c.req.valid('query').limit ?? LIMIT_DEFAULT);
    return c.json({ success: true as const, audits: audits.map(toResource) }, 200);
  });
  app.openapi(getRoute, async (c) => {
    const audit = await findAudit(ctx.pool, c.req.valid('param').audit_id);
    if (audit === undefined) throw noSuchAudit();
    return c.json({ success: true as const, audit: toResource(audit) }, 200);
  });
}

const noSuchAudit = (): ProblemError =>
  new ProblemError('not_found', { detail: 'There is no audit of this id.' });

const toResource = ({ kinds, ...audit }: ListedAudit): z.infer<typeof auditSchema> => ({
  id: audit.id,
  state: audit.state,
  repair: audit.repair,
  reason: audit.reason,
  requested_by: audit.requested_by,
  requested_at: toIso(audit.requested_at) ?? '',
  started_at: toIso(audit.started_at),
  finished_at: toIso(audit.finished_at),
  total: audit.total,
  compared: audit.compared,
  listings: audit.listings,
  in_flight: audit.in_flight,
  parked: audit.parked,
  found: audit.found,
  repaired: audit.repaired,
  kinds: FINDING_KINDS.flatMap((kind) => (kinds[kind] === undefined ? [] : [{ kind, ...kinds[kind] }])),
  error: audit.error,
});
