import { type Listing, toListing } from '../domain/listing.ts';
import { listDifferences } from '../domain/listing-difference.ts';
import type { Snapshot } from '../domain/snapshot.ts';
import type { Market } from '../mongo.ts';
import { type Database, queryPrepared } from '../postgres.ts';
import type { FindingKind } from './drift-run.ts';
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
type Document = SeenDocument & Record<string, unknown>;

/** What PostgreSQL knows of a booking's listing. */
interface Known {
  key: string;
  /** `quiet`: MongoDB has confirmed this very version, and nobody is writing. `none`: there is no snapshot, and none is to come. */
  standing: 'quiet' | 'in_flight' | 'parked' | 'none';
}
type KnownRow = Known & Snapshot & Record<string, unknown>;

const READ_KNOWN = {
  name: 'audit_read_known',
  text: `
    select key.booking_id::text as key, s.booking_id, s.farmer_id, s.vendor_id, s.location_id, s.crop_type, s.grade,
      s.quantity_kg, s.start_date, s.end_date, s.duration_days, s.quality_score, s.freshness, s.visual_defects,
      s.shelf_life_days, s.sensors, s.sensor_summary, s.pest_events, s.pest_count, s.has_pest_alerts, s.certificates,
      s.is_certified, s.certification_types, s.metadata, s.status, s.market_listing_id, s.published_at, s.epoch, s.revision,
      case
        when s.booking_id is null then
          case when state.booking_id is not null or (b.id is not null
              and (b.booking_status is null or b.booking_status not in ('completed', 'cancelled')))
            then 'in_flight' else 'none' end
        when state.parked_at is not null then 'parked'
        when s.revision > 0 and (state.epoch, state.revision, state.published_epoch, state.published_revision)
            = (s.epoch, s.revision, s.epoch, s.revision)
          and (state.lease_until is null or state.lease_until < clock_timestamp() - interval '5 minutes') then 'quiet'
        else 'in_flight'
      end as standing
    from unnest($1::uuid[]) as key (booking_id)
    left join market_inventory_snapshots s on s.booking_id = key.booking_id
    left join market_sync.snapshot_state state on state.booking_id = key.booking_id
    left join storage_bookings b on b.id = key.booking_id and s.booking_id is null`,
};

async function readKnown(db: Database, bookingIds: readonly string[]): Promise<Map<string, KnownRow>> {
  const rows = await queryPrepared<KnownRow>(db, READ_KNOWN, [bookingIds]);
  return new Map(rows.map((row) => [row.key, row]));
}

export interface ListingsRange {
  after: string | null;
  upto: string | undefined;
  bookingIds: string[];
}

export interface ListingsLook {
  verdicts: ListingVerdict[];
  /** Documents read. */
  documents: number;
}

/** Ids that one question to PostgreSQL or MongoDB names. */
const IDS_MAX = 500;

/**
 * The listings whose booking_id is a text in `(after, upto]`, and those of `bookingIds`, which lie in it, that are missing.
 * Not of one moment: what differs is to be looked at again with `lookAtBookings`. Throws the driver's error.
 */
export async function lookAtRange(
  ctx: { pool: Database; market: Market },
  { after, upto, bookingIds }: ListingsRange,
): Promise<ListingsLook> {
  const range = {
    ...(after === null ? {} : { $gt: after }),
    ...(upto === undefined ? {} : { $lte: upto }),
  };
  // Without a bound every text, and nothing else.
  const filter = Object.keys(range).length === 0 ? { $gte: '' } : range;
  const cursor = ctx.market.listings.find({ booking_id: filter }).batchSize(IDS_MAX);
  const [known, first] = await Promise.all([
    readKnown(ctx.pool, bookingIds),
    takeBatch(cursor as AsyncIterator<Document> & typeof cursor),
  ]);
  const verdicts: ListingVerdict[] = [];
  const seen = new Map<string, Document[]>();
  let documents = 0;
  for (let batch = first; batch.length > 0; ) {
    documents += batch.length;
    const strangers = new Set<string>();
    for (const document of batch) {
      const { booking_id: bookingId } = document;
      // An array matches by what is in it, here and nowhere else; other texts are found by findStrays.
      if (typeof bookingId !== 'string') verdicts.push(toStray(document));
      if (typeof bookingId !== 'string' || !UUID.test(bookingId)) continue;
      const others = seen.get(bookingId);
      if (others !== undefined) others.push(document);
      else if (known.has(bookingId)) seen.set(bookingId, [document]);
      else strangers.add(bookingId);
    }
    // However many lie between two bookings, they are held a batch at a time.
    if (strangers.size > 0) verdicts.push(...(await lookAtBookings(ctx, [...strangers])));
    batch = await takeBatch(cursor as AsyncIterator<Document> & typeof cursor);
  }
  await cursor.close();
  for (const row of known.values()) verdicts.push(...judge(row, seen.get(row.key) ?? []));
  return { verdicts, documents };
}

async function takeBatch(cursor: { next(): Promise<unknown> }): Promise<Document[]> {
  const batch: Document[] = [];
  while (batch.length < IDS_MAX) {
    const document = (await cursor.next()) as Document | null;
    if (document === null) break;
    batch.push(document);
  }
  return batch;
}

/**
 * The listings of these bookings, each judged only if PostgreSQL knew the same of it before and after MongoDB was read:
 * then what differs is neither on its way nor being written. Throws the driver's error.
 */
export async function lookAtBookings(
  { pool, market }: { pool: Database; market: Market },
  bookingIds: readonly string[],
): Promise<ListingVerdict[]> {
  const verdicts: ListingVerdict[] = [];
  for (let at = 0; at < bookingIds.length; at += IDS_MAX) {
    const ids = bookingIds.slice(at, at + IDS_MAX);
    const before = await readKnown(pool, ids);
    const documents = (await market.listings
      .find({ booking_id: { $in: ids } })
      .toArray()) as unknown as Document[];
    const after = await readKnown(pool, ids);
    const byBooking = Map.groupBy(documents, (document) => document.booking_id);
    for (const id of ids) {
      const [then, now] = [before.get(id), after.get(id)];
      if (then === undefined || now === undefined) continue;
      const same =
        then.standing === now.standing && then.epoch === now.epoch && then.revision === now.revision;
      if (same) verdicts.push(...judge(now, byBooking.get(id) ?? []));
      else verdicts.push(verdict('in_flight', id));
    }
  }
  return verdicts;
}

const UUID = /^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$/;

/** Documents whose booking_id is no id, in batches: this project cannot have written them. Throws the driver's error. */
export async function* findStrays(market: Market): AsyncGenerator<ListingVerdict[]> {
  const cursor = market.listings
    .find({ booking_id: { $not: UUID } } as never)
    .project<Document>({ _id: 1, booking_id: 1, epoch: 1, revision: 1 })
    .batchSize(IDS_MAX);
  for (;;) {
    const batch = await takeBatch(cursor);
    if (batch.length === 0) return;
    yield batch.map(toStray);
  }
}

const toStray = (document: Document): ListingVerdict => ({
  ...verdict('listing_stray', null, document, ['booking_id']),
  mustGo: true,
});

function judge(known: KnownRow, documents: Document[]): ListingVerdict[] {
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

function judgeListing(known: KnownRow, document: Document): ListingVerdict | undefined {
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

function toExpected(known: KnownRow): Listing {
  const publishedAt = known.published_at instanceof Date ? known.published_at : new Date(0);
  return toListing(known, publishedAt);
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

function verdict(
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
