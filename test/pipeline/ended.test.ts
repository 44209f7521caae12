import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import type { Pipeline } from '../../pipeline/pipeline.ts';
import { cleanUp } from '../../pipeline/schedules.ts';
import { connectMarket } from '../../src/mongo.ts';
import { claimExpired, deleteEnded } from '../../src/store/cleanup.ts';
import { deleteListings } from '../../src/store/listings.ts';
import {
  insertBooking,
  insertDetection,
  insertLocation,
  insertReading,
  insertSensor,
  setQuantity,
  setStatus,
} from '../support/application.ts';
import { createClock } from '../support/pipeline.ts';
import { startProxy } from '../support/proxy.ts';
import { createScene, type Scene } from '../support/scene.ts';

const DAY_MS = 86_400_000;
const RETENTION_DAYS = 90;

const clock = createClock(new Date('2026-03-01T12:00:00.000Z'));
let scene: Scene;
let pipeline: Pipeline;
let bookings: number[] = [];

beforeAll(async () => {
  scene = await createScene({ clock, settings: { RETENTION_DAYS: String(RETENTION_DAYS) } });
  pipeline = await scene.start({ onBatch: (batch) => bookings.push(batch.bookings) });
});

afterAll(() => scene?.stop());

const clean = (market = scene.market.market): Promise<{ deleted: number }> =>
  cleanUp({ pool: scene.database.pool, market, clock: () => clock.now() }, new AbortController().signal);

const findSnapshot = async (bookingId: string): Promise<Record<string, unknown> | undefined> => {
  const { rows } = await scene.database.pool.query(
    'select * from market_inventory_snapshots where booking_id = $1',
    [bookingId],
  );
  return rows[0];
};

/** A booking that ended so long ago that its snapshot is to go. */
async function insertExpired(status = 'completed'): Promise<string> {
  const { pool } = scene.database;
  const bookingId = await insertBooking(pool);
  await scene.settle();
  await setStatus(pool, bookingId, status);
  await scene.settle();
  clock.advance(RETENTION_DAYS * DAY_MS + 1);
  return bookingId;
}

test('row 33: a reading at a location with ten live and 2,000 ended bookings recomputes the ten', async () => {
  const { pool } = scene.database;
  const locationId = await insertLocation(pool);
  const sensorId = await insertSensor(pool, locationId);
  const live: string[] = [];
  for (let count = 0; count < 10; count += 1) live.push(await insertBooking(pool, { locationId }));
  const frozen = await insertBooking(pool, { locationId });
  // These never had a snapshot, and get none.
  await pool.query(
    `insert into storage_bookings (farmer_id, location_id, crop_type, quantity_kg, booking_status)
     select gen_random_uuid(), $1, 'Tomato', 1, case when i % 2 = 0 then 'completed' else 'cancelled' end
     from generate_series(1, 2000) i`,
    [locationId],
  );
  await scene.settle();
  await setStatus(pool, frozen, 'completed');
  await scene.settle();
  const before = await findSnapshot(frozen);
  bookings = [];
  await insertReading(pool, sensorId, 4, clock.now());
  await insertDetection(pool, locationId, clock.now());
  await scene.settle();
  expect(Math.max(...bookings)).toBeGreaterThanOrEqual(10);
  expect(Math.max(...bookings)).toBeLessThanOrEqual(11); // With the mark of settle().
  await scene.expectConverged(live);
  expect(await findSnapshot(frozen)).toEqual(before);
  expect(await scene.listing(frozen)).toMatchObject({ status: 'completed', sensors: {}, pest_count: 0 });
  const { rows } = await pool.query(
    'select count(*)::int as count from market_inventory_snapshots where location_id = $1',
    [locationId],
  );
  expect(rows).toEqual([{ count: 11 }]);
});

test('row 20: a booking deleted and inserted again with the same id has one live listing, the new one', async () => {
  const { pool } = scene.database;
  const bookingId = await insertBooking(pool, { quantityKg: 1 });
  await scene.settle();
  const before = await scene.listing(bookingId);
  await pool.query('delete from storage_bookings where id = $1', [bookingId]);
  await scene.settle();
  expect(await scene.listing(bookingId)).toMatchObject({ status: 'withdrawn' });
  await insertBooking(pool, { id: bookingId, quantityKg: 2 });
  await scene.settle();
  expect(await scene.listing(bookingId)).toMatchObject({
    _id: before?._id,
    status: 'published',
    quantity_kg: 2,
    revision: 3,
  });
  await scene.expectConverged([bookingId]);
});

