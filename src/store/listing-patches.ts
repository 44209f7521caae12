import { type Filter, ObjectId, type WithId } from 'mongodb';
import { crashPoint } from '../crash-point.ts';
import type { Listing } from '../domain/listing.ts';
import type { Market } from '../mongo.ts';
import { type BulkReply, type ListingOperation, writeBulk } from './listing-bulk.ts';
import { failure, isSameVersion, type ListingOutcome } from './listing-outcome.ts';
import { checkSize } from './listing-size.ts';
import { readStoredVersions } from './listing-versions.ts';

/** What a reading changes; the rest of the listing is as it was at `baseRevision`. */
export interface ListingPatch {
  bookingId: string;
  /** `_id` as 24 hex digits. */
  listingId: string;
  epoch: number;
  revision: number;
  baseRevision: number;
  fields: Pick<Listing, 'sensors' | 'sensor_summary' | 'metadata'>;
}

export type PatchOutcome =
  | ListingOutcome
  /** The listing is not at `baseRevision`, or not there: the whole of it has to be written. Nothing was changed. */
  | { bookingId: string; result: 'unmatched' };

/**
 * Brings listings from one version to another by writing what differs: two fifths of the bytes of the whole, for the driver to
 * encode and for MongoDB to read. Outcomes come in the order of `patches`; nothing is thrown.
 *
 * Only a listing that has exactly the version `(epoch, baseRevision)` is touched (I3, I4): whatever else happened to it, an
 * older write that went astray, a database put back, is for `writeListings` to decide. A field that somebody edited by
 * hand stays edited until it changes in PostgreSQL or an audit puts it right.
 */
export async function patchListings(
  market: Market,
  patches: readonly ListingPatch[],
): Promise<PatchOutcome[]> {
  const outcomes: PatchOutcome[] = [];
  const sent: { patch: ListingPatch; index: number }[] = [];
  patches.forEach((patch, index) => {
    const tooLarge = checkSize(patch.fields);
    if (tooLarge === undefined) sent.push({ patch, index });
    else outcomes[index] = failure(patch.bookingId, tooLarge);
  });
  if (sent.length === 0) return outcomes;
  const reply = await writeBulk(
    market,
    sent.map(({ patch }) => toOperation(patch)),
  );
  const settled = await settle(
    market,
    sent.map(({ patch }) => patch),
    reply,
  );
  sent.forEach(({ index }, position) => {
    outcomes[index] = settled[position] as PatchOutcome;
  });
  return outcomes;
}

function toOperation({
  bookingId,
  listingId,
  epoch,
  revision,
  baseRevision,
  fields,
}: ListingPatch): ListingOperation {
  return {
    updateOne: {
      filter: {
        _id: ObjectId.createFromHexString(listingId),
        booking_id: bookingId,
        epoch,
        revision: baseRevision,
      } as Filter<WithId<Listing>>,
      update: { $set: { ...fields, revision } },
      upsert: false,
    },
  };
}

async function settle(market: Market, patches: ListingPatch[], reply: BulkReply): Promise<PatchOutcome[]> {
  const acknowledged = patches.filter((_, position) => !reply.errors.has(position));
  // The server says how many it found, not which.
  const stored =
    reply.matchedCount === acknowledged.length ? undefined : await findStored(market, acknowledged);
  return patches.map((patch, position): PatchOutcome => {
    const { bookingId, epoch, revision, fields } = patch;
    if (reply.errors.has(position)) return failure(bookingId, reply.errors.get(position));
    if (stored === undefined) return { bookingId, result: 'written', listingId: patch.listingId };
    if ('error' in stored) return failure(bookingId, stored.error);
    const found = stored.versions.get(bookingId);
    return found?._id instanceof ObjectId &&
      isSameVersion(found, { epoch, revision, metadata: fields.metadata })
      ? { bookingId, result: 'written', listingId: found._id.toHexString() }
      : { bookingId, result: 'unmatched' };
  });
}

type Stored = { versions: Awaited<ReturnType<typeof readStoredVersions>> } | { error: unknown };

async function findStored(market: Market, patches: ListingPatch[]): Promise<Stored> {
  try {
    await crashPoint('market.between_rounds');
    const bookingIds = patches.map(({ bookingId }) => bookingId);
    return { versions: await readStoredVersions(market, bookingIds) };
  } catch (error) {
    return { error };
  }
}
