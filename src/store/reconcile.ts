import type pg from 'pg';
import type { Snapshot } from '../domain/snapshot.ts';
import { formatLsn, type Lsn } from '../lsn.ts';
import { type Database, query, queryPrepared, typesSharingJson } from '../postgres.ts';
import type { ClaimedListing } from './outbox.ts';

/** Instant as which snapshots are computed; undefined means PostgreSQL's own clock, which alone decides in production. */
export type Clock = () => Date | undefined;

/** What the change stream said is dirty, by kind of key, each a list of distinct UUIDs. */
export interface DirtyKeys {
  booking: string[];
  location: string[];
  sensor: string[];
  vendor: string[];
  inspection: string[];
}

/** For whom a recompute claims what it changed, and for how long. */
export interface ClaimFor {
  publisher: string;
  leaseSeconds: number;
}

export interface ReconcileBatch {
  generation: number;
  /** End of the last commit that is covered when this batch is written. */
  commitLsn: Lsn;
  /** 32-bit ids of the transactions that must be visible before anything is read. */
  xids: number[];
  keys: DirtyKeys;
  /** Most bookings recomputed in one transaction. */
  bookingsMax: number;
  leaseSeconds: number;
  now: Date | undefined;
  /** Reason for a recompute of everything that this batch asks for, if it does. */
  resyncReason: string | undefined;
  /** When the oldest change of the batch was committed, by PostgreSQL's clock; undefined without one. */
  committedAt: Date | undefined;
  /** Milliseconds since the oldest change of the batch was received, for those who trace one. */
  receivedMsAgo?: number | undefined;
  /** Undefined claims nothing. */
  claimFor?: ClaimFor | undefined;
}

export type BatchOutcome = {
  /** What was claimed with it. */
  claims: ClaimedListing[];
} & (
  | { outcome: 'done'; bookings: number; changed: number }
  | { outcome: 'not_visible' }
  | { outcome: 'paused' }
  | { outcome: 'too_many'; bookingIds: string[] }
);

/** The columns of a `ClaimRow`. */
const CLAIM_COLUMNS =
  'booking_id, epoch, revision, market_listing_id, base_revision, location_id, metadata, sensors, sensor_summary';

const RECONCILE_BATCH = {
  name: 'reconcile_batch',
  text: `select outcome, bookings, booking_count, changed_count, ${CLAIM_COLUMNS}
    from market_sync.reconcile_batch(
    $1, $2, $3, $4, $5, $6, $7, $8, $9, make_interval(secs => $10), $11, $12, $13, $14, $15, make_interval(secs => $16))`,
};

/** A claim as a recompute answers it: what the bookings of a location share comes with one of them. */
interface ClaimRow {
  booking_id: string;
  market_listing_id: string | null;
  epoch: number;
  revision: number;
  base_revision: number | null;
  location_id: string | null;
  metadata: Record<string, unknown>;
  sensors: Record<string, unknown> | null;
  sensor_summary: Record<string, unknown> | null;
}

/**
 * One batch of the consumer, in one transaction: visibility proved, snapshots recomputed, checkpoint moved (D3a, D6).
 * With any other outcome than `done` nothing has been written. Raises MS001 when another consumer has taken over.
 */
export async function reconcileBatch(client: pg.ClientBase, batch: ReconcileBatch): Promise<BatchOutcome> {
  const [row, ...claims] = await queryPrepared<
    {
      outcome: BatchOutcome['outcome'];
      bookings: string[] | null;
      booking_count: number;
      changed_count: number;
    } & ClaimRow &
      Record<string, unknown>
  >(client, { ...RECONCILE_BATCH, types: typesSharingJson() }, [
    batch.generation,
    formatLsn(batch.commitLsn),
    batch.xids,
    batch.keys.booking,
    batch.keys.location,
    batch.keys.sensor,
    batch.keys.vendor,
    batch.keys.inspection,
    batch.bookingsMax,
    batch.leaseSeconds,
    batch.now ?? null,
    batch.resyncReason ?? null,
    batch.committedAt ?? null,
    batch.receivedMsAgo ?? null,
    batch.claimFor?.publisher ?? null,
    batch.claimFor?.leaseSeconds ?? null,
  ]);
  if (row === undefined) throw new Error('reconcile_batch answered nothing');
  switch (row.outcome) {
    case 'done':
      return {
        outcome: 'done',
        bookings: row.booking_count,
        changed: row.changed_count,
        claims: toClaims(claims),
      };
    case 'not_visible':
    case 'paused':
      return { outcome: row.outcome, claims: [] };
    case 'too_many':
      return { outcome: 'too_many', bookingIds: row.bookings ?? [], claims: [] };
  }
}

