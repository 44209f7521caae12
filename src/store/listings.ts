import { type Filter, ObjectId, type WithId } from 'mongodb';
import { z } from 'zod';
import { crashPoint } from '../crash-point.ts';
import { isListingId, type Listing } from '../domain/listing.ts';
import { isDuplicateKey, type Market } from '../mongo.ts';
import { type BulkReply, type ListingOperation, writeBulk } from './listing-bulk.ts';
import { failure, isSameVersion, type ListingFailure, type ListingOutcome } from './listing-outcome.ts';
import { checkSize } from './listing-size.ts';
import { EPOCH_MAX, readStoredVersions, type StoredVersion } from './listing-versions.ts';

export interface ListingWrite {
  listing: Listing;
  /** `_id` as 24 hex digits, if the booking has a listing already; anything else counts as none. */
  listingId: string | null;
}

export type DeleteOutcome =
  /** The listing is absent, or newer than the version that was to be deleted. */
  { bookingId: string; result: 'deleted_or_newer' } | ListingFailure;

/** Orders the versions of one booking's listing, `epoch` first (D7). */
export interface ListingVersion {
  bookingId: string;
  epoch: number;
  revision: number;
}

/** A write can lose each round to another one; that many in a row mean that something else is wrong. */
const ROUNDS_MAX = 6;

/** A document of the booking has an `_id` that no listing can have. */
class ForeignIdError extends Error {
  override name = 'ForeignIdError';
}

/** Another booking's document has the `_id` that this booking's listing is said to have. */
class ListingIdTakenError extends Error {
  override name = 'ListingIdTakenError';
}

/**
 * Brings listings to the versions given, or leaves them where they are newer. Outcomes come in the order of `writes`.
 *
 * After `written` or `superseded` the collection holds this booking's listing at this (epoch, revision) or a higher
 * one, acknowledged by a majority. A document of the booking without a readable version counts as older and is adopted
 * with its `_id`. Nothing is thrown: a booking that failed says so, with the kind of error; when the connection fails,
 * that is every booking not known to be written. An aborted `signal` stops before the next round trip.
 *
 * How: a guarded update where the listing is known, an insert where it is not; the unique index makes that insert an
 * insert-if-absent. Usually this is one round trip per kind. What neither inserted nor matched is read back, and
 * either is as new as it should be, or is tried again the other way. (An upsert whose duplicate-key errors are ignored
 * loses updates when writers race: D7.) Keys of `sensors` may hold dots and dollars, be empty: values of `$set` are
 * stored as they are by MongoDB 5 and later; FerretDB 1.24 refuses them, which poisons that booking only.
 */
export async function writeListings(
  market: Market,
  writes: readonly ListingWrite[],
  signal?: AbortSignal,
): Promise<ListingOutcome[]> {
  const outcomes: ListingOutcome[] = [];
  let attempts: Attempt[] = [];
  writes.forEach((write, index) => {
    const tooLarge = checkSize(write.listing);
    if (tooLarge !== undefined) outcomes[index] = failure(write.listing.booking_id, tooLarge);
    else attempts.push(firstAttempt(write, index));
  });
  for (let round = 1; attempts.length > 0; round += 1) {
    if (signal?.aborted === true || round > ROUNDS_MAX) {
      const error = signal?.aborted === true ? signal.reason : new Error('lost every round to other writers');
      for (const attempt of attempts) {
        outcomes[attempt.index] = { ...failure(attempt.listing.booking_id, error), kind: 'retryable' };
      }
      break;
    }
    attempts = await runRound(market, attempts, (attempt, outcome) => {
      outcomes[attempt.index] = outcome;
    });
  }
  return outcomes;
}

interface Attempt {
  /** Position in the writes given. */
  index: number;
  listing: Listing;
  id: ObjectId;
  mode: 'insert' | 'update';
}

type Settle = (attempt: Attempt, outcome: ListingOutcome) => void;

function firstAttempt(write: ListingWrite, index: number): Attempt {
  return {
    index,
    listing: write.listing,
    ...(isListingId(write.listingId)
      ? { id: ObjectId.createFromHexString(write.listingId), mode: 'update' }
      : { id: new ObjectId(), mode: 'insert' }),
  };
}

/** Writes once, settles what is settled, and returns what to try in the next round. */
async function runRound(market: Market, attempts: Attempt[], settle: Settle): Promise<Attempt[]> {
  const reply = await writeBulk(market, attempts.map(toOperation));
  const open = settleByReply(attempts, reply, settle);
  if (open.length === 0) return [];
  try {
    await crashPoint('market.between_rounds');
    const stored = await readStoredVersions(
      market,
      open.map((attempt) => attempt.listing.booking_id),
    );
    const next: Attempt[] = [];
    for (const attempt of open) {
      const found = stored.get(attempt.listing.booking_id);
      if (found !== undefined && !(found._id instanceof ObjectId)) {
        // Somebody else's document. As an error of the driver it would pass for an outage, and hold up everybody.
        const error = new ForeignIdError(
          `the booking's listing has the _id ${String(found._id)}, which is no ObjectId`,
        );
        settle(attempt, { ...failure(attempt.listing.booking_id, error), kind: 'poison' });
      } else if (found !== undefined && isAtLeast(found, attempt.listing))
        settle(attempt, reached(attempt, found));
      else if (found !== undefined) next.push({ ...attempt, mode: 'update', id: found._id });
      else next.push({ ...attempt, mode: 'insert' });
    }
    return await settleTakenIds(market, attempts, next, settle);
  } catch (error) {
    for (const attempt of open) settle(attempt, failure(attempt.listing.booking_id, error));
    return [];
  }
}