test('row 20: deleted and inserted again in one transaction', async () => {
  const { pool } = scene.database;
  const bookingId = await insertBooking(pool, { quantityKg: 1 });
  await scene.settle();
  await pool.query(`
    begin;
    delete from storage_bookings where id = '${bookingId}';
    insert into storage_bookings (id, farmer_id, crop_type, quantity_kg) values ('${bookingId}', gen_random_uuid(), 'Onion', 2);
    commit`);
  await scene.settle();
  expect(await scene.listing(bookingId)).toMatchObject({ status: 'published', crop_type: 'Onion' });
  await scene.expectConverged([bookingId]);
});

describe('cleanup', () => {
  test.each(['completed', 'cancelled'])(
    'deletes a %s snapshot after the retention, and its listing',
    async (status) => {
      const bookingId = await insertExpired(status);
      clock.advance(-2);
      await clean();
      expect(await scene.listing(bookingId)).toMatchObject({
        status: expect.stringMatching(/completed|withdrawn/),
      });
      clock.advance(2);
      await clean();
      expect(await findSnapshot(bookingId)).toBeUndefined();
      expect(await scene.listing(bookingId)).toBeUndefined();
    },
  );

  test('row 33: what was cleaned stays away, and one that returns to life begins above its old revision', async () => {
    const { pool } = scene.database;
    const locationId = await insertLocation(pool);
    const sensorId = await insertSensor(pool, locationId);
    const bookingId = await insertExpired();
    const revision = Number((await findSnapshot(bookingId))?.revision);
    await clean();
    await pool.query('update storage_bookings set location_id = $2 where id = $1', [bookingId, locationId]);
    await insertReading(pool, sensorId, 1, clock.now());
    await scene.settle();
    expect(await findSnapshot(bookingId)).toBeUndefined();
    expect(await scene.listing(bookingId)).toBeUndefined();

    await setStatus(pool, bookingId, 'active');
    await scene.settle();
    expect(Number((await findSnapshot(bookingId))?.revision)).toBeGreaterThan(revision);
    await scene.expectConverged([bookingId]);
  });

  test('I4: a booking that returns between the deletion of its listing and that of its snapshot is published again', async () => {
    const { pool } = scene.database;
    const bookingId = await insertExpired();
    const expired = (await claimExpired(pool, { now: clock.now(), limit: 10 })).filter(
      (entry) => entry.bookingId === bookingId,
    );
    expect(expired).toHaveLength(1);
    await deleteListings(scene.market.market, expired);
    await setStatus(pool, bookingId, 'active');
    await scene.settle();
    expect(await deleteEnded(pool, expired)).toBe(0);
    await scene.settle();
    await scene.expectConverged([bookingId]);
  });

  test('I1: a tombstone that a publisher took over while cleanup was slow stays, and is published again', async () => {
    const { pool } = scene.database;
    const bookingId = await insertExpired();
    const expired = await claimExpired(pool, { now: clock.now(), limit: 10 });
    // The lease ran out, and a publisher has come and gone.
    await pool.query('update market_sync.snapshot_state set claimed_by = null, lease_until = null');
    await deleteListings(scene.market.market, expired);
    expect(await deleteEnded(pool, expired)).toBe(0);
    await scene.settle();
    expect(await scene.listing(bookingId)).toMatchObject({ status: 'completed' });
    expect(await clean()).toEqual({ deleted: 1 });
  });

  test('a tombstone that changes after the deletion of its listing is published again', async () => {
    const { pool } = scene.database;
    const bookingId = await insertExpired();
    const expired = await claimExpired(pool, { now: clock.now(), limit: 10 });
    await pipeline.stop();
    await setQuantity(pool, bookingId, 5);
    await deleteListings(scene.market.market, expired);
    pipeline = await scene.start({ onBatch: (batch) => bookings.push(batch.bookings) });
    await scene.settle();
    expect(await deleteEnded(pool, expired)).toBe(0);
    await scene.settle();
    expect(await scene.listing(bookingId)).toMatchObject({ status: 'completed', quantity_kg: 5 });
    expect(await clean()).toEqual({ deleted: 1 });
  });

  test('while MongoDB is away no snapshot is deleted: a listing without one would stay for ever', async () => {
    const bookingId = await insertExpired();
    const proxy = await startProxy(scene.market.url);
    const market = await connectMarket({ url: proxy.url, database: scene.market.database, timeoutMs: 300 });
    try {
      await proxy.refuse();
      await expect(clean(market)).rejects.toThrow();
      expect(await findSnapshot(bookingId)).toBeDefined();
      await proxy.heal();
      expect(await clean(market)).toEqual({ deleted: 1 });
      expect(await scene.listing(bookingId)).toBeUndefined();
    } finally {
      await market.close();
      await proxy.stop();
    }
  });
});
