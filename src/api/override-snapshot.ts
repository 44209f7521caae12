import { createRoute, type OpenAPIHono, z } from '@hono/zod-openapi';
import type { Context } from 'hono';
import type pg from 'pg';
import { toIso } from '../domain/snapshot.ts';
import { endOverride, findOverride, type Override, setOverride } from '../store/manual-actions.ts';
import type { ApiEnv, RouteContext } from './context.ts';
import { parseIfMatch, versionTag } from './etag.ts';
import { act, readSnapshot, reasonField, sayWhen } from './manual-action.ts';
import { ACTION_PROBLEMS, documentProblems, ProblemError, READ_PROBLEMS } from './problem.ts';
import { acceptJsonBody, acceptNoBody, answerWithin } from './request-input.ts';
import { requireRole } from './role.ts';
import { bookingIdParam, snapshotSchema } from './snapshot-resource.ts';

const ANSWER_MS_MAX = 10_000;
const PATH = '/storage-guard/snapshots/{booking_id}/override';

const fields = {
  grade: z.string().min(1).max(16).nullable().openapi({ example: 'B' }),
  quality_score: z.number().min(0).max(100).nullable().openapi({ example: 62.5 }),
  freshness: z.string().min(1).max(200).nullable().openapi({ example: 'fair' }),
  visual_defects: z.string().max(2_000).nullable().openapi({ example: 'bruises on a tenth' }),
  special_notes: z.string().max(2_000).nullable().openapi({ example: 'inspected again on arrival' }),
};

const time = () => z.string().openapi({ format: 'date-time', example: '2026-03-01T06:30:00.000Z' });

export const overrideSchema = z
  .object({
    ...fields,
    reason: z.string(),
    actor: z.string().openapi({ description: 'Who has set it.', example: 'night shift' }),
    set_at: time(),
    expires_at: time().nullable().openapi({
      description: 'When it ends by itself; null: when somebody ends it.',
      example: '2026-03-08T00:00:00.000Z',
    }),
  })
  .openapi('Override', {
    description: 'What a person says instead of the source. Null fields follow the source.',
  });

const bodySchema = z
  .strictObject({
    grade: fields.grade.optional(),
    quality_score: fields.quality_score.optional(),
    freshness: fields.freshness.optional(),
    visual_defects: fields.visual_defects.optional(),
    special_notes: fields.special_notes.optional(),
    reason: reasonField,
    expires_at: z.iso
      .datetime({ offset: true })
      // With an offset it may name an instant that has no such text in UTC.
      .refine((text) => new Date(text).getUTCFullYear() <= 9_999, 'must be before the year 10000 in UTC')
      .nullable()
      .optional()
      .openapi({ format: 'date-time', example: '2026-03-08T00:00:00Z' }),
  })
  .openapi('OverrideRequest');

const ifMatch = z.object({
  'if-match': z.string().optional().openapi({
    description:
      'An `ETag` of this override: the call is refused with 412 when it has changed since. `*`: there must be one.',
    example: '"7"',
  }),
});

const conditions = ifMatch.extend({
  'if-none-match': z.string().optional().openapi({
    description: '`*`: the call is refused with 412 where there is an override already.',
    example: '*',
  }),
});

const etag = {
  ETag: { description: 'The version of the override, for `If-Match`.', schema: { type: 'string' as const } },
};

const getRoute = createRoute({
  method: 'get',
  path: PATH,
  operationId: 'getOverride',
  tags: ['Snapshots'],
  summary: "A booking's override",
  middleware: [requireRole('reader'), answerWithin(ANSWER_MS_MAX)] as const,
  request: { params: bookingIdParam, query: z.strictObject({}) },
  responses: {
    200: {
      description: 'The override in force.',
      headers: etag,
      content: {
        'application/json': { schema: z.object({ success: z.literal(true), override: overrideSchema }) },
      },
    },
    ...documentProblems([...READ_PROBLEMS, 'not_found']),
  },
});