function toOperation({ mode, id, listing }: Attempt): ListingOperation {
  if (mode === 'insert') return { insertOne: { document: { ...listing, _id: id } } };
  return {
    updateOne: {
      // With `_id`, so that a match also proves that the listing's id is the one we know.
      filter: { _id: id, booking_id: listing.booking_id, ...olderThan(listing) } as Filter<WithId<Listing>>,
      update: { $set: listing },
      upsert: false,
    },
  };
}

/** Matches documents below a version, and those whose version is missing or unreadable. */
const olderThan = ({ epoch, revision }: { epoch: number; revision: number }): Filter<WithId<Listing>> => ({
  $nor: [{ epoch: { $gt: epoch } }, { epoch, revision: { $gte: revision } }],
});

/** As `olderThan`, or at this version. */
const atMost = ({ epoch, revision }: { epoch: number; revision: number }): Filter<WithId<Listing>> => ({
  $nor: [{ epoch: { $gt: epoch } }, { epoch, revision: { $gt: revision } }],
});

/** Settles what the reply decides and returns the rest: a kind that its count does not account for, and lost inserts. */
function settleByReply(attempts: Attempt[], reply: BulkReply, settle: Settle): Attempt[] {
  const acknowledged = attempts.filter((_, position) => !reply.errors.has(position));
  const open: Attempt[] = [];
  for (const [mode, count] of [
    ['insert', reply.insertedCount],
    ['update', reply.matchedCount],
  ] as const) {
    const ofMode = acknowledged.filter((attempt) => attempt.mode === mode);
    if (ofMode.length !== count) open.push(...ofMode);
    else for (const attempt of ofMode) settle(attempt, written(attempt));
  }
  for (const [position, error] of reply.errors) {
    const attempt = attempts[position] as Attempt;
    if (attempt.mode === 'insert' && isDuplicateKey(error)) open.push(attempt);
    else settle(attempt, failure(attempt.listing.booking_id, error));
  }
  return open;
}

const written = ({ id, listing }: Attempt): ListingOutcome => ({
  bookingId: listing.booking_id,
  result: 'written',
  listingId: id.toHexString(),
});

function isAtLeast(found: StoredVersion, wanted: Listing): boolean {
  const { epoch, revision } = found;
  if (typeof epoch !== 'number' || typeof revision !== 'number') return false;
  return epoch > wanted.epoch || (epoch === wanted.epoch && revision >= wanted.revision);
}

const reached = (attempt: Attempt, found: StoredVersion): ListingOutcome => ({
  bookingId: found.booking_id,
  result: isSameVersion(found, attempt.listing) ? 'written' : 'superseded',
  listingId: found._id.toHexString(),
});

/**
 * An insert refused as a duplicate although its booking has no document: the booking's was deleted in between (try
 * again), or another booking has this `_id` (no number of attempts will help).
 */
async function settleTakenIds(
  market: Market,
  before: Attempt[],
  next: Attempt[],
  settle: Settle,
): Promise<Attempt[]> {
  const inserted = new Set(before.filter((attempt) => attempt.mode === 'insert').map(({ index }) => index));
  const refused = next.filter((attempt) => attempt.mode === 'insert' && inserted.has(attempt.index));
  if (refused.length === 0) return next;
  const owners = await market.listings
    .find({ _id: { $in: refused.map((attempt) => attempt.id) } })
    .project<{ _id: ObjectId; booking_id: unknown }>({ _id: 1, booking_id: 1 })
    .toArray();
  const ownerById = new Map(owners.map((owner) => [owner._id.toHexString(), owner.booking_id]));
  return next.filter((attempt) => {
    const listingId = attempt.id.toHexString();
    const owner = ownerById.get(listingId);
    if (owner === undefined || owner === attempt.listing.booking_id) return true;
    const error = new ListingIdTakenError(`the listing ${listingId} belongs to another booking`);
    settle(attempt, { ...failure(attempt.listing.booking_id, error), kind: 'poison' });
    return false;
  });
}

/**
 * Deletes each booking's listing unless it is newer than the version given, so that a cleanup that took long cannot
 * delete what a newer write made (I4). Nothing is thrown; outcomes come in the order given.
 */
export async function deleteListings(
  market: Market,
  versions: readonly ListingVersion[],
): Promise<DeleteOutcome[]> {
  if (versions.length === 0) return [];
  const reply = await writeBulk(
    market,
    versions.map((version) => ({
      deleteOne: { filter: { booking_id: version.bookingId, ...atMost(version) } },
    })),
  );
  return versions.map(({ bookingId }, index) =>
    reply.errors.has(index)
      ? failure(bookingId, reply.errors.get(index))
      : { bookingId, result: 'deleted_or_newer' },
  );
}

