import { afterAll, beforeAll, beforeEach, expect, test } from 'vitest';
import { followPartitions } from '../../pipeline/partitions.ts';
import { migrate } from '../../src/migrate.ts';
import { connect, query } from '../../src/postgres.ts';
import { insertBooking, insertLocation, insertReading, insertSensor } from '../support/application.ts';
import { testLog } from '../support/pipeline.ts';
import { createScene, type Scene } from '../support/scene.ts';

// failures.md row 21: readings that are written straight to a partition, and partitions that come and go with what is in them.

const PARTITIONED = `
  drop table sensor_readings;
  create table sensor_readings (
    id uuid not null default gen_random_uuid(), sensor_id uuid references iot_sensors on delete cascade,
    reading_value float8, reading_unit varchar(16), reading_time timestamptz not null, alert_triggered bool default false,
    alert_reason text, created_at timestamptz, primary key (id, reading_time)) partition by range (reading_time);
  create table readings_2024 partition of sensor_readings for values from ('2024-01-01') to ('2025-01-01');
  create table readings_2025 partition of sensor_readings for values from ('2025-01-01') to ('2026-01-01')
    partition by range (reading_time);
  create table readings_2025_h1 partition of readings_2025 for values from ('2025-01-01') to ('2025-07-01');
  create table readings_2025_h2 partition of readings_2025 for values from ('2025-07-01') to ('2026-01-01')`;

let scene: Scene;
let location: string;
let sensor: string;
let booking: string;
beforeAll(async () => {
  scene = await createScene({ source: PARTITIONED });
  await scene.start();
});
afterAll(() => scene?.stop());

// What one test has written is none of the next one's.
beforeEach(async () => {
  const { pool } = scene.database;
  location = await insertLocation(pool);
  sensor = await insertSensor(pool, location);
  booking = await insertBooking(pool, { locationId: location });
  await insertReading(pool, sensor, 1, new Date('2024-03-01T00:00:00Z'));
  await scene.settle();
  await follow();
});

const run = (sql: string, values: unknown[] = []) => query(scene.database.pool, sql, values);

/** What the job of every minute does. */
const follow = () =>
  followPartitions({ pool: scene.database.pool, log: testLog() }, new AbortController().signal);

const shown = async (): Promise<unknown> => {
  const [row] = await run(
    `select (sensors -> 'temperature' ->> 'value')::float8 as value from market_inventory_snapshots where booking_id = $1`,
    [booking],
  );
  return row?.value;
};

async function expectShown(value: number | null): Promise<void> {
  await scene.settle();
  expect(await shown()).toBe(value);
  await scene.expectConverged([booking]);
}

const newest = `insert into %s (sensor_id, reading_value, reading_time) values ($1, $2, $3)`;
const insertInto = (table: string, value: number, time: string) =>
  run(newest.replace('%s', table), [sensor, value, time]);

const resyncs = async () => (await run('select from market_sync.resync')).length;

test('row 21: what is written straight to a leaf, at any depth, is seen as what is written through the parent', async () => {
  await insertInto('readings_2024', 2, '2024-04-01');
  await expectShown(2);
  await insertInto('readings_2025_h2', 3, '2025-08-01');
  await expectShown(3);
  await insertInto('sensor_readings', 4, '2025-09-01');
  await expectShown(4);
  await run('update readings_2025_h2 set reading_value = 5 where sensor_id = $1 and reading_value = 4', [
    sensor,
  ]);
  await expectShown(5);
  await run('delete from readings_2025_h2 where sensor_id = $1', [sensor]);
  await expectShown(2);
  await run('truncate readings_2024');
  await expectShown(null);
});

test('row 21: a partition made or attached empty is captured at the next look, and nothing is recomputed', async () => {
  const before = await resyncs();
  await run(
    `create table readings_2026 partition of sensor_readings for values from ('2026-01-01') to ('2027-01-01')`,
  );
  expect(await run(`select partition from market_sync.partitions where not captured`)).toEqual([
    { partition: 'readings_2026' },
  ]);
  expect(await follow()).toMatchObject({ captured: 1, came: 1, went: 0 });
  expect(await follow()).toEqual({});
  await insertInto('readings_2026', 6, '2026-02-01');
  await expectShown(6);
  expect(await resyncs()).toBe(before);
  await run('drop table readings_2026');
  await follow();
  await expectShown(1);
});

