import type pg from 'pg';
import { describeError } from '../errors.ts';
import { ensureListingIndexes } from '../mongo.ts';
import { classifyPostgresError, connect, inTransaction } from '../postgres.ts';
import { type AuditContext, confirmListings, confirmSnapshots, type Drift, logged } from './drift-confirm.ts';
import { findStrays, lookAtBookings } from './drift-listings.ts';
import { lookAtListings } from './drift-range.ts';
import { MarketAwayError, repairDrift, rethrowAway } from './drift-repair.ts';
import {
  type AuditRequest,
  type AuditRun,
  abandonAudit,
  findOpenAudit,
  finishAudit,
  readAudit,
  readPending,
  recordChunkDone,
  recordFound,
  releaseWorkLock,
  requestAudit,
  requireAudit,
  takeAudit,
  tryWorkLock,
} from './drift-run.ts';
import { findNext, lookAtSnapshots, type SnapshotVerdict } from './drift-snapshots.ts';
import type { ListingVerdict } from './drift-verdict.ts';
import { ListingEncoder } from './listing-bytes.ts';

// One audit, from its cursor to its end: bookings by id, each chunk compared, confirmed, written down, mended, settled.

/**
 * Works on the audit that is asked for, to its end, and answers it: a new one, or one of the same kind that was left open,
 * from its cursor on. What is open and another's is finished first, or given up where only a person would. Without `asked`:
 * the one that the pipeline was asked for; undefined when there is none. `in_work` when another process is at one.
 *
 * Throws `AuditLostError` when it was cancelled, and what may pass (`isPassing`): then it stays open.
 */
export async function workAudit(
  ctx: AuditContext,
  asked: AuditRequest | undefined,
): Promise<AuditRun | 'in_work' | undefined> {
  const holder = await connect(ctx.pool);
  let broken: Error | undefined;
  try {
    if (!(await tryWorkLock(holder))) return 'in_work';
    try {
      return await workAsked(ctx, asked);
    } finally {
      await releaseWorkLock(holder).catch((error: Error) => {
        broken = error;
      });
    }
  } finally {
    holder.release(broken);
  }
}

async function workAsked(ctx: AuditContext, asked: AuditRequest | undefined): Promise<AuditRun | undefined> {
  for (;;) {
    const open = await findOpenAudit(ctx.pool);
    if (asked === undefined) {
      if (open === undefined || open.worker === 'command') return undefined;
      return await workToEnd(ctx, open.id);
    }
    if (open === undefined || (open.repair === asked.repair && open.worker === asked.worker)) {
      return await workToEnd(ctx, open?.id ?? (await requestAudit(ctx.pool, asked)));
    }
    if (open.worker === 'command') await abandonAudit(ctx.pool, open.id);
    else await workToEnd(ctx, open.id);
  }
}

async function workToEnd(ctx: AuditContext, id: number): Promise<AuditRun> {
  const run = await takeAudit(ctx.pool, id);
  try {
    if (run.repair !== 'off') {
      // Without the unique one, what is published could come twice.
      await ensureListingIndexes(ctx.market).catch(logged(ctx.log, 'the indexes of listings cannot be made'));
    }
    if (run.phase === 'bookings') await auditBookings(ctx, run);
    await auditStrays(ctx, run);
    await finishAudit(ctx.pool, run, { state: 'done' });
    return await readAudit(ctx.pool, id);
  } catch (error) {
    if (!ctx.signal.aborted && !isPassing(error)) {
      await finishAudit(ctx.pool, run, { state: 'failed', error: describeError(error) });
    }
    throw error;
  }
}

/** Whether it is worth trying again, as it is: a server was away. */
export const isPassing = (error: unknown): boolean =>
  error instanceof MarketAwayError || classifyPostgresError(error) === 'retryable';

async function auditBookings(ctx: AuditContext, run: AuditRun): Promise<void> {
  const looking = { ...ctx, encoder: new ListingEncoder() };
  let after = run.after_booking_id;
  let compared = run.compared;
  let next = takeChunk(ctx, after);
  for (;;) {
    ctx.signal.throwIfAborted();
    const startedAt = performance.now();
    const { bookingIds, snapshots } = await next;
    const last = bookingIds.length < ctx.chunkMax ? undefined : bookingIds.at(-1);
    if (last !== undefined) {
      // PostgreSQL computes the next one while this one's listings are read.
      next = takeChunk(ctx, last);
      next.catch(() => undefined);
    }
    const { verdicts: listings, documents } = await lookAtListings(looking, {
      after,
      upto: last,
      bookingIds,
    }).catch(rethrowMarket);
    const { drift, inFlight, parked } = await confirm(ctx, { snapshots: await snapshots, listings });
    await settleChunk(ctx, run, drift, {
      after: last,
      compared: bookingIds.length,
      listings: documents,
      inFlight: inFlight.size,
      parked: parked.size,
      startedAt,
    });
    compared += bookingIds.length;
    ctx.onProgress?.({ compared, total: run.total, found: drift.length });
    if (last === undefined) return;
    after = last;
  }
}

/** The next bookings by id, and the look at their snapshots, which has begun. */
async function takeChunk(
  ctx: AuditContext,
  after: string | null,
): Promise<{ bookingIds: string[]; snapshots: Promise<SnapshotVerdict[]> }> {
  const bookingIds = await findNext(ctx.pool, { after, limit: ctx.chunkMax });
  const snapshots = lookAtSnapshots(ctx.pool, { bookingIds, now: ctx.clock() });
  snapshots.catch(() => undefined);
  return { bookingIds, snapshots };
}