const putRoute = createRoute({
  method: 'put',
  path: PATH,
  operationId: 'setOverride',
  tags: ['Snapshots'],
  summary: 'Correct fields of the snapshot by hand',
  description:
    'Replaces the override there is: fields that are missing or null follow the source. It survives every recompute, and ' +
    'ends at `expires_at` or when it is deleted. `If-Match` keeps two people from overwriting each other; ' +
    '`If-None-Match: *` sets it only where there is none.',
  middleware: [requireRole('operator'), answerWithin(ANSWER_MS_MAX), acceptJsonBody] as const,
  request: {
    params: bookingIdParam,
    query: z.strictObject({}),
    headers: conditions,
    body: { required: true, content: { 'application/json': { schema: bodySchema } } },
  },
  responses: {
    200: {
      description: 'The override is in force, and the snapshot says so.',
      headers: etag,
      content: {
        'application/json': {
          schema: z.object({
            success: z.literal(true),
            message: z.string().openapi({ example: 'the override is set' }),
            override: overrideSchema.nullable().openapi({ description: 'Null when it has ended meanwhile.' }),
            snapshot: snapshotSchema.nullable(),
          }),
        },
      },
    },
    ...documentProblems([...ACTION_PROBLEMS, 'not_found', 'conflict', 'version_mismatch', 'bad_argument']),
  },
});

const deleteRoute = createRoute({
  method: 'delete',
  path: PATH,
  operationId: 'endOverride',
  tags: ['Snapshots'],
  summary: 'End the override',
  description: 'The snapshot says again what the source tables say. Takes no body.',
  middleware: [requireRole('operator'), answerWithin(ANSWER_MS_MAX), acceptNoBody] as const,
  request: { params: bookingIdParam, query: z.strictObject({}), headers: ifMatch },
  responses: {
    200: {
      description: 'There is no override any more.',
      content: {
        'application/json': {
          schema: z.object({
            success: z.literal(true),
            message: z.string().openapi({ example: 'the override has ended' }),
            snapshot: snapshotSchema.nullable(),
          }),
        },
      },
    },
    ...documentProblems([...ACTION_PROBLEMS, 'not_found', 'version_mismatch']),
  },
});

export function mountOverrideSnapshot(app: OpenAPIHono<ApiEnv>, ctx: RouteContext): void {
  app.openapi(getRoute, async (c) => {
    const override = await findOverride(ctx.pool, c.req.valid('param').booking_id);
    if (override === undefined) throw noOverride();
    return c.json({ success: true as const, override: toOverrideResource(override) }, 200, {
      etag: versionTag(override.version),
    });
  });

  app.openapi(putRoute, async (c) => {
    const { booking_id } = c.req.valid('param');
    const { reason, expires_at, ...corrected } = c.req.valid('json');
    const { version, override } = await act(ctx, c, async (client) => {
      const set = await setOverride(client, {
        bookingId: booking_id,
        reason,
        fields: corrected,
        expiresAt: typeof expires_at === 'string' ? new Date(expires_at) : undefined,
        ifVersion: await expectedVersion(client, c, booking_id),
      });
      return { version: set, override: await findOverride(client, booking_id) };
    });
    return c.json(
      {
        success: true as const,
        message: await sayWhen(ctx, 'the override is set'),
        override: override === undefined ? null : toOverrideResource(override),
        snapshot: await readSnapshot(ctx, booking_id),
      },
      200,
      { etag: versionTag(version) },
    );
  });

  app.openapi(deleteRoute, async (c) => {
    const { booking_id } = c.req.valid('param');
    const ended = await act(ctx, c, async (client) =>
      endOverride(client, {
        bookingId: booking_id,
        ifVersion: await expectedVersion(client, c, booking_id),
      }),
    );
    if (!ended) throw noOverride();
    return c.json(
      {
        success: true as const,
        message: await sayWhen(ctx, 'the override has ended'),
        snapshot: await readSnapshot(ctx, booking_id),
      },
      200,
    );
  });
}

const noOverride = (): ProblemError =>
  new ProblemError('not_found', { detail: 'This booking has no override.' });

/** The version that the call's conditions ask for, 0 for none at all; undefined without conditions. */
async function expectedVersion(
  client: pg.PoolClient,
  c: Context<ApiEnv>,
  bookingId: string,
): Promise<number | undefined> {
  const match = parseIfMatch(c);
  if (match === undefined) return c.req.header('if-none-match')?.trim() === '*' ? 0 : undefined;
  if (match !== '*') return match;
  const present = await findOverride(client, bookingId);
  if (present !== undefined) return present.version;
  throw new ProblemError('version_mismatch', { detail: 'If-Match asks for an override, and there is none.' });
}

export const toOverrideResource = (override: Override): z.infer<typeof overrideSchema> => ({
  grade: override.grade ?? null,
  quality_score: override.quality_score ?? null,
  freshness: override.freshness ?? null,
  visual_defects: override.visual_defects ?? null,
  special_notes: override.special_notes ?? null,
  reason: override.reason,
  actor: override.actor,
  set_at: toIso(override.set_at) ?? '',
  expires_at: toIso(override.expires_at),
});
