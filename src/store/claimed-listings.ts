import { isListingId, toListing } from '../domain/listing.ts';
import type { Snapshot } from '../domain/snapshot.ts';
import type { ListingOutcome } from './listing-outcome.ts';
import { type ListingPatch, patchListings } from './listing-patches.ts';
import { type ListingWrite, writeListings } from './listings.ts';
import { type ClaimedListing, readClaimed } from './outbox.ts';
import type { PublishContext } from './publish.ts';

/** The version of a listing that was to be written, and what became of that. */
export interface Attempted {
  bookingId: string;
  epoch: number;
  revision: number;
  /** When its content last changed. */
  updatedAt: string | null;
  outcome: ListingOutcome;
}

/**
 * Writes the listings of claimed snapshots: of those in which only the sensors changed these, of the others everything, as
 * it is now. A claim that was lost meanwhile is in no result.
 */
export async function writeClaimed(
  ctx: PublishContext,
  claims: readonly ClaimedListing[],
): Promise<Attempted[]> {
  const patches: ListingPatch[] = [];
  const whole: string[] = [];
  for (const claim of claims) {
    const patch = toPatch(claim);
    if (patch === undefined) whole.push(claim.booking_id);
    else patches.push(patch);
  }
  // Claims are given back when one fails, and not while the other still writes: on FerretDB two writers may not meet.
  const [patched, written] = await Promise.allSettled([
    patchListings(ctx.market, patches),
    writeWhole(ctx, whole),
  ]);
  if (patched.status === 'rejected') throw patched.reason;
  if (written.status === 'rejected') throw written.reason;
  const unmatched: string[] = [];
  const attempted = written.value;
  patched.value.forEach((outcome, index) => {
    const patch = patches[index];
    if (patch === undefined || patch.bookingId !== outcome.bookingId) {
      throw new Error('patchListings answered out of order');
    }
    if (outcome.result === 'unmatched') unmatched.push(outcome.bookingId);
    else attempted.push(toAttempted({ ...patch, ...patch.fields }, outcome));
  });
  return [...attempted, ...(await writeWhole(ctx, unmatched))];
}

function toPatch(claim: ClaimedListing): ListingPatch | undefined {
  const { booking_id: bookingId, market_listing_id: listingId, epoch, revision } = claim;
  if (claim.base_revision === null || !isListingId(listingId)) return undefined;
  const { base_revision: baseRevision, sensors, sensor_summary, metadata } = claim;
  return {
    bookingId,
    listingId,
    epoch,
    revision,
    baseRevision,
    fields: { sensors, sensor_summary, metadata },
  };
}

async function writeWhole(ctx: PublishContext, bookingIds: readonly string[]): Promise<Attempted[]> {
  const snapshots = await readClaimed(ctx.pool, { publisher: ctx.publisher, bookingIds });
  const outcomes = await writeListings(ctx.market, snapshots.map(toWrite));
  return outcomes.map((outcome, index) => {
    const snapshot = snapshots[index];
    if (snapshot === undefined || snapshot.booking_id !== outcome.bookingId) {
      throw new Error('writeListings answered out of order');
    }
    return toAttempted(snapshot, outcome);
  });
}

function toWrite(snapshot: Snapshot): ListingWrite {
  // The claim has set published_at; an infinite one, set by hand, becomes the epoch rather than an error.
  const publishedAt = snapshot.published_at instanceof Date ? snapshot.published_at : new Date(0);
  return { listing: toListing(snapshot, publishedAt), listingId: snapshot.market_listing_id };
}

function toAttempted(
  { epoch, revision, metadata }: Pick<Snapshot, 'epoch' | 'revision' | 'metadata'>,
  outcome: ListingOutcome,
): Attempted {
  const updatedAt = metadata.last_updated;
  return {
    bookingId: outcome.bookingId,
    epoch,
    revision,
    updatedAt: typeof updatedAt === 'string' ? updatedAt : null,
    outcome,
  };
}
