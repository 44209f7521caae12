import { listDifferences } from '../domain/listing-difference.ts';
import { type Known, toExpected } from './drift-known.ts';
import type { FindingKind } from './drift-run.ts';
import { decodeDocument, type ListingEncoder } from './listing-bytes.ts';
import type { SeenDocument } from './listings.ts';

/** What of a booking's listing is not as its snapshot says; `in_flight` and `parked`: not judged. */
export interface ListingVerdict {
  kind: FindingKind | 'in_flight' | 'parked';
  bookingId: string | null;
  /** `_id` of the document that is meant; null where none is. */
  listingId: string | null;
  fields: string[];
  /** The document, where there is one. */
  document: SeenDocument | undefined;
  /** It has to go before the booking's listing can be written: no write of ours would replace it. */
  mustGo: boolean;
}

/** A document of the collection, whatever its fields are. */
export type Document = SeenDocument & Record<string, unknown>;

/**
 * What is wrong with a booking's documents, given as bytes. Whether its only one is, to the byte, what the publisher wrote
 * takes a tenth of what it takes to look at its values; whatever is not, is looked at.
 */
export function judgeBytes(known: Known, documents: Uint8Array[], encoder: ListingEncoder): ListingVerdict[] {
  const [document, ...others] = documents;
  if (document !== undefined && others.length === 0 && known.standing === 'quiet') {
    const bytes = encodeExpected(known, encoder);
    if (bytes !== undefined && Buffer.compare(bytes, document) === 0) return [];
  }
  return judge(known, documents.map(decodeDocument) as Document[]);
}

function encodeExpected(known: Known, encoder: ListingEncoder): Uint8Array | undefined {
  const { market_listing_id: id, published_at: publishedAt } = known;
  if (id === null || !/^[0-9a-f]{24}$/.test(id) || !(publishedAt instanceof Date)) return undefined;
  const listing = toExpected(known, (text) => text);
  return encoder.encode(listing, id, (name) => known[name] ?? 'null');
}

export const toStray = (document: Document): ListingVerdict => ({
  ...verdict('listing_stray', null, document, ['booking_id']),
  mustGo: true,
});

/** What is wrong with a booking's documents. */
export function judge(known: Known, documents: Document[]): ListingVerdict[] {
  const { key, standing } = known;
  if (standing === 'none') {
    return documents.map((document) => ({ ...verdict('listing_orphan', key, document), mustGo: true }));
  }
  if (standing !== 'quiet') return [verdict(standing, key)];
  const listing = documents.find((document) => idOf(document) === known.market_listing_id) ?? documents[0];
  const others = documents
    .filter((document) => document !== listing)
    .map((document) => ({ ...verdict('listing_duplicate', key, document), mustGo: true }));
  if (listing === undefined) return [verdict('listing_missing', key)];
  const found = judgeListing(known, listing);
  return found === undefined ? others : [...others, found];
}

function judgeListing(known: Known, document: Document): ListingVerdict | undefined {
  const expected = toExpected(known);
  const order = compareVersion(document, known);
  const of = (kind: FindingKind, fields: string[]): ListingVerdict => ({
    ...verdict(kind, known.key, document, fields),
    mustGo: !isObjectId(document._id) || isBeyond(document, known),
  });
  const fields = listDifferences(expected, document);
  if (known.published_at === null) fields.push('published_at');
  if (order === 'ahead') return of('listing_ahead', fields);
  if (order === 'behind') return of('listing_stale', fields);
  if (fields.length > 0) return of('listing_differs', fields);
  return idOf(document) === known.market_listing_id && isObjectId(document._id)
    ? undefined
    : of('listing_id', ['_id']);
}

function compareVersion(
  document: Document,
  known: { epoch: number; revision: number },
): 'ahead' | 'behind' | 'same' {
  const { epoch, revision } = document;
  // What is no number differs in that.
  if (typeof epoch !== 'number' || typeof revision !== 'number') return 'same';
  if (epoch > known.epoch || (epoch === known.epoch && revision > known.revision)) return 'ahead';
  return epoch === known.epoch && revision === known.revision ? 'same' : 'behind';
}

/** A revision that is further ahead was not counted by anybody. */
const AHEAD_MAX = 1_000_000_000;

/**
 * Whether no revision of the snapshot's can be above the document's, for MongoDB, which compares numbers of any type.
 */
function isBeyond({ epoch, revision }: Document, known: { epoch: number; revision: number }): boolean {
  if (typeof epoch === 'object' && epoch !== null) return true;
  if (typeof epoch !== 'number') return false;
  if (epoch > known.epoch || Number.isNaN(epoch)) return true;
  if (epoch < known.epoch) return false;
  if (typeof revision === 'object' && revision !== null) return true;
  return typeof revision === 'number' && !(revision <= known.revision + AHEAD_MAX);
}

const isObjectId = (id: unknown): boolean =>
  typeof id === 'object' && id !== null && '_bsontype' in id && id._bsontype === 'ObjectId';

const idOf = ({ _id: id }: SeenDocument): string => String(id);

export function verdict(
  kind: ListingVerdict['kind'],
  bookingId: string | null,
  document?: Document,
  fields: string[] = [],
): ListingVerdict {
  return {
    kind,
    bookingId,
    listingId: document === undefined ? null : idOf(document),
    fields,
    document:
      document === undefined
        ? undefined
        : {
            _id: document._id,
            booking_id: document.booking_id,
            epoch: document.epoch,
            revision: document.revision,
          },
    mustGo: false,
  };
}

/** Whether this project may have written the document: then it may take it away, too, unasked. */
export function isOurs({ document }: ListingVerdict): boolean {
  const isCount = (value: unknown): boolean => Number.isSafeInteger(value) && (value as number) > 0;
  return document !== undefined && isCount(document.epoch) && isCount(document.revision);
}
