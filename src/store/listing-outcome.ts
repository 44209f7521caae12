import type { Listing } from '../domain/listing.ts';
import type { ErrorKind } from '../errors.ts';
import { classifyMarketError } from '../mongo.ts';
import type { StoredVersion } from './listing-versions.ts';

export type ListingOutcome =
  /** `written`: the listing is at exactly this version; `superseded`: at a newer one, or at this one of another history. */
  { bookingId: string; result: 'written' | 'superseded'; listingId: string } | ListingFailure;

export interface ListingFailure {
  bookingId: string;
  result: 'failed';
  kind: ErrorKind;
  error: unknown;
}

export const failure = (bookingId: string, error: unknown): ListingFailure => ({
  bookingId,
  result: 'failed',
  kind: classifyMarketError(error),
  error,
});

/** A database put back to an older state counts the same numbers again; the time of the change then tells them apart. */
export function isSameVersion(
  found: StoredVersion,
  { epoch, revision, metadata }: Pick<Listing, 'epoch' | 'revision' | 'metadata'>,
): boolean {
  if (found.epoch !== epoch || found.revision !== revision) return false;
  const [theirs, ours] = [found.metadata?.last_updated, metadata?.last_updated];
  return typeof theirs !== 'string' || typeof ours !== 'string' || theirs === ours;
}
