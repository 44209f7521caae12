import { setTimeout as sleep } from 'node:timers/promises';
import type pg from 'pg';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { fillDemo, runDemo } from '../../src/embedded/demo.ts';
import { createRandom } from '../../src/embedded/random.ts';
import { applyStorageGuardTables } from '../../src/embedded/storage-guard.ts';
import { createLogger } from '../../src/log.ts';
import { createPool } from '../../src/postgres.ts';
import { startCluster } from '../support/cluster.ts';
import { createDatabase, type TestDatabase } from '../support/postgres.ts';

const log = createLogger('silent');
const NOW = new Date('2026-03-01T09:30:00Z');

const TABLES = [
  'users',
  'vendors',
  'storage_locations',
  'crop_inspections',
  'storage_bookings',
  'iot_sensors',
  'sensor_readings',
  'pest_detections',
  'compliance_certificates',
  'storage_certificates',
];

const askFor = async (pool: pg.Pool, sql: string): Promise<unknown> =>
  (await pool.query({ text: sql, rowMode: 'array' })).rows[0]?.[0];

const fingerprint = (pool: pg.Pool): Promise<unknown[]> =>
  Promise.all(
    TABLES.map((table) => askFor(pool, `select md5(string_agg(t::text, '|' order by id)) from ${table} t`)),
  );

/** Resolves when the query's value satisfies `done`; rejects after 30 s. */
async function waitFor(pool: pg.Pool, sql: string, done: (value: unknown) => boolean): Promise<void> {
  const deadline = Date.now() + 30_000;
  for (;;) {
    const value = await askFor(pool, sql).catch(() => undefined);
    if (value !== undefined && done(value)) return;
    if (Date.now() > deadline) throw new Error(`still ${value}: ${sql}`);
    await sleep(50);
  }
}

describe('applyStorageGuardTables', () => {
  test('creates the tables once, in a schema of any name', async () => {
    const database = await createDatabase({ template: 'empty' });
    const pool = createPool({ url: database.url, applicationName: 'test', sourceSchema: 'guard', log });
    expect(await applyStorageGuardTables({ pool, sourceSchema: 'guard' })).toBe(true);
    expect(await applyStorageGuardTables({ pool, sourceSchema: 'guard' })).toBe(false);
    const tables = await askFor(pool, "select count(*)::int from pg_tables where schemaname = 'guard'");
    expect(tables).toBe(TABLES.length);
    expect(await fillDemo(pool, { now: NOW })).toBe(true);
    await pool.end();
    await database.drop();
  });
});

describe('fillDemo', () => {
  let database: TestDatabase;
  let pool: pg.Pool;

  beforeAll(async () => {
    database = await createDatabase();
    pool = database.pool;
    await fillDemo(pool, { now: NOW });
  });

  afterAll(() => database.drop());

  test('leaves a database with bookings as it is', async () => {
    const before = await fingerprint(pool);
    expect(await fillDemo(pool, { now: new Date('2027-01-01T00:00:00Z') })).toBe(false);
    expect(await fingerprint(pool)).toEqual(before);
  });

  test('makes the same rows for the same time, ids included', async () => {
    const other = await createDatabase();
    expect(await fillDemo(other.pool, { now: NOW })).toBe(true);
    expect(await fingerprint(other.pool)).toEqual(await fingerprint(pool));
    await other.drop();
  });

  test.each([
    ['vendors', 'select count(*)::int from vendors', 8],
    ['locations', 'select count(*)::int from storage_locations', 12],
    [
      'locations with four kinds of sensor',
      `select count(*)::int from (select from iot_sensors group by location_id having count(distinct sensor_type) = 4) l`,
      12,
    ],
    ['bookings', 'select count(*)::int from storage_bookings', 40],
    ['states of bookings', 'select count(distinct booking_status)::int from storage_bookings', 5],
    [
      'bookings whose vendor is not their location’s',
      `select count(*)::int from storage_bookings b join storage_locations l on l.id = b.location_id where l.vendor_id is distinct from b.vendor_id`,
      0,
    ],
    [
      'inspections without a booking',
      `select count(*)::int from crop_inspections i where not exists (select from storage_bookings where ai_inspection_id = i.id)`,
      0,
    ],
    [
      'readings in the future',
      `select count(*)::int from sensor_readings where reading_time > '${NOW.toISOString()}'`,
      0,
    ],
    [
      'sensors whose last reading is not their newest',
      `select count(*)::int from iot_sensors s where last_reading is distinct from (select max(reading_time) from sensor_readings where sensor_id = s.id)`,
      0,
    ],
    [
      'silent active sensors',
      `select count(*)::int from iot_sensors where status = 'active' and last_reading < timestamptz '${NOW.toISOString()}' - interval '1 hour'`,
      1,
    ],
    [
      'detections in the last 7 days',
      `select count(*)::int from pest_detections where detected_at > timestamptz '${NOW.toISOString()}' - interval '7 days'`,
      9,
    ],
    [
      'unresolved high or critical ones of those',
      `select count(*)::int from pest_detections where detected_at > timestamptz '${NOW.toISOString()}' - interval '7 days' and resolved_at is null and severity_level in ('high', 'critical')`,
      2,
    ],
    [
      'states of compliance certificates',
      'select count(distinct status)::int from compliance_certificates',
      4,
    ],
    [
      'valid ones that expire within a week',
      `select count(*)::int from compliance_certificates where status = 'valid' and expiry_date between date '2026-03-01' and date '2026-03-08'`,
      2,
    ],
    [
      'storage certificates of bookings in or after storage',
      `select count(*)::int from storage_certificates c join storage_bookings b on b.id = c.booking_id where booking_status in ('active', 'completed')`,
      8,
    ],
  ])('%s: %s is %i', async (_what, sql, expected) => {
    expect(await askFor(pool, sql)).toBe(expected);
  });
});

