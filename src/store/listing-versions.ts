import type { ObjectId } from 'mongodb';
import type { Market } from '../mongo.ts';

/** What tells one version of a listing from every other, also from one of the same number that another history made. */
export interface FoundVersion {
  bookingId: string;
  epoch: number;
  revision: number;
  /** When its content last changed; null where the document does not say. */
  updatedAt: string | null;
}

interface Found {
  booking_id: unknown;
  epoch: unknown;
  revision: unknown;
  metadata?: { last_updated?: unknown };
}

const FIELDS = { _id: 0, booking_id: 1, epoch: 1, revision: 1, 'metadata.last_updated': 1 };

const UUID = /^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$/;

/** The highest epoch that PostgreSQL can count above: a document beyond it is somebody else's, and says nothing of history. */
export const EPOCH_MAX = 2 ** 31 - 2;

/** The versions of these bookings' listings, in no order. What nobody of ours can have written is left out. Throws the driver's error. */
export async function readListingVersions(
  market: Market,
  bookingIds: readonly string[],
): Promise<FoundVersion[]> {
  const documents = await market.listings
    .find({ booking_id: { $in: [...bookingIds] } })
    .project<Found>(FIELDS)
    .toArray();
  return documents.flatMap(toVersion);
}

const SCAN_BATCH_MAX = 1_000;

/** Every version of `epoch` and above, in batches (I9). Throws the driver's error. */
export async function* scanListingVersions(market: Market, epoch: number): AsyncGenerator<FoundVersion[]> {
  const cursor = market.listings
    .find({ epoch: { $gte: epoch } })
    .project<Found>(FIELDS)
    .batchSize(SCAN_BATCH_MAX);
  let batch: FoundVersion[] = [];
  for await (const document of cursor) {
    batch.push(...toVersion(document));
    if (batch.length < SCAN_BATCH_MAX) continue;
    yield batch;
    batch = [];
  }
  if (batch.length > 0) yield batch;
}

function toVersion({ booking_id: bookingId, epoch, revision, metadata }: Found): FoundVersion[] {
  if (typeof bookingId !== 'string' || !UUID.test(bookingId)) return [];
  if (!isCount(epoch, EPOCH_MAX) || !isCount(revision, Number.MAX_SAFE_INTEGER)) return [];
  const updatedAt = metadata?.last_updated;
  return [{ bookingId, epoch, revision, updatedAt: typeof updatedAt === 'string' ? updatedAt : null }];
}

const isCount = (value: unknown, max: number): value is number =>
  Number.isInteger(value) && (value as number) >= 0 && (value as number) <= max;

/** A document of a booking, whoever wrote it. */
export interface StoredVersion {
  _id: ObjectId;
  booking_id: string;
  epoch: unknown;
  revision: unknown;
  metadata?: { last_updated?: unknown };
}

/** The documents of these bookings, by booking. Throws the driver's error. */
export async function readStoredVersions(
  market: Market,
  bookingIds: string[],
): Promise<Map<string, StoredVersion>> {
  const documents = await market.listings
    .find({ booking_id: { $in: bookingIds } })
    .project<StoredVersion>({ _id: 1, booking_id: 1, epoch: 1, revision: 1, 'metadata.last_updated': 1 })
    .toArray();
  return new Map(documents.map((document) => [document.booking_id, document]));
}
