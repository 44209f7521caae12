import pg from 'pg';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { insertBooking, insertLocation, insertSensor } from '../support/application.ts';
import { type Minute, readClimate } from '../support/climate.ts';
import { createScene, type Scene } from '../support/scene.ts';

const minutes = readClimate();
const TYPES = ['temperature', 'humidity', 'light', 'co2'] as const;
const SINGLE_MINUTES = 2_000;

let scene: Scene;
let bookingId: string;
const sensorIds: Partial<Record<(typeof TYPES)[number], string>> = {};

beforeAll(async () => {
  scene = await createScene();
  const { pool } = scene.database;
  const locationId = await insertLocation(pool);
  for (const type of TYPES) sensorIds[type] = await insertSensor(pool, locationId, type);
  bookingId = await insertBooking(pool, { locationId });
  await scene.start();
  await scene.settle();
});

afterAll(() => scene?.stop());

const INSERT = `insert into sensor_readings (sensor_id, reading_value, reading_time)
  select * from unnest($1::uuid[], $2::float8[], $3::timestamptz[])`;

const rowsOf = (of: Minute[], types: readonly (typeof TYPES)[number][]) => {
  const rows = of.flatMap(({ time, readings }) =>
    types.map((type) => ({ sensorId: sensorIds[type], value: readings[type], time })),
  );
  return [rows.map((row) => row.sensorId), rows.map((row) => row.value), rows.map((row) => row.time)];
};

async function expectShown(minute: Minute): Promise<void> {
  const sensors = Object.fromEntries(
    TYPES.map((type) => [
      type,
      expect.objectContaining({ value: minute.readings[type], reading_time: minute.time.toISOString() }),
    ]),
  );
  expect((await scene.listing(bookingId))?.sensors).toEqual(sensors);
  await scene.expectConverged([bookingId]);
}

test('real readings, one commit each: the listing shows the last minute, and far fewer listings than readings are written', async (ctx) => {
  const days = minutes ?? ctx.skip('there is no ../shared/data/room-climate.csv.gz');
  const singles = days.slice(0, SINGLE_MINUTES);
  // One device each, as fast as it can.
  await Promise.all(
    TYPES.map(async (type) => {
      const device = new pg.Client({ connectionString: scene.database.url });
      await device.connect();
      for (const minute of singles) {
        await device.query({ name: 'insert', text: INSERT, values: rowsOf([minute], [type]) });
      }
      await device.end();
    }),
  );
  await scene.settle();
  await expectShown(singles.at(-1) as Minute);
  const versions = Number((await scene.listing(bookingId))?.revision);
  console.log(`${singles.length * TYPES.length} single readings became ${versions} versions of the listing`);
  expect(versions).toBeLessThan((singles.length * TYPES.length) / 2);
});

test('real readings, all others in one load and in no order: the listing shows the last minute, in a version or two', async (ctx) => {
  const days = minutes ?? ctx.skip('there is no ../shared/data/room-climate.csv.gz');
  const before = Number((await scene.listing(bookingId))?.revision);
  const shuffled = days
    .slice(SINGLE_MINUTES)
    .sort((a, b) => (a.time.getTime() % 7_919) - (b.time.getTime() % 7_919));
  await scene.database.pool.query(INSERT, rowsOf(shuffled, TYPES));
  await scene.settle();
  await expectShown(days.at(-1) as Minute);
  const versions = Number((await scene.listing(bookingId))?.revision) - before;
  expect(versions).toBeLessThanOrEqual(2);
});
