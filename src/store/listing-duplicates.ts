import type { ListingId, Market } from '../mongo.ts';
import { type Database, query } from '../postgres.ts';

/** Several documents of one booking: which of them stays, and which go. */
export interface Duplicate {
  bookingId: string;
  /** Of the document that stays. */
  kept: ListingId;
  removed: ListingId[];
}

export interface DuplicateBatch {
  duplicates: Duplicate[];
  /** Documents that say of no booking that they are its listing: not ours to judge. */
  unowned: number;
}

interface Group {
  _id: unknown;
  documents: { _id: ListingId; epoch?: unknown; revision?: unknown }[];
}

const BATCH_MAX = 200;

/**
 * Finds bookings with several documents, in batches. Of each the one that the snapshot's `market_listing_id` names stays,
 * because buyers' links lead there; else the one with the highest version; else the newest. Throws the servers' errors.
 */
export async function* findDuplicates(db: Database, market: Market): AsyncGenerator<DuplicateBatch> {
  const cursor = market.listings.aggregate<Group>(
    [
      {
        $group: {
          _id: '$booking_id',
          count: { $sum: 1 },
          documents: { $push: { _id: '$_id', epoch: '$epoch', revision: '$revision' } },
        },
      },
      { $match: { count: { $gt: 1 } } },
    ],
    { allowDiskUse: true },
  );
  let groups: Group[] = [];
  for await (const group of cursor) {
    groups.push(group);
    if (groups.length < BATCH_MAX) continue;
    yield await judge(db, groups);
    groups = [];
  }
  if (groups.length > 0) yield await judge(db, groups);
}

async function judge(db: Database, groups: Group[]): Promise<DuplicateBatch> {
  const owned = groups.filter((group): group is Group & { _id: string } => typeof group._id === 'string');
  const rows = await query<{ booking_id: string; listing_id: string }>(
    db,
    `select booking_id, market_listing_id as listing_id from market_inventory_snapshots
     where booking_id::text = any ($1) and market_listing_id is not null`,
    [owned.map((group) => group._id)],
  );
  const named = new Map(rows.map((row) => [row.booking_id, row.listing_id.toLowerCase()]));
  const duplicates = owned.map(({ _id: bookingId, documents }) => {
    const ids = documents.toSorted(newestFirst).map((document) => document._id);
    const kept = ids.find((id) => String(id) === named.get(bookingId)) ?? (ids[0] as ListingId);
    return { bookingId, kept, removed: ids.filter((id) => id !== kept) };
  });
  const unowned = groups.filter((group) => typeof group._id !== 'string');
  return { duplicates, unowned: unowned.reduce((sum, group) => sum + group.documents.length, 0) };
}

/** An ObjectId begins with the second in which it was made. */
function newestFirst(a: Group['documents'][number], b: Group['documents'][number]): number {
  return (
    versionPart(b.epoch) - versionPart(a.epoch) ||
    versionPart(b.revision) - versionPart(a.revision) ||
    (String(a._id) < String(b._id) ? 1 : -1)
  );
}

const versionPart = (value: unknown): number => (typeof value === 'number' ? value : -1);

/** Deletes what `findDuplicates` found too many; answers how many documents went. Repeating it does no harm. */
export async function removeDuplicates(market: Market, duplicates: readonly Duplicate[]): Promise<number> {
  // By `_id` alone another booking's document could go, should somebody have changed whose it is meanwhile.
  const result = await market.listings.deleteMany({
    _id: { $in: duplicates.flatMap(({ removed }) => removed) },
    booking_id: { $in: duplicates.map(({ bookingId }) => bookingId) },
  });
  return result.deletedCount;
}
