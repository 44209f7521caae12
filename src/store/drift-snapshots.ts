import { type Database, query } from '../postgres.ts';
import type { FindingKind } from './drift-run.ts';

/** What of a booking's snapshot is not as its source rows say; `in_flight` and `parked`: not judged. */
export interface SnapshotVerdict {
  bookingId: string;
  kind: FindingKind | 'in_flight' | 'parked';
  /** No change on its way to the snapshot can explain it. */
  certain: boolean;
  fields: string[];
  /** The same for the same snapshot beside the same source rows. */
  fingerprint: string;
}

interface VerdictRow {
  booking_id: string;
  kind: SnapshotVerdict['kind'];
  certain: boolean;
  fields: string[];
  fingerprint: string;
}

/** The next bookings by id. */
export async function findNext(
  db: Database,
  { after, limit }: { after: string | null; limit: number },
): Promise<string[]> {
  const rows = await query<{ ids: string[] }>(db, 'select market_sync.audit_keys($1, $2)::text[] as ids', [
    after,
    limit,
  ]);
  return rows[0]?.ids ?? [];
}

/** What of these bookings' snapshots is not as it must be. */
export async function lookAtSnapshots(
  db: Database,
  { bookingIds, now }: { bookingIds: readonly string[]; now: Date | undefined },
): Promise<SnapshotVerdict[]> {
  if (bookingIds.length === 0) return [];
  const rows = await query<{ verdicts: VerdictRow[] }>(
    db,
    // One statement: what is compared is of one moment.
    `select coalesce(jsonb_agg(to_jsonb(look)), '[]') as verdicts from market_sync.audit_snapshots($1, $2) look`,
    [bookingIds, now ?? null],
  );
  return (rows[0]?.verdicts ?? []).map(toVerdict);
}

const toVerdict = ({ booking_id: bookingId, ...row }: VerdictRow): SnapshotVerdict => ({ bookingId, ...row });

/** Whether a consumer follows, and is not paused: what it has not seen yet it will have seen in a moment. */
export async function isFollowed(db: Database): Promise<boolean> {
  const rows = await query<{ followed: boolean }>(
    db,
    `select coalesce(lease_until > clock_timestamp(), false) and paused_at is null as followed from market_sync.checkpoint`,
  );
  return rows[0]?.followed === true;
}

/** A place in the stream of changes, behind everything committed so far. */
export async function markStream(db: Database): Promise<string> {
  const rows = await query<{ lsn: string }>(db, 'select market_sync.mark_stream()::text as lsn');
  return rows[0]?.lsn ?? '0/0';
}

/** Whether everything committed before that place is in the snapshots. */
export async function hasPassed(db: Database, lsn: string): Promise<boolean> {
  const rows = await query<{ passed: boolean }>(
    db,
    'select coalesce(commit_lsn >= $1::pg_lsn, false) as passed from market_sync.checkpoint',
    [lsn],
  );
  return rows[0]?.passed === true;
}

/** What MongoDB has of a booking that is to be mended; null where it has nothing that helps. */
export interface SnapshotRepair {
  bookingId: string;
  revision: number | null;
  listingId: string | null;
}

/** Recomputes these bookings whatever their hashes say, above every revision known of them. */
export async function repairSnapshots(
  db: Database,
  { repairs, now }: { repairs: SnapshotRepair[]; now: Date | undefined },
): Promise<void> {
  await query(db, 'select market_sync.repair_snapshots($1, $2, $3, $4)', [
    repairs.map(({ bookingId }) => bookingId),
    repairs.map(({ revision }) => revision),
    repairs.map(({ listingId }) => listingId),
    now ?? null,
  ]);
}
