import { afterAll, afterEach, beforeAll, describe, expect, test } from 'vitest';
import type { Pipeline } from '../../pipeline/pipeline.ts';
import { EnvironmentError } from '../../src/errors.ts';
import { parseLsn } from '../../src/lsn.ts';
import { query } from '../../src/postgres.ts';
import {
  insertBooking,
  insertCertificate,
  insertDetection,
  insertInspection,
  insertLocation,
  insertReading,
  insertSensor,
  insertVendor,
  setQuantity,
} from '../support/application.ts';
import { createScene, type Scene } from '../support/scene.ts';

// failures.md row 23: the application's tables change while the pipeline streams. One database and market for all: each change
// is mended, or made undone, before the next.

const CHECK_MS = 200;

let scene: Scene;
let sensor: string;
let location: string;
let booking: string;
beforeAll(async () => {
  scene = await createScene();
  const { pool } = scene.database;
  location = await insertLocation(pool);
  sensor = await insertSensor(pool, location);
  const [vendorId, inspectionId] = [await insertVendor(pool), await insertInspection(pool)];
  booking = await insertBooking(pool, { locationId: location, vendorId, inspectionId });
  await insertReading(pool, sensor, 4.5);
  await insertDetection(pool, location);
  await insertCertificate(pool, vendorId, '2099-01-01');
  await query(
    pool,
    `insert into storage_certificates (booking_id, certificate_number, issued_by) values ($1, 'c-1', 'the hall')`,
    [booking],
  );
  await query(pool, 'update storage_bookings set grade = $2 where id = $1', [booking, 'A']);
});
afterAll(() => scene?.stop());

const run = (sql: string) => query(scene.database.pool, sql);
const start = (): Promise<Pipeline> => scene.start({ checkIntervalMs: CHECK_MS });

/** What the application goes on doing, whatever has happened to its tables. */
async function write(): Promise<void> {
  const { pool } = scene.database;
  const quantity = Math.ceil(Math.random() * 1_000_000);
  await setQuantity(pool, booking, quantity);
  await query(pool, 'update iot_sensors set battery_level = random()');
  await query(pool, 'update crop_inspections set recommendation = random()::text');
}

const openResyncs = async (): Promise<number> =>
  (await run('select from market_sync.resync where finished_at is null')).length;
const allResyncs = async (): Promise<number> => (await run('select from market_sync.resync')).length;

describe('row 23: goes on, and the oracle agrees', () => {
  let pipeline: Pipeline;
  beforeAll(async () => {
    pipeline = await start();
    await scene.settle();
  });
  afterAll(() => pipeline.stop());

  test.each([
    [
      'a column is added to bookings',
      'alter table storage_bookings add column moisture numeric default 12.5',
      '',
    ],
    ['a column is added to readings', 'alter table sensor_readings add column battery int', ''],
    [
      'a column that no snapshot shows is dropped',
      'alter table storage_bookings drop column vendor_notes',
      '',
    ],
    [
      'a column that no snapshot shows is renamed',
      'alter table iot_sensors rename column installation_date to installed_on',
      '',
    ],
    [
      'one of readings that no snapshot shows is dropped',
      'alter table sensor_readings drop column alert_reason',
      '',
    ],
    ['varchar becomes text in bookings', 'alter table storage_bookings alter column grade type text', ''],
    [
      'varchar becomes text in detections',
      'alter table pest_detections alter column severity_level type text',
      '',
    ],
    [
      'int becomes bigint in bookings',
      'alter table storage_bookings alter column quantity_kg type bigint',
      '',
    ],
    [
      'int becomes bigint in inspections',
      'alter table crop_inspections alter column shelf_life_days type bigint',
      '',
    ],
    [
      'float becomes numeric in readings',
      'alter table sensor_readings alter column reading_value type numeric',
      '',
    ],
    [
      'a type changes, and the values with it',
      `alter table pest_detections alter column pest_type type text using upper(pest_type)`,
      '',
    ],
    [
      'a column is dropped and made anew in one transaction',
      `begin; alter table storage_certificates drop column issued_by;
      alter table storage_certificates add column issued_by text default 'nobody'; commit`,
      '',
    ],
  ])('row 23: it goes on when %s', async (_, change) => {
    const before = await allResyncs();
    await run(change);
    await write();
    await insertReading(scene.database.pool, sensor, Math.random() * 30);
    await scene.settle();
    // What no trigger has fired for comes with the recompute that the next look asks for.
    await expect
      .poll(
        async () => {
          await scene.settle();
          return scene.expectConverged([booking]).then(
            () => 'converged',
            (error: Error) => error.message,
          );
        },
        { timeout: 20_000 },
      )
      .toBe('converged');
    expect((await allResyncs()) - before).toBeLessThanOrEqual(1);
    expect(pipeline.consumer.state).toBe('active');
  });
});

