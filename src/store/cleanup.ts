import { type Database, query } from '../postgres.ts';
import { releaseClaims } from './outbox.ts';

/** An ended snapshot that is old enough to go, at the version that MongoDB has. */
export interface Ended {
  bookingId: string;
  epoch: number;
  revision: number;
}

/** Longest a cleanup may take between claiming a chunk and deleting it; afterwards publishers may claim it again. */
const CLEANUP_LEASE_SECONDS = 15;

/**
 * Claims snapshots that ended longer ago than the retention and whose tombstone MongoDB has confirmed, oldest first. No
 * publisher touches them until they are deleted or the lease runs out.
 */
export async function claimExpired(
  db: Database,
  { now, limit }: { now: Date | undefined; limit: number },
): Promise<Ended[]> {
  const rows = await query<{ booking_id: string; epoch: number; revision: number }>(
    db,
    'select booking_id, epoch, revision from market_sync.claim_expired($1, make_interval(secs => $2), $3)',
    [now ?? null, CLEANUP_LEASE_SECONDS, limit],
  );
  return rows.map((row) => ({ bookingId: row.booking_id, epoch: row.epoch, revision: row.revision }));
}

/** Gives back claims of which the listing could not be deleted; without `bookingIds` every claim of a cleanup. */
export async function releaseExpired(db: Database, bookingIds?: string[]): Promise<void> {
  await releaseClaims(db, { publisher: 'cleanup', ...(bookingIds === undefined ? {} : { bookingIds }) });
}

/**
 * Deletes ended snapshots whose listings are gone from MongoDB already. One that changed meanwhile stays and is
 * published again. Answers how many were deleted.
 */
export async function deleteEnded(db: Database, ended: Ended[]): Promise<number> {
  const rows = await query<{ deleted: number }>(db, 'select market_sync.delete_ended($1, $2) as deleted', [
    ended.map((entry) => entry.bookingId),
    ended.map((entry) => entry.revision),
  ]);
  return rows[0]?.deleted ?? 0;
}

/** Folds figures that are older than a day, and deletes overrides that ended by themselves longer ago. */
export async function foldMeasurements(db: Database): Promise<void> {
  await query(db, 'select market_sync.fold_measurements()');
}
