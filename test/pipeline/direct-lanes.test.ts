import { afterAll, afterEach, beforeAll, expect, test } from 'vitest';
import { connectMarket } from '../../src/mongo.ts';
import { query } from '../../src/postgres.ts';
import { insertBooking, insertLocation, insertReading, insertSensor } from '../support/application.ts';
import { until } from '../support/pipeline.ts';
import { startProxy } from '../support/proxy.ts';
import { createScene, type Scene } from '../support/scene.ts';

// What the consumer has claimed for the publisher of its process, on its way to MongoDB.

let scene: Scene;

beforeAll(async () => {
  scene = await createScene({ settings: { PUBLISH_INTERVAL_MS: '0', PUBLISH_LEASE_SECONDS: '60' } });
});
afterEach(() => scene.stopPipelines());
afterAll(() => scene?.stop());

const pool = () => scene.database.pool;

async function plant(
  bookings: number,
  { database }: Pick<Scene, 'database'> = scene,
): Promise<{ bookingIds: string[]; sensorId: string }> {
  const locationId = await insertLocation(database.pool);
  const sensorId = await insertSensor(database.pool, locationId);
  await insertReading(database.pool, sensorId, 20);
  const bookingIds: string[] = [];
  for (let count = 0; count < bookings; count += 1)
    bookingIds.push(await insertBooking(database.pool, { locationId }));
  return { bookingIds, sensorId };
}

const untilRecomputed = (bookingId: string, temperature: number): Promise<void> =>
  until(`${temperature} is in the snapshot`, async () => {
    const rows = await query<{ value: number }>(
      pool(),
      `select (sensors -> 'temperature' ->> 'value')::float8 as value from market_inventory_snapshots where booking_id = $1`,
      [bookingId],
    );
    return rows[0]?.value === temperature;
  });

const END_LISTENERS = `select pg_terminate_backend(pid) from pg_stat_activity
  where datname = current_database() and query = 'listen market_sync_publish'`;

test.each([
  ['somebody hears of it', true],
  ['nobody hears of it', false],
])(
  'a change that comes while its listing is being written follows as soon as that is marked, when %s',
  async (_, heard) => {
    const [database, market] = [await startProxy(scene.database.url), await startProxy(scene.market.url)];
    const proxied = await connectMarket({
      url: market.url,
      database: scene.market.database,
      timeoutMs: 20_000,
    });
    try {
      const { bookingIds, sensorId } = await plant(1);
      await scene.start({ databaseUrl: database.url, market: proxied });
      await scene.settle();
      let [writing, listening, looks] = [false, true, 0];
      database.onRequest = (chunk) => {
        listening ||= chunk.includes('listen market_sync_publish');
        // What a publisher asks last that has found nothing to claim.
        if (listening && chunk.includes('next_attempt')) looks += 1;
      };
      market.onRequest = (chunk) => {
        if (writing || !chunk.includes(bookingIds[0] ?? '')) return;
        writing = true;
        market.hold();
      };
      await insertReading(pool(), sensorId, 31);
      await until('the first is being written', () => writing);
      [listening, looks] = [heard, 0];
      if (!heard) await query(pool(), END_LISTENERS);
      await insertReading(pool(), sensorId, 32);
      await untilRecomputed(bookingIds[0] ?? '', 32);
      // Told, or listening again: it is not to be claimed yet.
      await until('it was looked for', () => looks > 0);
      const startedAt = performance.now();
      await market.release();
      await scene.settle();
      // Half a minute when nobody comes back for it.
      expect(performance.now() - startedAt).toBeLessThan(10_000);
      await scene.expectConverged(bookingIds);
    } finally {
      await scene.stopPipelines();
      await proxied.close();
      await market.stop();
      await database.stop();
    }
  },
);

test('a pipeline publishes what changes without looking for what is due', async () => {
  const database = await startProxy(scene.database.url);
  try {
    const { bookingIds, sensorId } = await plant(5);
    await scene.start({ databaseUrl: database.url });
    await scene.settle();
    let [looks, marks] = [0, 0];
    database.onRequest = (chunk) => {
      if (chunk.includes('claim_listings')) looks += 1;
      if (chunk.includes('mark_published')) marks += 1;
    };
    for (let value = 40; value <= 50; value += 1) {
      await insertReading(pool(), sensorId, value);
      await scene.settle();
      // Those who published what was new look once more, and find nothing.
      if (value === 40) [looks, marks] = [0, 0];
    }
    expect(marks).toBe(10);
    expect(looks).toBe(0);
    await scene.expectConverged(bookingIds);
  } finally {
    await scene.stopPipelines();
    await database.stop();
  }
});

test('rows 2 and 31: what a recompute claims after its connection is lost is given back', async () => {
  const database = await startProxy(scene.database.url);
  try {
    const { bookingIds, sensorId } = await plant(1);
    await scene.start({ databaseUrl: database.url });
    await scene.settle();
    // Slow enough for the reset to be noticed before it commits.
    await query(
      pool(),
      `create function slow() returns trigger language plpgsql as $$ begin
         if new.revision > old.revision then raise notice 'recomputing'; perform pg_sleep(0.2); end if;
         return new;
       end $$;
       create trigger slow before update on market_inventory_snapshots for each row execute function slow()`,
    );
    let cuts = 0;
    database.onReply = (chunk) => {
      if (cuts > 0 || !chunk.includes('recomputing')) return 'forward';
      cuts += 1;
      return 'cut';
    };
    await insertReading(pool(), sensorId, 61);
    await until('the connection is lost', () => cuts === 1);
    const startedAt = performance.now();
    await scene.settle();
    // Its lease is a minute.
    expect(performance.now() - startedAt).toBeLessThan(20_000);
    await scene.expectConverged(bookingIds);
  } finally {
    await query(pool(), 'drop function if exists slow() cascade');
    await scene.stopPipelines();
    await database.stop();
  }
});

test('what is claimed at once is written in batches of PUBLISH_BATCH_MAX at most', async () => {
  const small = await createScene({ settings: { PUBLISH_INTERVAL_MS: '0', PUBLISH_BATCH_MAX: '10' } });
  try {
    const { market } = small.market;
    let most = 0;
    const bulkWrite: typeof market.listings.bulkWrite = (operations, options) => {
      most = Math.max(most, operations.length);
      return market.listings.bulkWrite(operations, options);
    };
    const listings = new Proxy(market.listings, {
      get: (target, name) => (name === 'bulkWrite' ? bulkWrite : Reflect.get(target, name, target)),
    });
    await small.start({ market: { ...market, listings } });
    const { bookingIds, sensorId } = await plant(95, small);
    await small.settle();
    for (let value = 31; value < 34; value += 1) {
      await insertReading(small.database.pool, sensorId, value);
      await small.settle();
    }
    await query(small.database.pool, 'update storage_bookings set quantity_kg = 5');
    await small.settle();
    expect(most).toBe(10);
    await small.expectConverged(bookingIds);
  } finally {
    await small.stop();
  }
});