/** Gives each claim what came with another booking of its location. Throws where none came. */
function toClaims(rows: readonly ClaimRow[]): ClaimedListing[] {
  const shared = new Map<string | null, Pick<Snapshot, 'sensors' | 'sensor_summary'>>();
  for (const { location_id, sensors, sensor_summary } of rows) {
    if (sensors !== null && sensor_summary !== null) shared.set(location_id, { sensors, sensor_summary });
  }
  return rows.map(
    ({ booking_id, market_listing_id, epoch, revision, base_revision, location_id, metadata }) => {
      const claim = { booking_id, market_listing_id, epoch, revision };
      if (base_revision === null) return { ...claim, base_revision };
      const parts = shared.get(location_id);
      if (parts === undefined) throw new Error(`no sensors came with the claims of location ${location_id}`);
      return { ...claim, base_revision, ...parts, metadata };
    },
  );
}

export interface Reconciled {
  booking_id: string;
  changed: boolean;
}

const RECONCILE = {
  name: 'reconcile_bookings',
  text: 'select booking_id, changed from market_sync.reconcile_bookings($1, $2, $3)',
};

/**
 * Recomputes these bookings' snapshots from committed state, in one transaction. Answers those that have a snapshot
 * afterwards; one whose data cannot be processed is parked and left out (I7).
 */
export async function reconcileBookings(
  db: Database,
  {
    bookingIds,
    now,
    committedAt,
  }: { bookingIds: string[]; now: Date | undefined; committedAt?: Date | undefined },
): Promise<Reconciled[]> {
  return queryPrepared<Reconciled>(db, RECONCILE, [bookingIds, now ?? null, committedAt ?? null]);
}

const RECONCILE_AND_CLAIM = {
  name: 'reconcile_and_claim',
  text: `select changed, claimed, ${CLAIM_COLUMNS}
    from market_sync.reconcile_and_claim($1, $2, $3, $4, $5, make_interval(secs => $6))`,
};

/**
 * As `reconcileBookings`, for the consumer of this generation, and claims what it changed for a publisher. Answers how many
 * changed, and the claims. Raises MS001 when another consumer has taken over.
 */
export async function reconcileAndClaim(
  db: Database,
  request: {
    generation: number;
    bookingIds: string[];
    now: Date | undefined;
    committedAt: Date | undefined;
    claimFor: ClaimFor | undefined;
  },
): Promise<{ changed: number; claims: ClaimedListing[] }> {
  const { generation, bookingIds, now, committedAt, claimFor } = request;
  const rows = await queryPrepared<Reconciled & ClaimRow & { claimed: boolean } & Record<string, unknown>>(
    db,
    { ...RECONCILE_AND_CLAIM, types: typesSharingJson() },
    [
      bookingIds,
      now ?? null,
      committedAt ?? null,
      generation,
      claimFor?.publisher ?? null,
      claimFor?.leaseSeconds ?? null,
    ],
  );
  return {
    changed: rows.filter(({ changed }) => changed).length,
    claims: toClaims(rows.filter(({ claimed }) => claimed)),
  };
}

/** Bookings whose snapshot the clock alone has changed by now, most overdue first; none while the pipeline is paused. */
export async function findDueForRefresh(
  db: Database,
  { now, limit }: { now: Date | undefined; limit: number },
): Promise<string[]> {
  const rows = await query<{ booking_id: string }>(
    db,
    `select booking_id from market_sync.snapshot_state
     where next_refresh_at <= (select coalesce($1, clock_timestamp())) and not (select market_sync.is_paused())
     order by next_refresh_at limit $2`,
    [now ?? null, limit],
  );
  return rows.map((row) => row.booking_id);
}
