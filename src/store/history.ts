import type { Logger } from '../log.ts';
import type { Market } from '../mongo.ts';
import { ConnectionLostError, type Database, query } from '../postgres.ts';
import { type FoundVersion, readListingVersions, scanListingVersions } from './listing-versions.ts';
import { readMarketEpoch } from './listings.ts';

// A database put back from an older copy agrees with itself in every respect; that history was cut shows only in
// MongoDB, which has versions of listings that this database has not made (D6, row 13).

export interface HistoryContext {
  pool: Database;
  market: Market;
  log: Logger;
}

/**
 * Cuts history when MongoDB has versions of these bookings' listings that it has not made, and answers which bookings'.
 * They, and everything else, are then published again in a new epoch. Empty when all is well, which it is too when
 * another publisher has published a newer version meanwhile.
 */
export async function requireKnownVersions(
  ctx: HistoryContext,
  bookingIds: readonly string[],
): Promise<Set<string>> {
  return cutIfUnknown(ctx, await readVersions(ctx, bookingIds));
}

/**
 * Compares every listing with its snapshot, and cuts history when MongoDB knows a version that it has not made. Answers
 * how many were compared. Stops early when `signal` aborts, or once history is cut: the resync does the rest.
 */
export async function checkHistory(
  ctx: HistoryContext,
  signal: AbortSignal,
): Promise<{ compared: number; cut: boolean }> {
  let compared = 0;
  const batches = scanListingVersions(ctx.market, await readEpoch(ctx.pool));
  for (;;) {
    signal.throwIfAborted();
    const { value: batch, done } = await batches.next().catch(rethrowOutage);
    if (done === true) return { compared, cut: false };
    compared += batch.length;
    if ((await cutIfUnknown(ctx, batch)).size > 0) {
      await batches.return(undefined);
      return { compared, cut: true };
    }
  }
}

/**
 * The postmaster under which history is to be checked; undefined when it has been. Also while nobody streams from the
 * slot: whoever begins to judges slot and checkpoint first, and what that brings to light is not to be found twice.
 */
export async function findUncheckedHistory(db: Database): Promise<string | undefined> {
  const rows = await query<{ started_at: string }>(
    db,
    `select pg_postmaster_start_time()::text as started_at
     from market_sync.checkpoint c
     join pg_replication_slots s on s.slot_name = c.slot_name and s.active
     where c.history_checked_for is distinct from pg_postmaster_start_time()`,
  );
  return rows[0]?.started_at;
}

/** Notes what a comparison found, for the view `drift`. */
export async function recordHistoryCheck(
  db: Database,
  check: { startedAt: Date; compared: number; cut: boolean },
): Promise<void> {
  await query(
    db,
    `insert into market_sync.drift_check (kind, started_at, compared, found, outcome) values ('versions', $1, $2, $3, $4)`,
    [
      check.startedAt,
      check.compared,
      Number(check.cut),
      check.cut ? 'MongoDB had versions of another history: everything is published again' : 'nothing found',
    ],
  );
}

export async function markHistoryChecked(db: Database, postmasterStartedAt: string): Promise<void> {
  await query(db, 'update market_sync.checkpoint set history_checked_for = $1::timestamptz', [
    postmasterStartedAt,
  ]);
}

/** Has every listing compared once more: something was published that this history does not know. */
export async function forgetHistoryCheck(db: Database): Promise<void> {
  await query(db, 'update market_sync.checkpoint set history_checked_for = null');
}

async function readEpoch(db: Database): Promise<number> {
  const rows = await query<{ epoch: number }>(db, 'select epoch from market_sync.checkpoint');
  return rows[0]?.epoch ?? 1;
}

async function cutIfUnknown(ctx: HistoryContext, found: FoundVersion[]): Promise<Set<string>> {
  const unknown = await confirmUnknown(ctx, found);
  const example = unknown[0];
  if (example === undefined) return new Set();
  const reason = 'MongoDB has listings of another history: PostgreSQL was put back to an older state';
  const marketEpoch = await readMarketEpoch(ctx.market).catch(rethrowOutage);
  const rows = await query<{ epoch: number | null }>(
    ctx.pool,
    'select market_sync.cut_unless_known($1, $2, $3, $4, $5, $6) as epoch',
    [...columnsOf(unknown), reason, marketEpoch],
  );
  const epoch = rows[0]?.epoch;
  // Another process has found the same and cut.
  if (epoch === null || epoch === undefined) return new Set();
  ctx.log.error(
    { reason, booking_id: example.bookingId, market_revision: example.revision, epoch },
    'changes may have been lost, everything will be recomputed and published again',
  );
  return new Set(unknown.map(({ bookingId }) => bookingId));
}

/**
 * The versions that this history has not made. A listing without a snapshot may be one that cleanup was deleting, the
 * listing first: it is read once more, and counts only if it is still there.
 */
async function confirmUnknown(ctx: HistoryContext, found: FoundVersion[]): Promise<FoundVersion[]> {
  const rows = await findUnknown(ctx.pool, found);
  const ids = new Set(rows.map((row) => row.booking_id));
  const unknown = found.filter(({ bookingId }) => ids.has(bookingId));
  const bare = new Set(rows.filter((row) => !row.has_snapshot).map((row) => row.booking_id));
  if (bare.size === 0) return unknown;
  const still = new Set((await readVersions(ctx, [...bare])).map(({ bookingId }) => bookingId));
  return unknown.filter(({ bookingId }) => !bare.has(bookingId) || still.has(bookingId));
}

const readVersions = (ctx: HistoryContext, bookingIds: readonly string[]): Promise<FoundVersion[]> =>
  readListingVersions(ctx.market, bookingIds).catch(rethrowOutage);

/** Whatever keeps MongoDB from answering: the comparison waits, and no verdict is given without it. */
function rethrowOutage(cause: unknown): never {
  throw new ConnectionLostError('MongoDB cannot be read', { cause });
}

function findUnknown(
  db: Database,
  found: FoundVersion[],
): Promise<{ booking_id: string; has_snapshot: boolean }[]> {
  return query(
    db,
    'select booking_id, has_snapshot from market_sync.find_unknown_versions($1, $2, $3, $4)',
    columnsOf(found),
  );
}

const columnsOf = (versions: FoundVersion[]): unknown[] => [
  versions.map(({ bookingId }) => bookingId),
  versions.map(({ epoch }) => epoch),
  versions.map(({ revision }) => revision),
  versions.map(({ updatedAt }) => updatedAt),
];
