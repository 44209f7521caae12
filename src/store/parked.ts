import { type Database, query } from '../postgres.ts';

/** A snapshot that failed too often and is left alone until it is retried or its booking changes (I7). */
export interface Parked {
  booking_id: string;
  /** Where it failed: its data could not be made into a snapshot, or MongoDB would not take its listing. */
  stage: 'reconcile' | 'publish';
  error: string;
  attempts: number;
  first_failed_at: Date;
  last_failed_at: Date;
  parked_at: Date;
}

/** A place in the order of `listParked`. */
export interface ParkedCursor {
  /** As PostgreSQL prints it, with microseconds. */
  parkedAt: string;
  bookingId: string;
}

/** Parked snapshots, the last parked first, after the cursor; at most `limit`. */
export async function listParked(
  db: Database,
  { after, limit }: { after: ParkedCursor | undefined; limit: number },
): Promise<{ parked: Parked[]; next: ParkedCursor | undefined }> {
  const rows = await query<Parked & { cursor_parked_at: string }>(
    db,
    `select *, parked_at::text as cursor_parked_at from market_sync.parked
     where $1::timestamptz is null or (parked_at, booking_id) < ($1, $2::uuid)
     order by parked_at desc, booking_id desc
     limit $3`,
    [after?.parkedAt ?? null, after?.bookingId ?? null, limit + 1],
  );
  const page = rows.slice(0, limit);
  const last = page.at(-1);
  return {
    parked: page.map(({ cursor_parked_at: _, ...parked }) => parked),
    next:
      rows.length > limit && last !== undefined
        ? { parkedAt: last.cursor_parked_at, bookingId: last.booking_id }
        : undefined,
  };
}

export async function findParked(db: Database, bookingId: string): Promise<Parked | undefined> {
  const rows = await query<Parked & Record<string, unknown>>(
    db,
    'select * from market_sync.parked where booking_id = $1',
    [bookingId],
  );
  return rows[0];
}

/**
 * Gives parked snapshots one more round of attempts; the pipeline goes on with them at once. Answers how many of these
 * were parked.
 */
export async function retryParked(db: Database, bookingIds: readonly string[]): Promise<number> {
  const rows = await query<{ count: number }>(db, 'select market_sync.retry_parked($1) as count', [
    bookingIds,
  ]);
  return rows[0]?.count ?? 0;
}
