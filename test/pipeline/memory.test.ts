import { readFile } from 'node:fs/promises';
import { setTimeout as delay } from 'node:timers/promises';
import pg from 'pg';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { insertLocation, insertSensor } from '../support/application.ts';
import { until } from '../support/pipeline.ts';
import { type FaultProxy, startProxy } from '../support/proxy.ts';
import { createScene, type Scene } from '../support/scene.ts';
import { type Service, startService } from '../support/service.ts';

// I9: what the pipeline holds in memory does not grow with a transaction, a backlog or an outage (rows 5 and 16).
// MEMORY_ROWS=10000000 npx vitest run test/pipeline/memory.test.ts: the issue's own size, minutes long.

const ROWS = Number(process.env.MEMORY_ROWS ?? 200_000);
const BOOKINGS = 2_000;
/** An hour at a hundred changes a second, or as many as there are rows. */
const OUTAGE_CHANGES = Math.min(360_000, ROWS);
const TIMEOUT_MS = 30 * 60_000;

/** Resident memory may rise by so much over what ordinary load needs; a small run on a noisy machine is nearer to noise. */
const GROWTH_MAX = process.env.MEMORY_ROWS === undefined ? 1.4 : 1.2;

let scene: Scene;
let market: FaultProxy;
let pipeline: Service;
let sensorId: string;
let ordinaryBytes = 0;

beforeAll(async () => {
  scene = await createScene();
  market = await startProxy(scene.market.url);
  const { pool } = scene.database;
  const locationId = await insertLocation(pool);
  sensorId = await insertSensor(pool, locationId);
  await pool.query(
    `insert into storage_bookings (farmer_id, location_id, crop_type, quantity_kg, booking_status)
     select gen_random_uuid(), case when n <= 25 then $1::uuid end, 'Wheat', n, 'active' from generate_series(1, $2::int) n`,
    [locationId, BOOKINGS],
  );
  pipeline = startService('pipeline', {
    DATABASE_URL: scene.database.url,
    MONGODB_URL: market.url,
    MONGODB_DATABASE: scene.market.database,
    MONGODB_TIMEOUT_MS: '1000',
    SLOT_NAME: scene.config.slotName,
  });
  await pipeline.logged('consumer active');
  await scene.settle();
  // Ordinary load: every booking changes some ten times, all of it published.
  const peak = await watchMemory(async () => {
    for (let round = 1; round <= 10; round += 1) {
      await pool.query('update storage_bookings set quantity_kg = quantity_kg + 1');
      await pool.query(LOAD_READINGS, [sensorId, 1_000, round]);
      await scene.settle();
    }
  });
  ordinaryBytes = peak;
}, TIMEOUT_MS);

afterAll(async () => {
  await pipeline?.end();
  await scene?.stop();
  await market?.stop();
});

const LOAD_READINGS = `
insert into sensor_readings (sensor_id, reading_value, reading_unit, reading_time)
select $1, n % 50, '°C', clock_timestamp() - make_interval(secs => $3::int) + n * interval '1 microsecond'
from generate_series(1, $2::int) n`;

async function residentBytes(): Promise<number> {
  const status = await readFile(`/proc/${pipeline.pid}/status`, 'utf8');
  return Number(/^VmRSS:\s+(\d+) kB$/m.exec(status)?.[1]) * 1024;
}

/** The most that the pipeline held while `work` was done. */
async function watchMemory(work: () => Promise<void>): Promise<number> {
  let [peak, done] = [0, false];
  const watching = (async () => {
    while (!done) {
      peak = Math.max(peak, await residentBytes());
      await delay(20);
    }
  })();
  await work().finally(() => {
    done = true;
  });
  await watching;
  return peak;
}

async function expectFlat(what: string, work: () => Promise<void>): Promise<void> {
  const peak = await watchMemory(work);
  const growth = peak / ordinaryBytes;
  console.log(
    `${what}: at most ${Math.round(peak / 2 ** 20)} MiB, ${growth.toFixed(2)} × of ordinary load (${Math.round(ordinaryBytes / 2 ** 20)} MiB)`,
  );
  expect(growth).toBeLessThan(GROWTH_MAX);
}

