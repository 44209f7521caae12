import type pg from 'pg';
import { refreshDue } from '../../pipeline/schedules.ts';
import type { Market } from '../../src/mongo.ts';
import { decide, readDecisions } from '../oracle/manual-rules.ts';
import { loadWorldOfBookings } from '../oracle/source-rows.ts';
import {
  compareListing,
  compareSnapshot,
  type Difference,
  formatDifferences,
  type ListingDocument,
  plainRow,
  readSnapshotRows,
  type SnapshotRow,
} from '../support/compare.ts';
import { type ExpectedContent, OWN_FIELDS, type OracleSettings, snapshotFrom } from '../support/oracle.ts';
import { settle } from '../support/pipeline.ts';
import type { Observations } from './observations.ts';

export interface VerdictContext {
  pool: pg.Pool;
  market: Market;
  observations: Pick<Observations, 'violation'>;
  settings: OracleSettings;
}

/** Bookings whose source rows are held at once. */
const CHUNK = 200;

/** A run that has not come to rest after this long never will. */
const SETTLE_MS_MAX = 180_000;

/** Waits until nothing is left to do, whatever the clock has made due included. */
export async function settleAll({ pool }: VerdictContext): Promise<void> {
  for (;;) {
    await settle({ pool }, { deadlineMs: SETTLE_MS_MAX });
    const { refreshed } = await refreshDue({ pool, clock: () => undefined }, new AbortController().signal);
    if (refreshed === 0) return;
  }
}

/**
 * Compares every booking there is or ever was, its snapshot and its listing, with the oracle and with each other. Of many
 * bookings, sooner when those of a location follow each other.
 */
export async function compareAll(ctx: VerdictContext, bookingIds: readonly string[]): Promise<void> {
  const client = await ctx.pool.connect();
  try {
    const { rows } = await client.query<{ now: Date }>('select clock_timestamp() as now');
    const now = rows[0]?.now ?? new Date();
    for (let first = 0; first < bookingIds.length; first += CHUNK) {
      await compareChunk(ctx, { client, now, bookingIds: bookingIds.slice(first, first + CHUNK) });
    }
  } finally {
    client.release();
  }
  const known = new Set(bookingIds);
  for await (const { booking_id: id } of ctx.market.listings.find({}).project({ booking_id: 1 })) {
    if (!known.has(id)) ctx.observations.violation('extra', `a listing of booking ${id}, which never was`);
  }
  const parked = await ctx.pool.query<{ booking_id: string; last_error: string }>(
    'select booking_id, last_error from market_sync.snapshot_state where parked_at is not null',
  );
  for (const row of parked.rows) {
    ctx.observations.violation('parked', `${row.booking_id}: ${row.last_error}`);
  }
}

async function compareChunk(
  ctx: VerdictContext,
  { client, now, bookingIds }: { client: pg.PoolClient; now: Date; bookingIds: readonly string[] },
): Promise<void> {
  const rows = groupById((await readSnapshotRows(client as unknown as pg.Pool, bookingIds)).map(plainRow));
  const documents = groupById(
    (await ctx.market.listings
      .find({ booking_id: { $in: [...bookingIds] } })
      .toArray()) as unknown as (ListingDocument & { booking_id: string })[],
  );
  const world = await loadWorldOfBookings(client, bookingIds);
  const decisions = await readDecisions(client, bookingIds, now);
  for (const id of bookingIds) {
    const computed = snapshotFrom(world, id, now, ctx.settings);
    const decided = decisions.get(id);
    const content = computed === null || decided === undefined ? computed : decide(computed, decided);
    judge(ctx.observations, { id, content, row: rows.get(id)?.[0], documents: documents.get(id) ?? [] });
  }
}

function groupById<Item extends { booking_id: string }>(items: readonly Item[]): Map<string, Item[]> {
  return Map.groupBy(items, (item) => item.booking_id);
}

interface Found {
  id: string;
  /** What the snapshot must hold; null when there is no such booking. */
  content: ExpectedContent | null;
  row: SnapshotRow | undefined;
  documents: readonly ListingDocument[];
}

function judge({ violation }: Pick<Observations, 'violation'>, { id, content, row, documents }: Found): void {
  const [document, ...more] = documents;
  if (more.length > 0) violation('extra', `booking ${id} has ${documents.length} listings`);
  const onOffer = content?.status === 'published';
  if (document?.status === 'published' && !onOffer) {
    violation('resurrected', `booking ${id} is ${content?.status ?? 'deleted'}, its listing is on offer`);
  }
  if (row === undefined) {
    // One that had ended before anybody saw it never gets any.
    if (onOffer || content?.status === 'held') violation('missing', `booking ${id} has no snapshot`);
    if (document !== undefined) violation('extra', `booking ${id} has a listing and no snapshot`);
    return;
  }
  if (document === undefined) {
    violation('missing', `booking ${id} has a snapshot and no listing`);
    return;
  }
  const differences = [
    ...compareRow(id, content, row),
    ...compareListing(`listing ${id}`, { content: contentOf(row), version: versionOf(row) }, document),
  ];
  if (differences.length > 0) violation('different', `\n${formatDifferences(differences)}`);
}

/** A live booking in every field; of one that has ended what it follows still, because the rest is frozen. */
function compareRow(id: string, content: ExpectedContent | null, row: SnapshotRow): Difference[] {
  const subject = `snapshot ${id}`;
  if (content?.status === 'published' || content?.status === 'held')
    return compareSnapshot(subject, content, row);
  const expected: Record<string, unknown> = { status: content?.status ?? 'withdrawn' };
  if (content !== null) for (const field of OWN_FIELDS) expected[field] = content[field];
  return Object.entries(expected)
    .filter(([field, value]) => row[field] !== value)
    .map(([field, value]) => ({ subject, field, expected: value, actual: row[field] }));
}

/** The listing must show what the snapshot holds, whether that is right or not; all of it but what is not for buyers. */
function contentOf(row: SnapshotRow): ExpectedContent {
  const {
    id: _id,
    market_listing_id: _listingId,
    last_synced_at: _syncedAt,
    created_at: _createdAt,
    updated_at: _updatedAt,
    own_hash: _ownHash,
    parts_hash: _partsHash,
    ended_at: _endedAt,
    ...content
  } = row;
  return content as unknown as ExpectedContent;
}

const versionOf = (row: SnapshotRow) => ({
  epoch: Number(row.epoch),
  revision: Number(row.revision),
  updatedAt: String(row.updated_at),
});
