import type { Snapshot } from '../domain/snapshot.ts';
import { type Database, query, queryPrepared, typesSharingJson } from '../postgres.ts';

const CLAIM = {
  name: 'claim_listings',
  text: 'select * from market_sync.claim_listings($1, make_interval(secs => $2), $3, $4, $5)',
};

export interface Claim {
  publisher: string;
  leaseSeconds: number;
  limit: number;
  /** These bookings, whether or not they are due; undefined claims what is due. */
  bookingIds?: string[];
  /** `background`: what a backfill or a resync made, which comes last unless one of them is asked for. */
  only?: 'live' | 'background' | undefined;
}

/** A snapshot that is this publisher's until its lease ends, and what its listing needs. */
export type ClaimedListing = {
  booking_id: string;
  market_listing_id: string | null;
  epoch: number;
  revision: number;
} & (
  | { base_revision: null }
  /** The listing has this revision of the same epoch, and needs nothing but these. Objects may be shared: not to be changed. */
  | ({ base_revision: number } & Pick<Snapshot, 'sensors' | 'sensor_summary' | 'metadata'>)
);

/** Claims snapshots to publish, with a lease. Empty when there are none. */
export async function claimListings(db: Database, claim: Claim): Promise<ClaimedListing[]> {
  return queryPrepared<ClaimedListing & Record<string, unknown>>(
    db,
    { ...CLAIM, types: typesSharingJson() },
    [claim.publisher, claim.leaseSeconds, claim.limit, claim.bookingIds ?? null, claim.only ?? null],
  );
}

const READ_CLAIMED = {
  name: 'read_claimed',
  text: `select s.* from market_sync.snapshot_state state join market_inventory_snapshots s on s.booking_id = state.booking_id
    where state.booking_id = any ($2) and state.claimed_by = $1`,
};

/** The snapshots of these bookings as they are now; one whose claim this publisher has lost is left out. */
export async function readClaimed(
  db: Database,
  { publisher, bookingIds }: { publisher: string; bookingIds: readonly string[] },
): Promise<Snapshot[]> {
  if (bookingIds.length === 0) return [];
  return queryPrepared<Snapshot & Record<string, unknown>>(
    db,
    { ...READ_CLAIMED, types: typesSharingJson() },
    [publisher, bookingIds],
  );
}

/** A version of a listing that MongoDB has confirmed (I2). */
export interface Published {
  bookingId: string;
  epoch: number;
  revision: number;
  listingId: string;
  /** When its content last changed: tells it from one of the same number that another history made. */
  updatedAt: string | null;
}

const MARK = {
  name: 'mark_published',
  text: 'select market_sync.mark_published($1, $2, $3, $4, $5, $6) as unknown_ids',
};

/**
 * Marks versions that MongoDB confirmed `repliedMsAgo` milliseconds ago. What is marked already is never lowered. Answers
 * the bookings of which this database does not know the version, because it was put back, or another has taken over,
 * since the claim; of these nothing is marked.
 */
export async function markPublished(
  db: Database,
  published: Published[],
  { repliedMsAgo }: { repliedMsAgo?: number } = {},
): Promise<string[]> {
  const rows = await queryPrepared<{ unknown_ids: string[] }>(db, MARK, [
    published.map((entry) => entry.bookingId),
    published.map((entry) => entry.epoch),
    published.map((entry) => entry.revision),
    published.map((entry) => entry.listingId),
    published.map((entry) => entry.updatedAt),
    repliedMsAgo ?? null,
  ]);
  return rows[0]?.unknown_ids ?? [];
}

/** Those of these bookings that have a snapshot to publish: what a claim leaves out of them, another publisher holds. */
export async function findPublishable(db: Database, bookingIds: readonly string[]): Promise<string[]> {
  const rows = await query<{ booking_id: string }>(
    db,
    'select booking_id from market_sync.snapshot_state where booking_id = any ($1) and revision > 0',
    [bookingIds],
  );
  return rows.map((row) => row.booking_id);
}

/**
 * Gives claims of this publisher back, those of `bookingIds` or all, when MongoDB or PostgreSQL was not to be had: the
 * snapshots themselves are sound, no attempt is counted.
 */
export async function releaseClaims(
  db: Database,
  { publisher, bookingIds }: { publisher: string; bookingIds?: string[] },
): Promise<void> {
  await query(db, 'select market_sync.release_claims($1, $2)', [publisher, bookingIds ?? null]);
}

export interface Failure {
  bookingId: string;
  /** The version that failed: a newer one is not parked for it. */
  epoch: number;
  revision: number;
  error: string;
  /** Milliseconds before the second attempt; doubled with every further one, up to a minute, and jittered. */
  retryAfterMs: number;
  attemptsMax: number;
}

/** Records that one snapshot could not be published. Answers true when that was its last attempt: it is parked (I7). */
export async function recordFailure(db: Database, failure: Failure): Promise<boolean> {
  const rows = await query<{ parked: boolean }>(
    db,
    `select market_sync.record_failure($1, $2, $3 * interval '1 millisecond', $4, $5, $6) as parked`,
    [
      failure.bookingId,
      failure.error,
      failure.retryAfterMs,
      failure.attemptsMax,
      failure.epoch,
      failure.revision,
    ],
  );
  return rows[0]?.parked === true;
}

/** What is still to be published, as a condition on `market_sync.snapshot_state`: that of its partial index. */
export const UNPUBLISHED = '(epoch, revision) > (published_epoch, published_revision) and parked_at is null';

/** In work at once, by all publishers: of more, the first that is abandoned is found a little later. */
const IN_WORK_MAX = 1_000;

const NEXT_ATTEMPT = {
  name: 'next_attempt',
  // In the order of the index, each: read whole it has an entry for everything since the last vacuum.
  text: `select extract(epoch from least(
      (select next_attempt_at from market_sync.snapshot_state
       where ${UNPUBLISHED} and not background and next_attempt_at > (select clock_timestamp()) order by next_attempt_at limit 1),
      (select next_attempt_at from market_sync.snapshot_state
       where ${UNPUBLISHED} and background and next_attempt_at > (select clock_timestamp()) order by next_attempt_at limit 1),
      (select min(greatest(lease_until, clock_timestamp())) from (
         select lease_until from market_sync.snapshot_state
         where ${UNPUBLISHED} and next_attempt_at <= (select clock_timestamp()) order by background, next_attempt_at limit ${IN_WORK_MAX}
       ) due)
    ) - clock_timestamp())::float8 * 1000 as wait_ms
    where not market_sync.is_paused()`,
};

/** Milliseconds until the next snapshot can be claimed; undefined when none is left to publish, or the pipeline is paused. */
export async function nextAttemptInMs(db: Database): Promise<number | undefined> {
  const rows = await queryPrepared<{ wait_ms: number | null }>(db, NEXT_ATTEMPT, []);
  return rows[0]?.wait_ms ?? undefined;
}

/** Bookings whose newest snapshot MongoDB has not confirmed, without parked ones, oldest attempt first. */
export async function findUnpublished(db: Database, limit: number): Promise<string[]> {
  const rows = await query<{ booking_id: string }>(
    db,
    `select booking_id from market_sync.snapshot_state where ${UNPUBLISHED} order by background, next_attempt_at limit $1`,
    [limit],
  );
  return rows.map((row) => row.booking_id);
}

export async function countUnpublished(db: Database): Promise<number> {
  const rows = await query<{ count: number }>(
    db,
    `select count(*) from market_sync.snapshot_state where ${UNPUBLISHED}`,
  );
  return rows[0]?.count ?? 0;
}
