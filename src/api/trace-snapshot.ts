import { createRoute, type OpenAPIHono, z } from '@hono/zod-openapi';
import { toIso } from '../domain/snapshot.ts';
import { findOverride } from '../store/manual-actions.ts';
import { findManualState } from '../store/manual-states.ts';
import {
  findOutboxState,
  type OutboxState,
  readListing,
  readSource,
  SOURCE_ROWS_MAX,
} from '../store/trace.ts';
import type { ApiEnv, RouteContext } from './context.ts';
import { readSnapshot } from './manual-action.ts';
import { overrideSchema, toOverrideResource } from './override-snapshot.ts';
import { documentProblems, ProblemError, READ_PROBLEMS } from './problem.ts';
import { answerWithin } from './request-input.ts';
import { requireRole } from './role.ts';
import { bookingIdParam, manualStateSchema, snapshotSchema } from './snapshot-resource.ts';

/** Longest that MongoDB is waited for: without it the rest is still worth seeing. */
const LISTING_MS_MAX = 2_000;

/** Longer texts of the application's, and of a listing's, are cut: this is for people to look at. */
const TEXT_LENGTH_MAX = 2_000;

const row = z.record(z.string(), z.unknown()).openapi('SourceRow', {
  description: 'A row of the application as it stands there. Names and values are its own.',
});

const sourceSchema = z
  .object({
    booking: row,
    location: row.nullable(),
    inspection: row.nullable(),
    sensors: z.array(row).openapi({ description: "The location's, each with its `newest_reading`." }),
    pest_detections: z
      .array(row)
      .openapi({ description: "The location's, newest first, in the window or not." }),
    certificates: z.array(row).openapi({ description: "The vendor's, valid or not." }),
    storage_certificate: row.nullable(),
    cut: z.array(z.string()).openapi({
      description: `Which of the lists have more than the ${SOURCE_ROWS_MAX} rows shown.`,
      example: [],
    }),
  })
  .openapi('Source');

const time = () =>
  z.string().nullable().openapi({ format: 'date-time', example: '2026-03-01T06:30:00.000Z' });

const stateSchema = z
  .object({
    epoch: z.int(),
    revision: z.int().openapi({ description: 'What the snapshot has.', example: 7 }),
    published_epoch: z.int(),
    published_revision: z.int().openapi({ description: 'What MongoDB has confirmed.', example: 7 }),
    next_refresh_at: time().openapi({ description: 'When the clock alone changes the snapshot next.' }),
    claimed_by: z.string().nullable().openapi({ description: 'The publisher that writes it now.' }),
    lease_until: time(),
    attempts: z.int().openapi({ description: 'Failed in a row.', example: 0 }),
    first_failed_at: time(),
    last_failed_at: time(),
    last_error: z.string().nullable(),
    failed_stage: z.enum(['reconcile', 'publish']).nullable(),
    parked_at: time(),
  })
  .openapi('OutboxState', { description: 'Where the snapshot stands on its way to MongoDB.' });

const traceSchema = z
  .object({
    success: z.literal(true),
    source: sourceSchema
      .nullable()
      .openapi({ description: 'Null when the application has no such booking.' }),
    snapshot: snapshotSchema.nullable(),
    listing: z
      .record(z.string(), z.unknown())
      .nullable()
      .openapi({ description: 'The document as MongoDB has it, whoever wrote it; null when there is none.' }),
    market_error: z
      .string()
      .nullable()
      .openapi({ description: 'Why the listing is not known at the moment; null when it is.' }),
    state: stateSchema.nullable(),
    override: overrideSchema.nullable(),
    manual_state: manualStateSchema.nullable(),
  })
  .openapi('Trace');

const route = createRoute({
  method: 'get',
  path: '/storage-guard/snapshots/{booking_id}/trace',
  operationId: 'traceSnapshot',
  tags: ['Snapshots'],
  summary: 'Source rows, snapshot and listing of a booking, side by side',
  description:
    'What the snapshot is made from, what it says, what MongoDB has, and what people have decided about it. Lists have ' +
    `at most ${SOURCE_ROWS_MAX} rows; texts longer than ${TEXT_LENGTH_MAX} characters are cut in \`source\` and \`listing\`.`,
  middleware: [requireRole('reader'), answerWithin(10_000)] as const,
  request: { params: bookingIdParam, query: z.strictObject({}) },
  responses: {
    200: { description: 'All of it.', content: { 'application/json': { schema: traceSchema } } },
    ...documentProblems([...READ_PROBLEMS, 'not_found']),
  },
});

export function mountTraceSnapshot(app: OpenAPIHono<ApiEnv>, ctx: RouteContext): void {
  app.openapi(route, async (c) => {
    const { booking_id: bookingId } = c.req.valid('param');
    const { pool } = ctx;
    // Beside the others, which come one after the other: one caller takes one connection.
    const reading = readListing(ctx.market, { bookingId, timeoutMs: LISTING_MS_MAX });
    const source = await readSource(pool, bookingId);
    const snapshot = await readSnapshot(ctx, bookingId);
    const state = await findOutboxState(pool, bookingId);
    const override = await findOverride(pool, bookingId);
    const manualState = await findManualState(pool, bookingId);
    const read = await reading;
    const listing = read.outcome === 'read' ? read.listing : undefined;
    if (
      [source, snapshot, listing, state, override, manualState].every(
        (part) => part === undefined || part === null,
      )
    ) {
      throw new ProblemError('not_found', { detail: 'Nothing is known of this booking.' });
    }
    return c.json(
      {
        success: true as const,
        source: source === undefined ? null : (toShown(source) as z.infer<typeof sourceSchema>),
        snapshot,
        listing: listing === undefined ? null : (toShown(listing) as Record<string, unknown>),
        market_error: read.outcome === 'read' ? null : read.error,
        state: state === undefined ? null : toState(state),
        override: orNull(override, toOverrideResource),
        manual_state: orNull(manualState, (found) => ({
          state: found.state,
          reason: found.reason,
          actor: found.actor,
          since: toIso(found.since),
        })),
      },
      200,
    );
  });
}

const orNull = <From, To>(value: From | undefined, to: (value: From) => To): To | null =>
  value === undefined ? null : to(value);

/** As JSON has it, with long texts cut. */
const toShown = (value: unknown): unknown =>
  JSON.parse(JSON.stringify(value), (_, part: unknown) =>
    typeof part === 'string' && part.length > TEXT_LENGTH_MAX ? `${part.slice(0, TEXT_LENGTH_MAX)}…` : part,
  );

const toState = (state: OutboxState): z.infer<typeof stateSchema> => ({
  ...state,
  next_refresh_at: toIso(state.next_refresh_at),
  lease_until: toIso(state.lease_until),
  first_failed_at: toIso(state.first_failed_at),
  last_failed_at: toIso(state.last_failed_at),
  parked_at: toIso(state.parked_at),
});