describe('row 23: stops with table, column and remedy, and goes on once it is mended', () => {
  afterEach(() => scene.stopPipelines());

  const RENAMED = (table: string, column: string) => ({
    change: `alter table ${table} rename column ${column} to gone`,
    mend: `alter table ${table} rename column gone to ${column}`,
    named: `there is no column ${table}.${column}`,
    remedy: `alter table ${table} rename column … to ${column}`,
  });
  const CASES = {
    'a column of bookings is renamed': RENAMED('storage_bookings', 'crop_type'),
    'the id of bookings is renamed': RENAMED('storage_bookings', 'id'),
    'the value of readings is renamed': RENAMED('sensor_readings', 'reading_value'),
    'the key of sensors is renamed': RENAMED('iot_sensors', 'location_id'),
    'a column of inspections is renamed': RENAMED('crop_inspections', 'freshness'),
    'a column of vendor certificates is renamed': RENAMED('compliance_certificates', 'score'),
    'a column of booking certificates is dropped': {
      change: 'alter table storage_certificates drop column digital_signature',
      mend: `alter table storage_certificates add column digital_signature text default 'signed again'`,
      named: 'there is no column storage_certificates.digital_signature',
      remedy: 'add column digital_signature text',
    },
    'a text becomes json, which would park every booking': {
      change:
        'alter table crop_inspections alter column visual_defects type jsonb using to_jsonb(visual_defects)',
      mend: `alter table crop_inspections alter column visual_defects type text using visual_defects #>> '{}'`,
      named: 'crop_inspections.visual_defects is jsonb, not text',
      remedy: 'alter table crop_inspections alter column visual_defects type text using …',
    },
    'a text becomes an enum': {
      change: `create type severity as enum ('high', 'other');
        alter table pest_detections alter column severity_level type severity using severity_level::severity`,
      mend: 'alter table pest_detections alter column severity_level type text',
      named: 'pest_detections.severity_level is severity, not text',
      remedy: 'alter table pest_detections alter column severity_level type text using …',
    },
    'a time loses its zone': {
      change: 'alter table sensor_readings alter column reading_time type timestamp',
      mend: `alter table sensor_readings alter column reading_time type timestamptz`,
      named: 'sensor_readings.reading_time is timestamp without time zone, not timestamptz',
      remedy: 'alter table sensor_readings alter column reading_time type timestamptz using …',
    },
    'a table is renamed': {
      change: 'alter table compliance_certificates rename to certificates',
      mend: 'alter table certificates rename to compliance_certificates',
      named: 'there is no table compliance_certificates',
      remedy: 'restore it, or rename it back',
    },
  };

  test.each(Object.entries(CASES))('row 23: it stops when %s', async (_, { change, mend, named, remedy }) => {
    const pipeline = await start();
    await scene.settle();
    const before = await allResyncs();
    await run(change);
    const afterChange = parseLsn(
      String((await run('select pg_current_wal_insert_lsn()::text as lsn'))[0]?.lsn),
    );
    // The application is not disturbed, whatever its triggers run into (I5).
    await query(scene.database.pool, 'update storage_bookings set quantity_kg = quantity_kg + 1');
    await query(scene.database.pool, 'update iot_sensors set battery_level = random()');
    const error = await pipeline.failed.catch((reason: unknown) => reason);
    expect(error).toBeInstanceOf(EnvironmentError);
    expect((error as Error).message).toContain(named);
    expect((error as Error).message).toContain(remedy);
    await pipeline.stop().catch(() => undefined);

    // Started again before it is mended, it says the same at once, and confirms nothing.
    const confirmed = await scene.confirmedLsn();
    const again = await scene.start({ until: 'starting' });
    const failure = await again.failed.catch((reason: unknown) => reason);
    expect((failure as Error).message).toContain(named);
    await again.stop().catch(() => undefined);
    expect(await scene.confirmedLsn()).toBe(confirmed);
    for (let round = 0; round < 20; round += 1)
      await query(scene.database.pool, 'update iot_sensors set status = status');
    expect((await allResyncs()) - before).toBeLessThanOrEqual(2);
    expect(afterChange).toBeGreaterThan(0n);

    await run(mend);
    const mended = await start();
    await insertReading(scene.database.pool, sensor, Math.random() * 30);
    await scene.settle();
    expect(await openResyncs()).toBe(0);
    await scene.expectConverged([booking]);
    expect(await run('select from market_sync.parked')).toEqual([]);
    await mended.stop();
  });
});

test('row 23: a change of readings that the trigger runs into does not ask for one recompute after the other', async () => {
  const before = await allResyncs();
  await run('alter table sensor_readings rename column reading_unit to unit');
  for (let round = 0; round < 200; round += 1) {
    await query(
      scene.database.pool,
      'insert into sensor_readings (sensor_id, reading_value, reading_time) values ($1, $2, now())',
      [sensor, round],
    );
  }
  await run('update sensor_readings set reading_value = reading_value + 1');
  const pipeline = await scene.start({ until: 'starting' });
  const error = await pipeline.failed.catch((reason: unknown) => reason);
  expect((error as Error).message).toContain('there is no column sensor_readings.reading_unit');
  await pipeline.stop().catch(() => undefined);
  await run('alter table sensor_readings rename column unit to reading_unit');
  const mended = await start();
  await scene.settle();
  await scene.expectConverged([booking]);
  expect((await allResyncs()) - before).toBeLessThanOrEqual(2);
  await mended.stop();
});

test('row 23: it stops also while nobody writes, before a wrong type can park bookings', async () => {
  const pipeline = await start();
  await scene.settle();
  await run('alter table storage_certificates rename column issued_by to gone');
  const error = await pipeline.failed.catch((reason: unknown) => reason);
  expect((error as Error).message).toContain('there is no column storage_certificates.issued_by');
  await pipeline.stop().catch(() => undefined);
  await run('alter table storage_certificates rename column gone to issued_by');
  const mended = await start();
  await scene.settle();
  await scene.expectConverged([booking]);
  await mended.stop();
});