test(`row 16: a transaction of ${ROWS} readings, one statement or many, kept or rolled back, takes no memory`, {
  timeout: TIMEOUT_MS,
}, async () => {
  await expectFlat(`${ROWS} readings in one statement`, async () => {
    await asApplication((client) => client.query(LOAD_READINGS, [sensorId, ROWS, 60]));
    await scene.settle();
  });
  for (const end of ['rollback', 'commit']) {
    await expectFlat(`${ROWS / 10} readings in statements of 100, then ${end}`, async () => {
      await asApplication(async (client) => {
        await client.query('begin');
        for (let loaded = 0; loaded < ROWS / 10; loaded += 100) {
          await client.query(LOAD_READINGS, [sensorId, 100, 30]);
        }
        await client.query(end);
      });
      await scene.settle();
    });
  }
  await expectFlat(`${OUTAGE_CHANGES} changes of bookings in one transaction`, async () => {
    await asApplication(async (client) => {
      await client.query('begin');
      for (let changed = 0; changed < OUTAGE_CHANGES; changed += BOOKINGS) {
        await client.query('update storage_bookings set quantity_kg = quantity_kg + 1');
      }
      await client.query('commit');
    });
    await scene.settle();
  });
  await expectFewConverged();
});

test(`row 5: while MongoDB is away for ${OUTAGE_CHANGES} changes memory is flat and the slot advances, and afterwards each listing is written once`, {
  timeout: TIMEOUT_MS,
}, async () => {
  const { pool } = scene.database;
  await scene.settle();
  await market.refuse();
  await expectFlat('outage of MongoDB', async () => {
    for (let changed = 0; changed < OUTAGE_CHANGES; changed += BOOKINGS) {
      await pool.query('update storage_bookings set quantity_kg = quantity_kg + 1');
      const { rows } = await pool.query<{ lsn: string }>('select pg_current_wal_lsn()::text as lsn');
      if (changed % (BOOKINGS * 20) === 0) {
        await until('the slot has come this far', async () => await isConfirmed(rows[0]?.lsn ?? ''));
      }
    }
  });
  await expectFlat('return of MongoDB', async () => {
    await market.heal();
    await scene.settle();
  });
  await expectFewConverged();
});

/** A session without the timeouts that the program's own have. */
async function asApplication(work: (client: pg.Client) => Promise<unknown>): Promise<void> {
  const client = new pg.Client(scene.database.url);
  await client.connect();
  await work(client).finally(() => client.end());
}

/** Some without the sensor: the oracle would read every reading of it. What those with it show is asked of SQL. */
async function expectFewConverged(): Promise<void> {
  const { pool } = scene.database;
  const { rows } = await pool.query<{ id: string; latest: Date | null }>(
    `(select id, (select max(reading_time) from sensor_readings) as latest
      from storage_bookings where location_id is not null limit 5)
     union all (select id, null from storage_bookings where location_id is null limit 50)`,
  );
  await scene.expectConverged(rows.filter(({ latest }) => latest === null).map(({ id }) => id));
  for (const { id, latest } of rows) {
    if (latest === null) continue;
    expect((await scene.listing(id))?.sensors).toMatchObject({
      temperature: { reading_time: latest.toISOString() },
    });
  }
}

/** True once the slot is confirmed up to there; an idle one follows seldom, so something is written on the way. */
async function isConfirmed(lsn: string): Promise<boolean> {
  const { rows } = await scene.database.pool.query<{ passed: boolean }>(
    `select confirmed_flush_lsn >= $1::pg_lsn as passed from pg_replication_slots where slot_name = $2`,
    [lsn, scene.config.slotName],
  );
  if (rows[0]?.passed === true) return true;
  await scene.database.pool.query(
    'update storage_bookings set crop_type = crop_type where quantity_kg % 100 = 0',
  );
  return false;
}
