import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { migrate } from '../../src/migrate.ts';
import { query } from '../../src/postgres.ts';
import { testLog } from '../support/pipeline.ts';
import { createDatabase, type TestDatabase } from '../support/postgres.ts';

let database: TestDatabase;
beforeEach(async () => {
  database = await createDatabase();
});
afterEach(() => database.drop());

const run = (sql: string) => query(database.pool, sql);
const install = () => migrate({ pool: database.pool, sourceSchema: 'public', log: testLog() });

/** The indexes that were made, by name. */
const listIndexes = async (): Promise<string[]> => {
  const rows = await query<{ name: string }>(
    database.pool,
    `select c.relname as name from pg_index i join pg_class c on c.oid = i.indexrelid
     where c.relname like 'market\\_sync\\_%' and i.indisvalid and c.relnamespace = 'public'::regnamespace
       and not c.relispartition order by 1`,
  );
  return rows.map(({ name }) => name);
};

const MADE = [
  'market_sync_certificates_of_vendor',
  'market_sync_latest_reading',
  'market_sync_live_of_inspection',
  'market_sync_live_of_location',
  'market_sync_live_of_vendor',
  'market_sync_pests_of_location',
  'market_sync_sensors_of_location',
];

describe('the indexes that reconcile needs', () => {
  test('are made where none serves; the unique key of storage certificates serves', async () => {
    await install();
    expect(await listIndexes()).toEqual(MADE);
  });

  test('are not made where one of the application serves, also one with more columns or another name', async () => {
    await run('create index readings on sensor_readings (sensor_id, reading_time, reading_value)');
    await run('create index "Sensors" on iot_sensors (location_id, sensor_type)');
    await run('create index vendors_certificates on compliance_certificates (vendor_id desc)');
    await install();
    expect(await listIndexes()).toEqual(
      MADE.filter((name) => name.includes('_live_') || name.includes('pests')),
    );
  });

  test.each([
    ['with its columns in another order', '(reading_time, sensor_id)'],
    ['of one column of two', '(sensor_id)'],
    ['that only includes the second column', '(sensor_id) include (reading_time)'],
    ['of a part of the rows', '(sensor_id, reading_time) where alert_triggered'],
    ['on an expression', '((sensor_id::text), reading_time)'],
    ['of a kind without order', 'using brin (sensor_id, reading_time)'],
  ])('are made though there is one %s', async (_, definition) => {
    await run(
      `create index mine on sensor_readings ${definition.startsWith('using') ? '' : 'using btree '}${definition}`,
    );
    await install();
    expect(await listIndexes()).toEqual(MADE);
  });

  test('are made anew when a crash has left one invalid, and otherwise left alone', async () => {
    await install();
    const oids = async () =>
      query(database.pool, `select 'market_sync_latest_reading'::regclass::oid::int as oid`);
    const before = await oids();
    await install();
    expect(await oids()).toEqual(before);
    await run(
      `update pg_index set indisvalid = false where indexrelid = 'market_sync_latest_reading'::regclass`,
    );
    expect(await listIndexes()).not.toContain('market_sync_latest_reading');
    await install();
    expect(await listIndexes()).toEqual(MADE);
    expect(await oids()).not.toEqual(before);
  });

  test('are made on a partitioned table, with the partitions that are there and those to come', async () => {
    await run(`
      drop table sensor_readings;
      create table sensor_readings (
        id uuid not null default gen_random_uuid(), sensor_id uuid, reading_value float8, reading_unit varchar(16),
        reading_time timestamptz not null, alert_triggered bool, alert_reason text, created_at timestamptz,
        primary key (id, reading_time)) partition by range (reading_time);
      create table readings_2024 partition of sensor_readings for values from ('2024-01-01') to ('2025-01-01')`);
    await install();
    await run(
      `create table readings_2025 partition of sensor_readings for values from ('2025-01-01') to ('2026-01-01')`,
    );
    const rows = await run(
      `select inhrelid from pg_inherits where inhparent = 'market_sync_latest_reading'::regclass`,
    );
    expect(rows).toHaveLength(2);
    expect(await listIndexes()).toEqual(MADE);
    expect(await install()).toEqual([]);
  });
});

const PARTITIONED = `
  drop table sensor_readings;
  create table sensor_readings (
    id uuid not null default gen_random_uuid(), sensor_id uuid, reading_value float8, reading_unit varchar(16),
    reading_time timestamptz not null, alert_triggered bool, alert_reason text, created_at timestamptz,
    primary key (id, reading_time)) partition by range (reading_time);
  create schema "Parts";
  create table "Parts"."Old" partition of sensor_readings for values from (minvalue) to ('2024-01-01');
  create table readings_2024 partition of sensor_readings for values from ('2024-01-01') to ('2025-01-01')
    partition by range (reading_time);
  create table readings_2024_h1 partition of readings_2024 for values from ('2024-01-01') to ('2024-07-01');
  create table readings_2024_h2 partition of readings_2024 for values from ('2024-07-01') to ('2025-01-01')`;

describe('the index of a partitioned table', () => {
  const places = () =>
    run(`select t.relname as "table", i.indisvalid as valid, c.relispartition as attached
         from pg_index i join pg_class c on c.oid = i.indexrelid join pg_class t on t.oid = i.indrelid
         where c.relname like 'market\\_sync\\_latest\\_reading%' order by t.relname collate "C"`);
  const WHOLE = [
    { table: 'Old', valid: true, attached: true },
    { table: 'readings_2024', valid: true, attached: true },
    { table: 'readings_2024_h1', valid: true, attached: true },
    { table: 'readings_2024_h2', valid: true, attached: true },
    { table: 'sensor_readings', valid: true, attached: false },
  ];

  test('I5: is built on each partition concurrently, at any depth and in any schema, and then taken in by its parent', async () => {
    await run(PARTITIONED);
    await install();
    expect(await places()).toEqual(WHOLE);
  });

  test('is finished when a crash has left some of it, or an invalid part of it', async () => {
    await run(PARTITIONED);
    const name = async (table: string) =>
      (await run(`select 'market_sync_latest_reading_' || '${table}'::regclass::oid as name`))[0]?.name;
    await run(
      `create index ${await name('"Parts"."Old"')} on "Parts"."Old" (sensor_id, reading_time desc, id desc)`,
    );
    await run(
      `create index ${await name('readings_2024_h1')} on readings_2024_h1 (sensor_id, reading_time desc, id desc)`,
    );
    await run(
      `update pg_index set indisvalid = false where indexrelid = '${await name('readings_2024_h1')}'::regclass`,
    );
    await run(
      `create index market_sync_latest_reading on only sensor_readings (sensor_id, reading_time desc, id desc)`,
    );
    await install();
    expect(await places()).toEqual(WHOLE);
  });
});

test('nothing of the application is altered: no column, constraint, identity or row', async () => {
  await run(`insert into vendors (name) values ('v')`);
  const describeSource = () =>
    run(`
      select c.relname, c.relreplident, c.reloptions, a.attname, a.attnum, a.atttypid::regtype::text, a.attnotnull,
        (select array_agg(conname || pg_get_constraintdef(con.oid) order by conname) from pg_constraint con where conrelid = c.oid) as constraints
      from pg_class c join pg_attribute a on a.attrelid = c.oid
      where c.relnamespace = 'public'::regnamespace and c.relkind = 'r' and a.attnum > 0
        and c.relname <> 'market_inventory_snapshots'
      order by 1, a.attnum`);
  const before = await describeSource();
  await install();
  expect(await describeSource()).toEqual(before);
  expect(await run('select name from vendors')).toEqual([{ name: 'v' }]);
});