describe('runDemo', () => {
  test('keeps readings coming and bookings moving until it is aborted', async () => {
    const database = await createDatabase();
    await fillDemo(database.pool, { now: new Date() });
    const stop = new AbortController();
    const running = runDemo(database.pool, {
      signal: stop.signal,
      log,
      intervalMs: 5,
      random: createRandom(1),
    });
    await waitFor(
      database.pool,
      `select array[
         (select count(*) >= 1 from storage_bookings where vendor_confirmed_at > created_at and updated_at = vendor_confirmed_at),
         (select count(*) > 13 from pest_detections),
         (select count(*) > 40 from storage_bookings),
         (select count(distinct location_id) = 11 from iot_sensors where last_reading > now() - interval '10 s')]`,
      (value) => Array.isArray(value) && value.every(Boolean),
    );
    stop.abort();
    await running;
    const silent = await askFor(
      database.pool,
      `select count(*)::int from iot_sensors where status = 'active' and last_reading < now() - interval '1 hour'`,
    );
    expect(silent).toBe(1);
    const wild = await askFor(
      database.pool,
      `select count(*)::int from sensor_readings r join iot_sensors s on s.id = r.sensor_id
       where reading_value is null or reading_value <= 0 or (reading_unit = '%' and reading_value > 100)`,
    );
    expect(wild).toBe(0);
    await database.drop();
  });

  test('goes on after PostgreSQL was killed and started again', async () => {
    const cluster = await startCluster();
    const pool = createPool({ url: cluster.url(), applicationName: 'test', sourceSchema: 'public', log });
    const stop = new AbortController();
    try {
      await applyStorageGuardTables({ pool, sourceSchema: 'public' });
      await fillDemo(pool, { now: new Date() });
      const running = runDemo(pool, { signal: stop.signal, log, intervalMs: 5 });
      const count = 'select count(*)::int from sensor_readings';
      const first = Number(await askFor(pool, count));
      await waitFor(pool, count, (value) => Number(value) > first);
      await cluster.kill('SIGKILL');
      await cluster.start();
      const again = Number(await askFor(pool, count));
      await waitFor(pool, count, (value) => Number(value) > again);
      stop.abort();
      await running;
    } finally {
      stop.abort();
      await pool.end();
      await cluster.stop();
    }
  });

  test('goes on after a sensor it reads was deleted', async () => {
    const database = await createDatabase();
    await fillDemo(database.pool, { now: new Date() });
    const stop = new AbortController();
    const running = runDemo(database.pool, { signal: stop.signal, log, intervalMs: 5 });
    const count = 'select count(*)::int from sensor_readings';
    const first = Number(await askFor(database.pool, count));
    await waitFor(database.pool, count, (value) => Number(value) > first);
    await database.pool.query('delete from iot_sensors where sensor_type = $1', ['humidity']);
    await waitFor(
      database.pool,
      `select count(distinct location_id)::int from iot_sensors where last_reading > now() - interval '2 s'`,
      (value) => Number(value) > 8,
    );
    stop.abort();
    await running;
    await database.drop();
  });

  test('throws when a table is missing instead of trying forever', async () => {
    const database = await createDatabase({ template: 'empty' });
    const stop = new AbortController();
    await expect(runDemo(database.pool, { signal: stop.signal, log })).rejects.toThrow('iot_sensors');
    await database.drop();
  });
});