test('row 21: what was written straight to a new leaf before anybody looked is seen once it is captured', async () => {
  await run(
    `create table readings_2027 partition of sensor_readings for values from ('2027-01-01') to ('2028-01-01')`,
  );
  await insertInto('readings_2027', 7, '2027-02-01');
  await scene.settle();
  expect(await shown()).toBe(1);
  await follow();
  await expectShown(7);
  await run('drop table readings_2027');
  await follow();
  await expectShown(1);
});

test('row 21: readings come and go with a partition that is attached and detached, and writes to it meanwhile are harmless', async () => {
  await insertInto('readings_2025_h1', 8, '2025-02-01');
  await expectShown(8);
  await run('alter table readings_2025 detach partition readings_2025_h1');
  expect(await follow()).toMatchObject({ came: 0, went: 1 });
  await expectShown(1);
  // It still has its triggers.
  await insertInto('readings_2025_h1', 9, '2025-03-01');
  await expectShown(1);
  await run(
    `alter table readings_2025 attach partition readings_2025_h1 for values from ('2025-01-01') to ('2025-07-01')`,
  );
  expect(await follow()).toMatchObject({ came: 1, went: 0 });
  await expectShown(9);
});

test('row 21: a partition that was detached, written and attached again between two looks is noticed all the same', async () => {
  await run('alter table readings_2025 detach partition readings_2025_h2');
  await insertInto('readings_2025_h2', 10, '2025-12-01');
  await scene.settle();
  await run(
    `alter table readings_2025 attach partition readings_2025_h2 for values from ('2025-07-01') to ('2026-01-01')`,
  );
  expect(await follow()).toMatchObject({ came: 1, went: 1 });
  await expectShown(10);
});

test('row 21: a partition dropped by retention takes its readings along; sensors with newer ones are left alone', async () => {
  await run(
    `create table readings_2020 partition of sensor_readings for values from ('2020-01-01') to ('2021-01-01')`,
  );
  const [silent, other] = [
    await insertSensor(scene.database.pool, location, 'humidity'),
    await insertLocation(scene.database.pool),
  ];
  const busy = await insertSensor(scene.database.pool, other);
  await insertReading(scene.database.pool, silent, 50, new Date('2020-05-01T00:00:00Z'));
  await insertReading(scene.database.pool, busy, 1, new Date('2025-05-01T00:00:00Z'));
  await follow();
  await scene.settle();
  await scene.expectConverged([booking]);
  const asked = async () =>
    (
      await run(`select count(*) from iot_sensors s where not exists (select from sensor_readings r
       where r.sensor_id = s.id and r.reading_time >= '2021-01-01')`)
    )[0]?.count;
  await run('drop table readings_2020');
  const outcome = await follow();
  expect(outcome).toMatchObject({ came: 0, went: 1, sensors: await asked() });
  await scene.settle();
  await scene.expectConverged([booking]);
  const [row] = await run(
    `select sensors ? 'humidity' as there from market_inventory_snapshots where booking_id = $1`,
    [booking],
  );
  expect(row).toEqual({ there: false });
});

test('row 21: with a default partition, and divided by something else than time, every sensor is recomputed', async () => {
  await run('create table readings_other partition of sensor_readings default');
  await insertInto('readings_other', 11, '2031-01-01');
  await follow();
  await expectShown(11);
  await run('alter table sensor_readings detach partition readings_other');
  await follow();
  await expectShown(1);
  await run('drop table readings_other');
});

test('I5: a new leaf that is busy is left to the next look instead of keeping its writers waiting', async () => {
  await run(
    `create table readings_2028 partition of sensor_readings for values from ('2028-01-01') to ('2029-01-01')`,
  );
  const holder = await connect(scene.database.pool);
  await query(holder, 'begin');
  await query(holder, newest.replace('%s', 'readings_2028'), [sensor, 12, '2028-01-01']);
  expect(await follow()).toMatchObject({ captured: 0 });
  await query(holder, 'commit');
  holder.release();
  expect(await follow()).toMatchObject({ captured: 1 });
  await expectShown(12);
  await run('drop table readings_2028');
  await follow();
});

test('migrate captures the leaves that are there', async () => {
  await run(
    `create table readings_2029 partition of sensor_readings for values from ('2029-01-01') to ('2030-01-01')`,
  );
  await run('alter table readings_2024 disable trigger market_sync_insert');
  await migrate({ pool: scene.database.pool, sourceSchema: 'public', log: testLog() });
  expect(await run('select from market_sync.partitions where not captured')).toEqual([]);
});
