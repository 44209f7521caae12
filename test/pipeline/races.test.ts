import { setTimeout as delay } from 'node:timers/promises';
import pg from 'pg';
import { afterAll, beforeAll, expect, test } from 'vitest';
import type { Market } from '../../src/mongo.ts';
import { type PublishContext, publishBatch } from '../../src/store/publish.ts';
import { reconcileBookings } from '../../src/store/reconcile.ts';
import {
  insertBooking,
  insertLocation,
  insertReading,
  insertSensor,
  setQuantity,
} from '../support/application.ts';
import { testLog } from '../support/pipeline.ts';
import { createScene, type Scene } from '../support/scene.ts';

let scene: Scene;

beforeAll(async () => {
  scene = await createScene();
});

afterAll(() => scene?.stop());

/** Its leases run out at once: several of them may work on one booking. `beforeWrite` delays what it has claimed. */
const publisher = (name: string, beforeWrite?: () => Promise<void>): PublishContext => ({
  pool: scene.database.pool,
  market: beforeWrite === undefined ? scene.market.market : delayed(scene.market.market, beforeWrite),
  log: testLog(),
  publisher: name,
  leaseSeconds: 0,
  attemptsMax: 5,
  random: Math.random,
});

const delayed = (market: Market, beforeWrite: () => Promise<void>): Market => ({
  ...market,
  listings: new Proxy(market.listings, {
    get: (target, name) => {
      if (name !== 'bulkWrite') return Reflect.get(target, name, target);
      return async (...args: Parameters<typeof target.bulkWrite>) => {
        await beforeWrite();
        return target.bulkWrite(...args);
      };
    },
  }),
});

async function publishedRevision(bookingId: string): Promise<number | undefined> {
  const { rows } = await scene.database.pool.query<{ revision: number }>(
    'select published_revision as revision from market_sync.snapshot_state where booking_id = $1',
    [bookingId],
  );
  return rows[0]?.revision;
}

test('I3, row 29: publishers that race on one booking leave its one newest listing, and no reader sees its version go down', async (ctx) => {
  if (!scene.market.market.server.atomicUpdates) ctx.skip('FerretDB 1.x does not compare and write at once');
  const { pool } = scene.database;
  const CHANGES = 200;
  const bookingId = await insertBooking(pool);
  await reconcileBookings(pool, { bookingIds: [bookingId], now: undefined });
  let writing = true;

  const change = async (): Promise<void> => {
    for (let quantityKg = 2; quantityKg <= CHANGES; quantityKg += 1) {
      await setQuantity(pool, bookingId, quantityKg);
      await reconcileBookings(pool, { bookingIds: [bookingId], now: undefined });
    }
    writing = false;
  };
  const publish = async (name: string): Promise<void> => {
    const hesitant = publisher(name, () => delay(Math.random() * 10));
    while (writing) await publishBatch(hesitant, { limit: 1, bookingIds: [bookingId] });
  };
  const read = async (): Promise<number[]> => {
    const seen: number[] = [];
    while (writing) {
      const listing = await scene.listing(bookingId);
      if (listing !== undefined) seen.push(Number(listing.revision));
    }
    return seen;
  };
  const [seen] = await Promise.all([read(), change(), ...['a', 'b', 'c', 'd'].map(publish)]);
  await publishBatch(publisher('last'), { limit: 1, bookingIds: [bookingId] });

  expect(await scene.listing(bookingId)).toMatchObject({ quantity_kg: CHANGES, revision: CHANGES });
  expect(new Set(seen).size).toBeGreaterThan(5);
  expect(seen).toEqual(seen.toSorted((a, b) => a - b));
  expect(await publishedRevision(bookingId)).toBe(CHANGES);
});

test.each(['its first', 'a later'])(
  'I3: a publisher that comes late with an older version changes nothing, when it is %s listing of the booking',
  async (which) => {
    const { pool } = scene.database;
    const bookingId = await insertBooking(pool, { quantityKg: 1 });
    await reconcileBookings(pool, { bookingIds: [bookingId], now: undefined });
    if (which === 'a later') await publishBatch(publisher('first'), { limit: 1, bookingIds: [bookingId] });
    await setQuantity(pool, bookingId, 2);
    await reconcileBookings(pool, { bookingIds: [bookingId], now: undefined });
    // The late one is held up between its claim and its write.
    const [held, claimed] = [Promise.withResolvers<void>(), Promise.withResolvers<void>()];
    const beforeWrite = (): Promise<void> => {
      claimed.resolve();
      return held.promise;
    };
    const late = publishBatch(publisher('late', beforeWrite), { limit: 1, bookingIds: [bookingId] });
    await claimed.promise;
    await setQuantity(pool, bookingId, 3);
    await reconcileBookings(pool, { bookingIds: [bookingId], now: undefined });
    await publishBatch(publisher('fast'), { limit: 1, bookingIds: [bookingId] });
    held.resolve();
    expect(await late).toMatchObject({ outcome: 'published' });
    expect(await scene.listing(bookingId)).toMatchObject({ quantity_kg: 3, revision: 3 });
    expect(await publishedRevision(bookingId)).toBe(3);
  },
);

test.each(['booking', 'reading'] as const)(
  'D2: a booking and a reading for its location that commit at the same moment are both shown, the %s first',
  async (first) => {
    const { pool, url } = scene.database;
    const pipeline = await scene.start();
    const [farmer, device] = [new pg.Client(url), new pg.Client(url)];
    await Promise.all([farmer.connect(), device.connect()]);
    try {
      const locationId = await insertLocation(pool);
      const sensorId = await insertSensor(pool, locationId);
      await Promise.all([farmer.query('begin'), device.query('begin')]);
      const bookingId = await insertBooking(farmer, { locationId });
      await insertReading(device, sensorId, 3.5);
      // Each was written before the other could be seen, and is through before the other commits.
      for (const session of first === 'booking' ? [farmer, device] : [device, farmer]) {
        await session.query('commit');
        await scene.settle();
      }
      expect(await scene.listing(bookingId)).toMatchObject({ sensors: { temperature: { value: 3.5 } } });
      await scene.expectConverged([bookingId]);
    } finally {
      await Promise.all([farmer.end(), device.end()]);
      await pipeline.stop();
    }
  },
);
