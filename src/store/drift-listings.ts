import type { Market } from '../mongo.ts';
import type { Database } from '../postgres.ts';
import { readKnown } from './drift-known.ts';
import { type Document, judge, judgeBytes, type ListingVerdict, toStray, verdict } from './drift-verdict.ts';
import { decodeDocument, type ListingEncoder, readBookingId } from './listing-bytes.ts';

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

/** Ids that one question to PostgreSQL or MongoDB names, and documents that are held at once. */
const IDS_MAX = 500;

/**
 * The listings whose booking_id is a text in `(after, upto]`, and those of `bookingIds`, which lie in it, that are missing.
 * Not of one moment: what differs is to be looked at again with `lookAtBookings`. Throws the driver's error.
 */
export async function lookAtRange(
  ctx: { pool: Database; market: Market; encoder: ListingEncoder },
  { after, upto, bookingIds }: ListingsRange,
): Promise<ListingsLook> {
  const range = {
    ...(after === null ? {} : { $gt: after }),
    ...(upto === undefined ? {} : { $lte: upto }),
  };
  // Without a bound every text, and nothing else.
  const filter = Object.keys(range).length === 0 ? { $gte: '' } : range;
  const cursor = ctx.market.listings.find({ booking_id: filter }, { raw: true }).batchSize(IDS_MAX);
  const take = (): Promise<Uint8Array[]> => takeBatch<Uint8Array>(cursor as never);
  // One after the other: rows that wait for documents, as bytes do without harm, outlive a collection of garbage.
  const first = await take();
  const known = await readKnown(ctx.pool, bookingIds);
  const verdicts: ListingVerdict[] = [];
  const seen = new Map<string, Uint8Array[]>();
  let documents = 0;
  for (let batch = first; batch.length > 0; batch = await take()) {
    documents += batch.length;
    const strangers = new Set<string>();
    for (const document of batch) {
      const bookingId = readBookingId(document) ?? decodeDocument(document).booking_id;
      // An array matches by what is in it, here and nowhere else; other texts are found by findStrays.
      if (typeof bookingId !== 'string') verdicts.push(toStray(decodeDocument(document) as Document));
      if (typeof bookingId !== 'string' || !UUID.test(bookingId)) continue;
      const others = seen.get(bookingId);
      if (others !== undefined) others.push(document);
      else if (known.has(bookingId)) seen.set(bookingId, [document]);
      else strangers.add(bookingId);
    }
    // However many lie between two bookings, they are held a batch at a time.
    if (strangers.size > 0) verdicts.push(...(await lookAtBookings(ctx, [...strangers])));
  }
  await cursor.close();
  for (const row of known.values()) verdicts.push(...judgeBytes(row, seen.get(row.key) ?? [], ctx.encoder));
  return { verdicts, documents };
}

/** The cursor's next documents, at most a batch; none at its end. */
async function takeBatch<Item>(cursor: {
  next(): Promise<Item | null>;
  readBufferedDocuments(): Item[];
}): Promise<Item[]> {
  const first = await cursor.next();
  return first === null ? [] : [first, ...cursor.readBufferedDocuments()];
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
    const batch = await takeBatch<Document>(cursor);
    if (batch.length === 0) return;
    yield batch.map(toStray);
  }
}
