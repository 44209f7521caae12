import { type Document, ObjectId } from 'mongodb';
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test } from 'vitest';
import type { Listing } from '../../src/domain/listing.ts';
import { ensureListingIndexes, type Market } from '../../src/mongo.ts';
import { type ListingPatch, patchListings } from '../../src/store/listing-patches.ts';
import { countListings, writeListings } from '../../src/store/listings.ts';
import { makeListing } from './factories.ts';
import { openMarket, type RunningTarget, TARGETS } from './targets.ts';

/** Listings written in part, from one version to the next. */
describe.each(TARGETS)('patches: $name', ({ start }) => {
  let target: RunningTarget;
  let market: Market & { database: string };

  beforeAll(async () => {
    target = await start();
  });
  afterAll(() => target.stop());
  beforeEach(async () => {
    market = await openMarket(target);
    await ensureListingIndexes(market);
  });
  afterEach(() => market.close());

  const written = async (listing: Listing): Promise<string> => {
    const [outcome] = await writeListings(market, [{ listing, listingId: null }]);
    if (outcome?.result !== 'written') throw new Error(`not written: ${JSON.stringify(outcome)}`);
    return outcome.listingId;
  };
  const stored = (bookingId: string): Promise<Document | null> =>
    market.listings.findOne<Document>({ booking_id: bookingId }, { projection: { _id: 0 } });
  const fields = {
    sensors: { humidity: { value: 80 } },
    sensor_summary: { humidity_avg: 80 },
    metadata: { sensor_health: 'alert', last_updated: '2026-02-01T00:00:00.000Z' },
  };
  const patchOf = (listingId: string, patch: Partial<ListingPatch> = {}): ListingPatch => ({
    bookingId: 'a',
    listingId,
    epoch: 1,
    revision: 5,
    baseRevision: 4,
    fields,
    ...patch,
  });

  test('leaves a listing as writing all of it would, to the byte, and a field of others alone', async () => {
    const base = makeListing({ booking_id: 'a', revision: 4 });
    const [patched, whole] = [await written(base), await written({ ...base, booking_id: 'b' })];
    expect(await patchListings(market, [patchOf(patched)])).toEqual([
      { bookingId: 'a', result: 'written', listingId: patched },
    ]);
    await writeListings(market, [
      { listing: { ...base, booking_id: 'b', ...fields, revision: 5 }, listingId: whole },
    ]);
    const raw = await market.listings
      .find({}, { raw: true, projection: { _id: 0 }, sort: { booking_id: 1 } })
      .toArray();
    const [a, b] = raw.map((document) => Buffer.from(document as unknown as Uint8Array).toString('latin1'));
    expect(a?.replace('booking_id\0\x02\0\0\0a\0', 'booking_id\0\x02\0\0\0b\0')).toBe(b);
    expect(await stored('a')).toEqual({ ...base, ...fields, revision: 5 });
  });

  test.each([
    ['older', { revision: 3 }],
    ['newer', { revision: 6 }],
    ['at the number of another epoch', { epoch: 2, revision: 4 }],
    ['at the version already, of another history', { revision: 5, metadata: { last_updated: 'then' } }],
  ])('I3: touches nothing when the listing is %s', async (_name, version) => {
    const found = makeListing({ booking_id: 'a', ...version });
    const id = await written(found);
    expect(await patchListings(market, [patchOf(id)])).toEqual([{ bookingId: 'a', result: 'unmatched' }]);
    expect(await stored('a')).toEqual(found);
  });

  test('I4: brings nothing back that is gone', async () => {
    expect(await patchListings(market, [patchOf(new ObjectId().toHexString())])).toEqual([
      { bookingId: 'a', result: 'unmatched' },
    ]);
    expect(await countListings(market)).toBe(0);
  });

  test('does not touch the listing of another booking that has the id', async () => {
    const other = makeListing({ booking_id: 'b', revision: 4 });
    const id = await written(other);
    expect(await patchListings(market, [patchOf(id)])).toEqual([{ bookingId: 'a', result: 'unmatched' }]);
    expect(await stored('b')).toEqual(other);
  });

  test('a repeated patch changes nothing and is confirmed', async () => {
    const id = await written(makeListing({ booking_id: 'a', revision: 4 }));
    const outcome = [{ bookingId: 'a', result: 'written', listingId: id }];
    expect(await patchListings(market, [patchOf(id)])).toEqual(outcome);
    expect(await patchListings(market, [patchOf(id)])).toEqual(outcome);
    expect(await stored('a')).toMatchObject({ ...fields, revision: 5 });
  });

  test('answers a batch of patches of every kind in the order given', async () => {
    const ids: Record<string, string> = {};
    for (const [bookingId, revision] of [
      ['matched', 4],
      ['behind', 2],
      ['large', 4],
      ['again', 5],
    ] as const) {
      ids[bookingId] = await written(
        makeListing({ booking_id: bookingId, revision, metadata: fields.metadata }),
      );
    }
    const batch = ['behind', 'large', 'matched', 'gone', 'again'].map((bookingId) =>
      patchOf(ids[bookingId] ?? new ObjectId().toHexString(), {
        bookingId,
        ...(bookingId === 'large'
          ? { fields: { ...fields, sensors: { text: 'x'.repeat(17 * 1024 * 1024) } } }
          : {}),
      }),
    );
    const outcomes = await patchListings(market, batch);
    expect(outcomes.map(({ bookingId, result }) => [bookingId, result])).toEqual([
      ['behind', 'unmatched'],
      ['large', 'failed'],
      ['matched', 'written'],
      ['gone', 'unmatched'],
      ['again', 'written'],
    ]);
    expect(outcomes[1]).toMatchObject({ kind: 'poison' });
    expect((await stored('large'))?.revision).toBe(4);
  });
});
