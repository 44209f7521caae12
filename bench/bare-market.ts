import { ObjectId } from 'mongodb';
import type { Listing } from '../src/domain/listing.ts';
import type { Market } from '../src/mongo.ts';

/** Operations of one `bulkWrite`: larger ones are no faster against any server tried. */
const BULK = 1_000;

/** Writes these listings, which are there, as a program does that asks for no order and keeps no account. */
export async function writeBare(
  market: Market,
  documents: { listing: Listing; listingId: string }[],
): Promise<void> {
  for (let first = 0; first < documents.length; first += BULK) {
    await market.listings.bulkWrite(
      documents.slice(first, first + BULK).map(({ listing, listingId }) => ({
        updateOne: {
          filter: { _id: ObjectId.createFromHexString(listingId) },
          // A version below ours, so that the publisher finds its own still to do.
          update: { $set: { ...listing, revision: listing.revision - 1 } },
        },
      })),
      { ordered: false },
    );
  }
}
