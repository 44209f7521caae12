import { BSON, type Document, Double, Int32, Long, ObjectId } from 'mongodb';
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test } from 'vitest';
import type { Listing } from '../../src/domain/listing.ts';
import { connectMarket, ensureListingIndexes, type Market } from '../../src/mongo.ts';
import type { ListingOutcome } from '../../src/store/listing-outcome.ts';
import {
  countListings,
  deleteListings,
  deleteListingsBefore,
  readListings,
  writeListings,
} from '../../src/store/listings.ts';
import { makeListing } from './factories.ts';
import { openMarket, type RunningTarget, TARGETS } from './targets.ts';

/** Everything that the publisher, the audit and the cleanup ask of MongoDB. */
describe.each(TARGETS)('$name', ({ start }) => {
  let target: RunningTarget;
  let market: Market & { database: string };

  beforeAll(async () => {
    target = await start();
  });
  afterAll(() => target.stop());
  beforeEach(async () => {
    market = await openMarket(target);
  });
  afterEach(() => market.close());

  const write = (listing: Listing, listingId: string | null = null) =>
    writeListings(market, [{ listing, listingId }]);

  const written = async (listing: Listing, listingId: string | null = null): Promise<string> => {
    const outcome = (await write(listing, listingId))[0];
    if (outcome?.result !== 'written') throw new Error(`not written: ${JSON.stringify(outcome)}`);
    return outcome.listingId;
  };

  const stored = async (bookingId: string): Promise<Document | null> =>
    market.listings.findOne<Document>({ booking_id: bookingId }, { projection: { _id: 0 } });

  describe('writing listings', () => {
    test('inserts what is new and updates what is known, keeping its id', async () => {
      const first = makeListing({ booking_id: 'a', revision: 1 });
      const id = await written(first);
      const second = { ...first, crop_type: 'rice', revision: 2 };
      expect(await written(second, id)).toBe(id);
      expect(await stored('a')).toEqual(second);
      expect(await countListings(market)).toBe(1);
    });

    test('finds the listing of a booking whose id was lost, and says its id', async () => {
      const id = await written(makeListing({ booking_id: 'a', revision: 1 }));
      expect(await written(makeListing({ booking_id: 'a', revision: 2 }))).toBe(id);
      expect(await countListings(market)).toBe(1);
    });

    test('finds the listing of a booking that is said to have another id', async () => {
      const id = await written(makeListing({ booking_id: 'a', revision: 1 }));
      const wrong = new ObjectId().toHexString();
      expect(await written(makeListing({ booking_id: 'a', revision: 2 }), wrong)).toBe(id);
      expect((await stored('a'))?.revision).toBe(2);
    });

    test('puts a listing that is gone back under its id', async () => {
      const id = new ObjectId().toHexString();
      expect(await written(makeListing({ booking_id: 'a' }), id)).toBe(id);
    });

    test('takes an id that is no ObjectId for none', async () => {
      expect(await written(makeListing({ booking_id: 'a' }), 'legacy-17')).toMatch(/^[0-9a-f]{24}$/);
    });

    test.each([
      ['an older revision', { epoch: 2, revision: 4 }],
      ['an older epoch with a higher revision', { epoch: 1, revision: 900 }],
    ])('I3: leaves a newer listing alone when %s comes late', async (_name, version) => {
      const newer = makeListing({ booking_id: 'a', epoch: 2, revision: 5 });
      const id = await written(newer);
      const late = makeListing({ booking_id: 'a', crop_type: 'late', ...version });
      for (const listingId of [id, null]) {
        expect(await write(late, listingId)).toEqual([
          { bookingId: 'a', result: 'superseded', listingId: id },
        ]);
      }
      expect(await stored('a')).toEqual(newer);
    });

    test('a higher epoch wins over a higher revision', async () => {
      const id = await written(makeListing({ booking_id: 'a', epoch: 1, revision: 900 }));
      await written(makeListing({ booking_id: 'a', epoch: 2, revision: 1 }), id);
      expect(await stored('a')).toMatchObject({ epoch: 2, revision: 1 });
    });

    test('a redelivered version changes nothing and is confirmed', async () => {
      const listing = makeListing({ booking_id: 'a', revision: 3 });
      const id = await written(listing);
      expect(await written(listing, id)).toBe(id);
      expect(await written(listing)).toBe(id);
      expect(await stored('a')).toEqual(listing);
    });

    test.each([
      ['no version', {}],
      ['null as version', { epoch: null, revision: null }],
      ['an epoch without a revision', { epoch: 1 }],
      ['a text as version', { epoch: '9', revision: '9' }],
    ])('adopts a document of an old system with %s under its id', async (_name, version) => {
      const { insertedId } = await market.client
        .db(market.database)
        .collection<Document>('market_listings')
        .insertOne({ booking_id: 'a', crop_type: 'old', ...version });
      const listing = makeListing({ booking_id: 'a', epoch: 1, revision: 1 });
      expect(await written(listing)).toBe(String(insertedId));
      expect(await stored('a')).toEqual(listing);
    });

    test('I4: a late write does not bring a tombstone back', async () => {
      const id = await written(makeListing({ booking_id: 'a', revision: 4 }));
      await written(makeListing({ booking_id: 'a', revision: 5, status: 'withdrawn' }), id);
      await write(makeListing({ booking_id: 'a', revision: 4, status: 'published' }), id);
      expect(await stored('a')).toMatchObject({ status: 'withdrawn', revision: 5 });
    });

    test('answers a batch of every kind in the order given', async () => {
      const ids = new Map<string, string>();
      for (const booking of ['known', 'lost', 'newer']) {
        ids.set(
          booking,
          await written(makeListing({ booking_id: booking, revision: booking === 'newer' ? 9 : 1 })),
        );
      }
      const batch = ['new', 'newer', 'known', 'lost'].map((booking) => ({
        listing: makeListing({ booking_id: booking, revision: 2 }),
        listingId: booking === 'lost' ? null : (ids.get(booking) ?? null),
      }));
      const outcomes = await writeListings(market, batch);
      expect(outcomes.map(({ bookingId, result }) => [bookingId, result])).toEqual([
        ['new', 'written'],
        ['newer', 'superseded'],
        ['known', 'written'],
        ['lost', 'written'],
      ]);
      expect(await countListings(market)).toBe(4);
    });

    test('the newest of several versions of one booking in one batch wins', async () => {
      const id = await written(makeListing({ booking_id: 'a', revision: 1 }));
      const versions = [3, 5, 4].map((revision) => makeListing({ booking_id: 'a', revision }));
      await writeListings(
        market,
        versions.map((listing) => ({ listing, listingId: id })),
      );
      await writeListings(
        market,
        versions.map((listing) => ({ listing: { ...listing, booking_id: 'b' }, listingId: null })),
      );
      expect(await stored('a')).toMatchObject({ revision: 5 });
      expect(await stored('b')).toMatchObject({ revision: 5 });
    });

    test('writes nothing for an empty batch', async () => {
      expect(await writeListings(market, [])).toEqual([]);
    });

    test('an aborted signal leaves every booking for later', async () => {
      const outcomes = await writeListings(
        market,
        [{ listing: makeListing({ booking_id: 'a' }), listingId: null }],
        AbortSignal.abort(new Error('stopping')),
      );
      expect(outcomes).toMatchObject([{ bookingId: 'a', result: 'failed', kind: 'retryable' }]);
      expect(await countListings(market)).toBe(0);
    });
  });

  describe('a batch of which a part fails', () => {
    const batchAround = (bad: Listing, size: number, ids: (string | null)[] = []) =>
      Array.from({ length: size }, (_, index) => ({
        listing: index === 2 ? bad : makeListing({ booking_id: `b${index}`, revision: 2 }),
        listingId: ids[index] ?? null,
      }));

    const kinds = (outcomes: ListingOutcome[]) =>
      outcomes.map((outcome) => (outcome.result === 'failed' ? outcome.kind : outcome.result));

    test('I7, row 7: a listing larger than 16 MB is poison, the others are written', async () => {
      const huge = makeListing({
        booking_id: 'b2',
        revision: 2,
        visual_defects: 'x'.repeat(16 * 1024 * 1024),
      });
      const outcomes = await writeListings(market, batchAround(huge, 5));
      expect(kinds(outcomes)).toEqual(['written', 'written', 'poison', 'written', 'written']);
      expect(await countListings(market)).toBe(4);
    });

    test.each(['insert', 'update'])(
      'I7: a key that BSON cannot hold is poison at %s, the others are written',
      async (kind) => {
        const ids =
          kind === 'insert'
            ? []
            : await Promise.all(
                [0, 1, 2, 3, 4].map((index) => written(makeListing({ booking_id: `b${index}` }))),
              );
        const bad = makeListing({ booking_id: 'b2', revision: 2, sensors: { 'a\0b': 1 } });
        const outcomes = await writeListings(market, batchAround(bad, 5, ids));
        expect(kinds(outcomes)).toEqual(['written', 'written', 'poison', 'written', 'written']);
        expect(await market.listings.countDocuments({ revision: 2 })).toBe(4);
      },
    );

    test('an id that belongs to another booking is poison, and that booking stays untouched', async () => {
      const taken = await written(makeListing({ booking_id: 'owner', revision: 7 }));
      const thief = makeListing({ booking_id: 'b2', revision: 9 });
      const outcomes = await writeListings(market, batchAround(thief, 4, [null, null, taken, null]));
      expect(kinds(outcomes)).toEqual(['written', 'written', 'poison', 'written']);
      expect(await stored('owner')).toMatchObject({ revision: 7 });
      expect(await stored('b2')).toBeNull();
    });

    /** MongoDB stores any key inside a value. FerretDB 1.24 refuses these: then that booking alone fails. */
    test.each(['insert', 'update'])(
      'keys with dots and dollars survive an %s or poison their booking alone',
      async (kind) => {
        const ids =
          kind === 'insert'
            ? []
            : await Promise.all(
                [0, 1, 2, 3, 4].map((index) => written(makeListing({ booking_id: `b${index}` }))),
              );
        const sensors = {
          'co2.ppm': { value: 400 },
          $weird: { value: 1 },
          '': { value: 2 },
          $set: 1,
          'a.$b.': [],
        };
        const odd = makeListing({ booking_id: 'b2', revision: 2, sensors });
        const outcomes = await writeListings(market, batchAround(odd, 5, ids));
        const { ferretdbVersion } = await market.client.db('admin').command({ buildInfo: 1 });
        const expected = ferretdbVersion === undefined ? 'written' : 'poison';
        expect(kinds(outcomes)).toEqual(['written', 'written', expected, 'written', 'written']);
        expect(await market.listings.countDocuments({ revision: 2 })).toBe(expected === 'written' ? 5 : 4);
        if (expected === 'written') expect(await stored('b2')).toEqual(odd);
      },
    );
  });

  describe('racing writers', () => {
    test('I3: however writers race, every listing ends at its newest version and no reader sees it go down', async () => {
      const WRITERS = 6;
      const ROUNDS = 25;
      const bookings = ['a', 'b', 'c', 'd', 'e'];
      const clients = await Promise.all(
        Array.from({ length: WRITERS + 1 }, () =>
          connectMarket({ url: target.url, database: market.database, timeoutMs: 20_000 }),
        ),
      );
      const [reader, ...writers] = clients as [Market, ...Market[]];
      const newest = new Map<string, number>();
      const falls: string[] = [];
      const failures: ListingOutcome[] = [];
      let writing = true;

      const watch = async () => {
        const seen = new Map<string, number>();
        while (writing) {
          for (const { booking_id, epoch, revision } of await reader.listings.find().toArray()) {
            const version = epoch * 1_000 + revision;
            if (version < (seen.get(booking_id) ?? 0))
              falls.push(`${booking_id}: ${seen.get(booking_id)} to ${version}`);
            seen.set(booking_id, version);
          }
        }
      };
      const race = async (writer: Market, seed: number) => {
        const random = createRandom(seed);
        const ids = new Map<string, string>();
        for (let round = 0; round < ROUNDS; round += 1) {
          const batch = bookings
            .filter(() => random() < 0.7)
            .map((booking_id) => {
              const [epoch, revision] = [1 + Math.floor(random() * 3), 1 + Math.floor(random() * 900)];
              newest.set(booking_id, Math.max(newest.get(booking_id) ?? 0, epoch * 1_000 + revision));
              const listing = makeListing({
                booking_id,
                epoch,
                revision,
                quantity_kg: epoch * 1_000 + revision,
              });
              return { listing, listingId: random() < 0.5 ? null : (ids.get(booking_id) ?? null) };
            });
          for (const outcome of await writeListings(writer, batch)) {
            if (outcome.result === 'failed') failures.push(outcome);
            else ids.set(outcome.bookingId, outcome.listingId);
          }
        }
      };
      const watching = watch();
      await Promise.all(writers.map((writer, index) => race(writer, index + 1)));
      writing = false;
      await watching;

      expect(failures).toEqual([]);
      // FerretDB 1.x overwrites without comparing again: there only what is written after the race can be relied on.
      if (!market.server.atomicUpdates) await writeNewest(market, newest);
      const final = await market.listings.find().toArray();
      expect(
        new Map(final.map((listing) => [listing.booking_id, listing.epoch * 1_000 + listing.revision])),
      ).toEqual(newest);
      for (const listing of final) expect(listing.quantity_kg).toBe(listing.epoch * 1_000 + listing.revision);
      if (market.server.atomicUpdates) expect(falls).toEqual([]);
      await Promise.all(clients.map((client) => client.close()));
    });

    test('of many first writes of one booking at once one document remains, the newest', async () => {
      const WRITERS = 12;
      const outcomes = await Promise.all(
        Array.from({ length: WRITERS }, (_, index) =>
          write(makeListing({ booking_id: 'a', revision: index + 1 })),
        ),
      );
      const ids = outcomes
        .flat()
        .map((outcome) => (outcome.result === 'failed' ? outcome : outcome.listingId));
      expect(new Set(ids).size).toBe(1);
      expect(await countListings(market)).toBe(1);
      if (!market.server.atomicUpdates) await write(makeListing({ booking_id: 'a', revision: WRITERS }));
      expect(await stored('a')).toMatchObject({ revision: WRITERS });
    });
  });

  describe('deleting listings', () => {
    test('deletes up to the version given, and nothing newer', async () => {
      for (const [booking_id, epoch, revision] of [
        ['older', 1, 9],
        ['same', 2, 5],
        ['newer', 2, 6],
        ['epoch', 3, 1],
      ] as const) {
        await written(makeListing({ booking_id, epoch, revision }));
      }
      const outcomes = await deleteListings(
        market,
        ['older', 'same', 'newer', 'epoch', 'absent'].map((bookingId) => ({
          bookingId,
          epoch: 2,
          revision: 5,
        })),
      );
      expect(outcomes.map(({ bookingId, result }) => [bookingId, result])).toEqual(
        ['older', 'same', 'newer', 'epoch', 'absent'].map((bookingId) => [bookingId, 'deleted_or_newer']),
      );
      const left = await market.listings.distinct('booking_id');
      expect(left.sort()).toEqual(['epoch', 'newer']);
      expect(await deleteListings(market, [])).toEqual([]);
    });

    test('after a resync deletes what was left behind, except what is still to come', async () => {
      for (const [booking_id, epoch] of [
        ['ghost', 1],
        ['parked', 1],
        ['live', 2],
      ] as const) {
        await written(makeListing({ booking_id, epoch, revision: 1 }));
      }
      const old = market.client.db(market.database).collection<Document>('market_listings');
      await old.insertOne({ booking_id: 'of the old system', crop_type: 'wheat' });
      expect(await deleteListingsBefore(market, { epoch: 2, except: ['parked'] })).toBe(1);
      expect((await market.listings.distinct('booking_id')).sort()).toEqual([
        'live',
        'of the old system',
        'parked',
      ]);
      expect(await deleteListingsBefore(market, { epoch: 2, except: ['parked'] })).toBe(0);
    });
  });

  describe('reading listings', () => {
    test('reads what was written, and says what somebody else made of it', async () => {
      const good = makeListing({ booking_id: 'good' });
      const id = await written(good);
      const held = makeListing({ booking_id: 'held', status: 'held' });
      const heldId = await written(held);
      await written(makeListing({ booking_id: 'edited' }));
      const old = market.client.db(market.database).collection<Document>('market_listings');
      await old.updateOne({ booking_id: 'edited' }, { $set: { pest_count: 'many' }, $unset: { status: '' } });
      const found = await readListings(market, ['good', 'held', 'edited', 'absent']);
      expect(found.get('good')).toEqual({ state: 'valid', listingId: id, listing: good });
      expect(found.get('held')).toEqual({ state: 'valid', listingId: heldId, listing: held });
      const edited = found.get('edited');
      expect(edited?.state).toBe('invalid');
      expect(
        edited?.state === 'invalid' && edited.problems.map((problem) => problem.split(':')[0]).sort(),
      ).toEqual(['pest_count', 'status']);
      expect(found.has('absent')).toBe(false);
    });

    test('counts exactly', async () => {
      expect(await countListings(market)).toBe(0);
      await writeListings(
        market,
        Array.from({ length: 250 }, (_, index) => ({
          listing: makeListing({ booking_id: `b${index}` }),
          listingId: null,
        })),
      );
      expect(await countListings(market)).toBe(250);
      expect(await market.listings.countDocuments({ status: 'published' })).toBe(250);
      expect(await market.listings.countDocuments({ status: 'withdrawn' })).toBe(0);
      expect(await market.listings.estimatedDocumentCount()).toBe(250);
    });

    test('I9: cursors read on side by side, each every document once', async () => {
      const COUNT = 700;
      await writeListings(
        market,
        Array.from({ length: COUNT }, (_, index) => ({
          listing: makeListing({ booking_id: `b${index}` }),
          listingId: null,
        })),
      );
      const cursors = Array.from({ length: 5 }, () => market.listings.find({}, { batchSize: 37 }));
      const seen = cursors.map(() => new Set<string>());
      for (let open = cursors.length; open > 0; ) {
        open = 0;
        for (const [index, cursor] of cursors.entries()) {
          const document = await cursor.next();
          if (document === null) continue;
          seen[index]?.add(document.booking_id);
          open += 1;
        }
      }
      expect(seen.map((ids) => ids.size)).toEqual(cursors.map(() => COUNT));
      const abandoned = market.listings.find({}, { batchSize: 2 });
      await abandoned.next();
      await abandoned.close();
    });

    test('sorts, skips, limits and projects', async () => {
      await writeListings(
        market,
        Array.from({ length: 30 }, (_, index) => ({
          listing: makeListing({ booking_id: `b${String(index).padStart(2, '0')}`, quantity_kg: index % 3 }),
          listingId: null,
        })),
      );
      const page = await market.listings
        .find({ quantity_kg: { $gte: 1 } })
        .sort({ quantity_kg: -1, booking_id: 1 })
        .skip(9)
        .limit(3)
        .project({ _id: 0, booking_id: 1, quantity_kg: 1 })
        .toArray();
      expect(page).toEqual([
        { booking_id: 'b29', quantity_kg: 2 },
        { booking_id: 'b01', quantity_kg: 1 },
        { booking_id: 'b04', quantity_kg: 1 },
      ]);
    });

    test('EJSON of what was written equals EJSON of what is read, types included', async () => {
      const collection = market.client.db(market.database).collection<Document>('values');
      const document = {
        _id: new ObjectId(),
        int: new Int32(-5),
        whole_double: new Double(3),
        double: new Double(0.1),
        long: Long.fromString('9007199254740993'),
        small_long: Long.fromNumber(7),
        text: 'é 😀 \u0000 \u{10FFFF}',
        empty: '',
        nothing: null,
        yes: true,
        date: new Date(1_700_000_000_123),
        list: [new Int32(1), 'two', null, { three: new Double(3) }],
        nested: { ключ: { inner: { deep: [] } }, __proto__x: {} },
      };
      await collection.insertOne(document);
      await collection.updateOne({ _id: document._id }, { $set: { added: new Double(2) } });
      const raw = await collection.findOne({ _id: document._id }, { promoteValues: false });
      expect(BSON.EJSON.parse(BSON.EJSON.stringify(raw, { relaxed: false }), { relaxed: false })).toEqual(
        BSON.EJSON.parse(BSON.EJSON.stringify({ ...document, added: new Double(2) }, { relaxed: false }), {
          relaxed: false,
        }),
      );
    });
  });

  describe('indexes', () => {
    test('are created once, whoever asks how often', async () => {
      await Promise.all([ensureListingIndexes(market), ensureListingIndexes(market)]);
      await ensureListingIndexes(market);
      const indexes = await market.listings.indexes();
      const keys = indexes.map((index) => Object.keys(index.key).join());
      expect(keys.sort()).toEqual([
        '_id',
        'booking_id',
        'crop_type',
        'epoch',
        'is_certified',
        'location_id',
        'status',
      ]);
      expect(indexes.find((index) => 'booking_id' in index.key)?.unique).toBe(true);
    });

    test('a second document of a booking is refused with 11000', async () => {
      await written(makeListing({ booking_id: 'a' }));
      const second = { ...makeListing({ booking_id: 'a' }), _id: new ObjectId() };
      await expect(market.listings.insertOne(second)).rejects.toMatchObject({ code: 11_000 });
    });

    test('duplicates that are there already are named, and nothing is changed', async () => {
      await market.listings.drop();
      for (const booking_id of ['twice', 'twice', 'once']) {
        await market.listings.insertOne({ ...makeListing({ booking_id }), _id: new ObjectId() });
      }
      await expect(ensureListingIndexes(market)).rejects.toThrow(/MONGODB_URL.*twice/s);
      expect(await countListings(market)).toBe(3);
    });

    test('an index on booking_id that is not unique is named with the remedy', async () => {
      await market.listings.drop();
      await market.listings.createIndex({ booking_id: 1 });
      await expect(ensureListingIndexes(market)).rejects.toThrow(/booking_id is not unique. Drop it/);
    });
  });
});

async function writeNewest(market: Market, newest: ReadonlyMap<string, number>): Promise<void> {
  const listings = [...newest].map(([booking_id, version]) => {
    const [epoch, revision] = [Math.floor(version / 1_000), version % 1_000];
    return makeListing({ booking_id, epoch, revision, quantity_kg: version });
  });
  await writeListings(
    market,
    listings.map((listing) => ({ listing, listingId: null })),
  );
}

/** Numbers from 0 to 1, the same for the same seed (mulberry32). */
function createRandom(seed: number): () => number {
  let state = seed;
  return () => {
    state = (state + 0x6d2b79f5) | 0;
    let mixed = Math.imul(state ^ (state >>> 15), 1 | state);
    mixed = (mixed + Math.imul(mixed ^ (mixed >>> 7), 61 | mixed)) ^ mixed;
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 4_294_967_296;
  };
}