/** PostgreSQL is read in the same breath; what is not its error is MongoDB's. */
function rethrowMarket(error: unknown): never {
  if (classifyPostgresError(error) !== 'fatal' || error instanceof TypeError) throw error;
  rethrowAway(error);
}

async function confirm(
  ctx: AuditContext,
  looked: { snapshots: SnapshotVerdict[]; listings: ListingVerdict[] },
): Promise<{ drift: Drift[]; inFlight: Set<string>; parked: Set<string> }> {
  const snapshots = await confirmSnapshots(ctx, looked.snapshots);
  const wrong = new Set(snapshots.drift.map(({ bookingId }) => bookingId));
  // What a listing must say is not known while its snapshot is wrong; it is written again with it.
  const judged = looked.listings.filter(
    ({ bookingId, kind }) => bookingId === null || kind === 'listing_duplicate' || !wrong.has(bookingId),
  );
  const market = await confirmListings(ctx, judged).catch(rethrowMarket);
  return {
    drift: [
      ...snapshots.drift.map((verdict) => ({
        kind: verdict.kind as Drift['kind'],
        bookingId: verdict.bookingId,
        listingId: null,
        fields: verdict.fields,
        snapshot: verdict,
      })),
      ...market.drift
        .map(toDrift)
        .filter(
          ({ bookingId, kind }) =>
            bookingId === null || kind === 'listing_duplicate' || !wrong.has(bookingId),
        ),
    ],
    inFlight: new Set([...snapshots.inFlight, ...market.inFlight]),
    parked: new Set([...snapshots.parked, ...market.parked]),
  };
}

const toDrift = (verdict: ListingVerdict): Drift => ({
  kind: verdict.kind as Drift['kind'],
  bookingId: verdict.bookingId,
  listingId: verdict.listingId,
  fields: verdict.fields,
  listing: verdict,
});

interface ChunkFigures {
  after: string | undefined;
  compared: number;
  listings: number;
  inFlight: number;
  parked: number;
  startedAt: number;
}

/** Writes down what was found, mends it, and writes down what came of that, with the cursor. */
async function settleChunk(
  ctx: AuditContext,
  run: AuditRun,
  drift: Drift[],
  { startedAt, ...figures }: ChunkFigures,
): Promise<void> {
  const record = (work: (client: pg.PoolClient) => Promise<void>): Promise<void> =>
    inTransaction(ctx.pool, async (client) => {
      await requireAudit(client, run);
      await work(client);
    });
  let left: Set<string> | undefined;
  if (run.repair !== 'off') {
    await record((client) => recordFound(client, run, drift));
    const pending = await readPending(ctx.pool, run);
    if (pending.length > 0) {
      left = await repairDrift(ctx, { drift: await withLooks(ctx, { pending, drift }), repair: run.repair });
    }
  }
  await record(async (client) => {
    if (run.repair === 'off') await recordFound(client, run, drift);
    await recordChunkDone(client, run, { ...figures, busyMs: performance.now() - startedAt, left });
  });
}

/** What this process has not seen itself, because it was found before a kill, is looked at once more. */
async function withLooks(
  ctx: AuditContext,
  { pending, drift }: { pending: Drift[]; drift: Drift[] },
): Promise<Drift[]> {
  const seen = new Set(drift.map(({ bookingId }) => bookingId));
  const unseen = pending.flatMap(({ bookingId }) =>
    bookingId === null || seen.has(bookingId) ? [] : [bookingId],
  );
  if (unseen.length === 0) return drift;
  const ids = [...new Set(unseen)];
  const isDrift = ({ kind }: { kind: string }): boolean => kind !== 'in_flight' && kind !== 'parked';
  const listings = (await lookAtBookings(ctx, ids).catch(rethrowMarket)).filter(isDrift).map(toDrift);
  const snapshots = (await lookAtSnapshots(ctx.pool, { bookingIds: ids, now: ctx.clock() })).filter(isDrift);
  return [
    ...drift,
    ...listings,
    ...snapshots.map((snapshot) => ({
      kind: snapshot.kind as Drift['kind'],
      bookingId: snapshot.bookingId,
      listingId: null,
      fields: snapshot.fields,
      snapshot,
    })),
  ];
}

/** Documents that no booking's look finds, a batch at a time. A kill costs the scan, nothing is counted twice. */
async function auditStrays(ctx: AuditContext, run: AuditRun): Promise<void> {
  const none = { after: undefined, compared: 0, inFlight: 0, parked: 0 };
  let startedAt = performance.now();
  const strays = findStrays(ctx.market);
  for (;;) {
    ctx.signal.throwIfAborted();
    const { value: batch, done } = await strays.next().catch(rethrowAway);
    if (done === true) break;
    await settleChunk(ctx, run, batch.map(toDrift), { ...none, listings: batch.length, startedAt });
    startedAt = performance.now();
  }
  await settleChunk(ctx, run, [], { ...none, listings: 0, startedAt });
}

/** Batches of bookings that one look at the snapshots takes: the more, the fewer times a location's sensors are read. */
const CHUNK_BATCHES = 40;

/** What of an audit depends on the settings. */
export const auditSettings = (config: {
  batchKeysMax: number;
  publishBatchMax: number;
}): Pick<AuditContext, 'chunkMax' | 'reconcileMax' | 'publishMax'> => ({
  chunkMax: CHUNK_BATCHES * config.batchKeysMax,
  reconcileMax: config.batchKeysMax,
  publishMax: config.publishBatchMax,
});