/**
 * Deletes what a resync left behind: documents below `epoch`, except those of the bookings in `except`. A document
 * without a numeric epoch is not this program's work, and not for it to delete unasked. Returns how many. Throws the driver's error; calling it again goes on where it stopped.
 */
export async function deleteListingsBefore(
  market: Market,
  { epoch, except }: { epoch: number; except: Iterable<string> },
): Promise<number> {
  const DELETE_BATCH_MAX = 1_000;
  const below: Filter<WithId<Listing>> = { epoch: { $lt: epoch } };
  const kept = new Set<unknown>(except);
  let deletedCount = 0;
  let ids: ObjectId[] = [];
  const flush = async () => {
    // By `_id`, because a document added by hand need not have a booking; guarded again, because it may be newer by now.
    const result = await market.listings.deleteMany({ _id: { $in: ids }, ...below });
    deletedCount += result.deletedCount;
    ids = [];
  };
  for await (const document of market.listings.find(below).project({ _id: 1, booking_id: 1 })) {
    if (kept.has(document.booking_id)) continue;
    ids.push(document._id);
    if (ids.length === DELETE_BATCH_MAX) await flush();
  }
  if (ids.length > 0) await flush();
  return deletedCount;
}

/** A document as somebody saw it: what tells it from the one that a newer write leaves in its place. */
export interface SeenDocument {
  _id: unknown;
  booking_id?: unknown;
  epoch?: unknown;
  revision?: unknown;
}

/** Deletes documents, by `_id`, that are still as they were seen. Throws the driver's error. */
export async function deleteSeen(market: Market, documents: readonly SeenDocument[]): Promise<void> {
  if (documents.length === 0) return;
  await market.listings.bulkWrite(
    documents.map(({ _id, booking_id = null, epoch = null, revision = null }) => ({
      // In a filter null is a missing field, too.
      deleteOne: { filter: { _id, booking_id, epoch, revision } as Filter<WithId<Listing>> },
    })),
    { ordered: false },
  );
}

/** The highest epoch that a database can have given a listing; 0 when there is none. Throws the driver's error. */
export async function readMarketEpoch(market: Market): Promise<number> {
  const highest = await market.listings
    .find({ epoch: { $gte: 1, $lte: EPOCH_MAX } })
    .project<{ epoch: unknown }>({ _id: 0, epoch: 1 })
    .sort({ epoch: -1 })
    .limit(1)
    .next();
  return typeof highest?.epoch === 'number' ? Math.floor(highest.epoch) : 0;
}

/** Not `z.record`, which drops a key named `__proto__`. */
const anyObject = z.custom<Record<string, unknown>>(
  (value) => typeof value === 'object' && value !== null && !Array.isArray(value),
  'must be an object',
);

const listingSchema = z.object({
  booking_id: z.string(),
  farmer_id: z.string(),
  vendor_id: z.string().nullable(),
  location_id: z.string().nullable(),
  crop_type: z.string(),
  quantity_kg: z.number(),
  grade: z.string().nullable(),
  duration_days: z.number().nullable(),
  start_date: z.string().nullable(),
  end_date: z.string().nullable(),
  quality_score: z.number().nullable(),
  freshness: z.string(),
  visual_defects: z.string(),
  shelf_life_days: z.number().nullable(),
  sensors: anyObject,
  sensor_summary: anyObject,
  pest_events: z.array(z.unknown()),
  pest_count: z.number(),
  has_pest_alerts: z.boolean(),
  certificates: z.array(z.unknown()),
  is_certified: z.boolean(),
  certification_types: z.array(z.string()),
  metadata: anyObject,
  status: z.enum(['published', 'held', 'completed', 'withdrawn']),
  published_at: z.string(),
  epoch: z.int(),
  revision: z.int(),
}) satisfies z.ZodType<Listing>;

export type StoredListing =
  | { state: 'valid'; listingId: string; listing: Listing }
  /** Somebody else wrote it: `problems` names the fields that are not as they must be. */
  | { state: 'invalid'; listingId: string; problems: string[] };

/** The listings of these bookings; one without a listing is not in the map. Fields of others are left out. */
export async function readListings(
  market: Market,
  bookingIds: readonly string[],
): Promise<Map<string, StoredListing>> {
  const documents = await market.listings.find({ booking_id: { $in: [...bookingIds] } }).toArray();
  return new Map(
    documents.map(({ _id, ...fields }): [string, StoredListing] => [
      fields.booking_id,
      validate(_id, fields),
    ]),
  );
}

function validate(id: unknown, fields: unknown): StoredListing {
  const listingId = String(id);
  const parsed = listingSchema.safeParse(fields);
  if (parsed.success) return { state: 'valid', listingId, listing: parsed.data };
  const problems = parsed.error.issues.map((issue) => `${issue.path.join('.')}: ${issue.message}`);
  return { state: 'invalid', listingId, problems };
}

/** How many documents the collection holds, counted, not estimated. */
export function countListings(market: Market): Promise<number> {
  return market.listings.countDocuments({});
}
