import { ensureListingIndexes } from '../mongo.ts';
import { sleep } from '../sleep.ts';
import { type AuditContext, type Drift, logged } from './drift-confirm.ts';
import { lookAtBookings } from './drift-listings.ts';
import { type Repair, subjectOf } from './drift-run.ts';
import { lookAtSnapshots, repairSnapshots, type SnapshotRepair } from './drift-snapshots.ts';
import { isOurs, type ListingVerdict } from './drift-verdict.ts';
import { deleteSeen } from './listings.ts';
import { publishBookings } from './publish.ts';

// Nothing is mended in place. A snapshot is computed anew from its source rows, its listing is published again at a higher
// revision; a document that no revision can be above, or that stands for no booking, is deleted as it was seen.

/** MongoDB is not to be had: nothing is wrong with the audit. */
export class MarketAwayError extends Error {
  override name = 'MarketAwayError';
}

const SETTLE_ROUNDS_MAX = 20;
const SETTLE_MS = 250;

/** Mends what was found, and answers the subjects that are still not as they must be. */
export async function repairDrift(
  ctx: AuditContext,
  { drift, repair }: { drift: Drift[]; repair: Exclude<Repair, 'off'> },
): Promise<Set<string>> {
  const listings = drift.flatMap(({ listing }) => (listing === undefined ? [] : [listing]));
  const doomed = listings.filter((verdict) => verdict.mustGo && mayDelete(verdict, repair));
  for (const part of inParts(doomed, ctx.publishMax)) {
    await deleteSeen(
      ctx.market,
      part.flatMap(({ document }) => (document === undefined ? [] : [document])),
    ).catch(rethrowAway);
  }
  const bookingIds = [
    ...new Set(
      drift.flatMap(({ bookingId, kind }) =>
        bookingId === null || kind === 'listing_orphan' ? [] : [bookingId],
      ),
    ),
  ];
  for (const ids of inParts(bookingIds, ctx.reconcileMax)) {
    const repairs = await readMarketSide(ctx, ids);
    await repairSnapshots(ctx.pool, { repairs, now: ctx.clock() });
  }
  for (const ids of inParts(bookingIds, ctx.publishMax)) {
    ctx.signal.throwIfAborted();
    const outcome = await publishBookings(ctx.publish, ids);
    if (outcome.outcome === 'unavailable') rethrowAway(outcome.error);
  }
  if (drift.some(({ kind }) => kind === 'listing_duplicate')) {
    await ensureListingIndexes(ctx.market).catch(logged(ctx.log, 'the unique index of listings is missing'));
  }
  return findLeft(ctx, { drift, repair });
}

const mayDelete = (verdict: ListingVerdict, repair: Repair): boolean =>
  repair === 'all' ||
  (verdict.kind === 'listing_orphan' ? isOurs(verdict) : verdict.kind !== 'listing_stray');

/** What is still, or again, not as it must be. What is on its way by now is as good as there. */
async function findLeft(
  ctx: AuditContext,
  { drift, repair }: { drift: Drift[]; repair: Repair },
): Promise<Set<string>> {
  const left = new Set(
    drift
      .filter(
        ({ bookingId, listing }) =>
          bookingId === null && listing !== undefined && !mayDelete(listing, repair),
      )
      .map(subjectOf),
  );
  let open = [...new Set(drift.flatMap(({ bookingId }) => (bookingId === null ? [] : [bookingId])))];
  for (let round = 1; open.length > 0; round += 1) {
    const [snapshots, listings] = [
      await lookAtSnapshots(ctx.pool, { bookingIds: open, now: ctx.clock() }),
      await lookAtBookings(ctx, open).catch(rethrowAway),
    ];
    const still = new Set<string>();
    for (const { bookingId, kind } of [...snapshots, ...listings]) {
      if (bookingId !== null && kind !== 'in_flight' && kind !== 'parked') still.add(bookingId);
    }
    const moving = new Set(
      listings.flatMap(({ bookingId, kind }) =>
        kind === 'in_flight' && bookingId !== null ? [bookingId] : [],
      ),
    );
    open = [...new Set([...still, ...moving])];
    if (round >= SETTLE_ROUNDS_MAX || (moving.size === 0 && round >= 3)) {
      for (const id of still) left.add(id);
      return left;
    }
    if (open.length > 0) await sleep(SETTLE_MS, ctx.signal);
    ctx.signal.throwIfAborted();
  }
  return left;
}

/** What is left in MongoDB of these bookings after what had to go is gone: their listings are to be above it. */
async function readMarketSide({ market }: AuditContext, bookingIds: string[]): Promise<SnapshotRepair[]> {
  const documents = await market.listings
    .find({ booking_id: { $in: bookingIds } })
    .project<{ _id: unknown; booking_id: string; revision?: unknown }>({ booking_id: 1, revision: 1 })
    .toArray()
    .catch(rethrowAway);
  const byBooking = new Map(documents.map((document) => [document.booking_id, document]));
  return bookingIds.map((bookingId) => {
    const found = byBooking.get(bookingId);
    return {
      bookingId,
      revision: countedRevision(found?.revision),
      listingId: found === undefined ? null : String(found._id),
    };
  });
}

/** A revision to go above, whoever has written it; null where nothing can be said. */
const countedRevision = (revision: unknown): number | null =>
  typeof revision === 'number' && revision >= 0 && revision < Number.MAX_SAFE_INTEGER
    ? Math.ceil(revision)
    : null;

export function rethrowAway(cause: unknown): never {
  throw new MarketAwayError('MongoDB cannot be read or written', { cause });
}

function* inParts<Item>(items: Item[], max: number): Generator<Item[]> {
  for (let at = 0; at < items.length; at += max) yield items.slice(at, at + max);
}
