import { randomBytes } from 'node:crypto';
import type pg from 'pg';
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test } from 'vitest';
import { Decoder } from '../../pipeline/decode.ts';
import { parseCaptureMessage } from '../../src/domain/change.ts';
import { describeError } from '../../src/errors.ts';
import {
  insertBooking,
  insertDetection,
  insertInspection,
  insertLocation,
  insertReading,
  insertSensor,
  insertVendor,
} from '../support/application.ts';
import { createDatabase, type TestDatabase } from '../support/postgres.ts';
import { createScene, type Scene } from '../support/scene.ts';

let database: TestDatabase;
let client: pg.PoolClient;
let slotName: string;

let [locationId, otherLocationId, sensorId, vendorId, inspectionId, bookingId] = ['', '', '', '', '', ''];

beforeAll(async () => {
  database = await createDatabase({ template: 'migrated' });
});

afterAll(() => database?.drop());

beforeEach(async () => {
  client = await database.pool.connect();
  [locationId, otherLocationId] = [await insertLocation(client), await insertLocation(client)];
  [vendorId, inspectionId] = [await insertVendor(client), await insertInspection(client)];
  sensorId = await insertSensor(client, locationId);
  bookingId = await insertBooking(client, { locationId, vendorId, inspectionId });
  slotName = `capture_${randomBytes(6).toString('hex')}`;
  await client.query(`select pg_create_logical_replication_slot($1, 'pgoutput')`, [slotName]);
});

afterEach(async () => {
  await client.query('select pg_drop_replication_slot($1)', [slotName]);
  client.release(true);
});

/** What the consumer would be sent since the last call: one entry for each row or message, with its keys. */
async function captured(): Promise<unknown[]> {
  const { rows } = await client.query<{ data: Buffer }>(
    `select data from pg_logical_slot_get_binary_changes($1, null, null,
       'proto_version', '1', 'publication_names', 'market_sync', 'messages', 'true')`,
    [slotName],
  );
  const decoder = new Decoder();
  return rows.flatMap<unknown>(({ data }) => {
    const change = decoder.decode(data);
    if (change.kind === 'booking') return [change.bookingIds];
    if (change.kind === 'truncate') return ['truncate'];
    if (change.kind !== 'message') return [];
    const message = parseCaptureMessage(change.content);
    if (message === undefined) return ['malformed'];
    const { v: _, ...keys } = message;
    return [keys];
  });
}

describe('statements', () => {
  test('an update of what no snapshot shows emits nothing', async () => {
    await client.query('update iot_sensors set last_reading = now(), battery_level = 50 where id = $1', [
      sensorId,
    ]);
    await client.query(`update iot_sensors set device_id = gen_random_uuid()::text`);
    await client.query(
      `update crop_inspections set recommendation = 'sell', image_urls = '[]' where id = $1`,
      [inspectionId],
    );
    await client.query('update iot_sensors set status = status');
    await client.query('update iot_sensors set status = null where false');
    expect(await captured()).toEqual([]);
  });

  test('5,000 readings in one statement are one message, 12,000 keys are three', async () => {
    await client.query(
      'insert into sensor_readings (sensor_id, reading_value, reading_time) select $1, i, now() from generate_series(1, 5000) i',
      [sensorId],
    );
    expect(await captured()).toEqual([{ sensor: [sensorId] }]);
    await client.query('insert into crop_inspections (freshness) select $1 from generate_series(1, 12000)', [
      'fresh',
    ]);
    const messages = (await captured()) as { inspection: string[] }[];
    expect(messages.map(({ inspection }) => inspection.length)).toEqual([5_000, 5_000, 2_000]);
  });

  test('what a savepoint or a transaction rolled back emits nothing', async () => {
    await client.query('begin; savepoint here');
    await insertReading(client, sensorId, 1);
    await insertBooking(client);
    await client.query('rollback to here');
    const id = await insertDetection(client, locationId);
    await client.query('commit; begin');
    await client.query('delete from pest_detections where id = $1', [id]);
    await client.query('rollback');
    expect(await captured()).toEqual([{ location: [locationId] }]);
  });

  test('row 19: what moves from one parent to another names both', async () => {
    const other = await insertVendor(client);
    await client.query('update iot_sensors set location_id = $2 where id = $1', [sensorId, otherLocationId]);
    const detection = await insertDetection(client, locationId);
    await client.query('update pest_detections set location_id = $2 where id = $1', [
      detection,
      otherLocationId,
    ]);
    await client.query('insert into compliance_certificates (vendor_id) values ($1)', [vendorId]);
    await client.query('update compliance_certificates set vendor_id = $1', [other]);
    await client.query('delete from compliance_certificates');
    const both = [locationId, otherLocationId].sort();
    expect(await captured()).toEqual([
      { location: both },
      { location: [locationId] },
      { location: both },
      { vendor: [vendorId] },
      { vendor: [vendorId, other].sort() },
      { vendor: [other] },
    ]);
  });

  test('a booking that changes its id names both', async () => {
    const id = '00000000-0000-4000-8000-000000000001';
    await client.query('update storage_bookings set id = $2 where id = $1', [bookingId, id]);
    await client.query('delete from storage_bookings where id = $1', [id]);
    expect(await captured()).toEqual([[bookingId, id], [id]]);
  });

  test('row 21: ON CONFLICT, MERGE and COPY are captured', async () => {
    const upsert = `insert into iot_sensors (id, location_id, device_id, status) values (gen_random_uuid(), $1, 'one', $2)
      on conflict (device_id) do update set status = excluded.status`;
    await client.query(upsert, [locationId, 'active']);
    await client.query(upsert, [locationId, 'inactive']);
    await client.query(upsert.replace(/do update.*/, 'do nothing'), [locationId, 'active']);
    expect(await captured()).toEqual([{ location: [locationId] }, { location: [locationId] }]);

    await client.query(
      `merge into pest_detections d using (values ($1::uuid, 'moth'), ($2::uuid, 'weevil')) as v (location_id, pest_type)
         on d.location_id = v.location_id
       when matched then update set pest_type = v.pest_type
       when not matched then insert (location_id, pest_type) values (v.location_id, v.pest_type)`,
      [locationId, otherLocationId],
    );
    expect(await captured()).toEqual([{ location: [locationId, otherLocationId].sort() }]);

    // COPY by the server, from a program of its own: what psql's \copy does, without psql.
    await client.query(
      `copy sensor_readings (sensor_id, reading_value, reading_time) from program 'echo ${sensorId},4,2026-01-01; echo ${sensorId},5,2026-01-02' with (format csv)`,
    );
    expect(await captured()).toEqual([{ sensor: [sensorId] }]);
  });

  test('row 21: foreign keys that cascade or set null are captured', async () => {
    await insertReading(client, sensorId, 1);
    await insertDetection(client, locationId);
    await captured();
    await client.query('delete from storage_locations where id = $1', [locationId]);
    const changes = await captured();
    expect(changes).toHaveLength(4);
    expect(changes).toEqual(
      expect.arrayContaining([[bookingId], { location: [locationId] }, { sensor: [sensorId] }]),
    );
  });

  test('row 21: TRUNCATE makes everything dirty', async () => {
    await client.query('begin; truncate sensor_readings; rollback');
    expect(await captured()).toEqual([]);
    await client.query('truncate sensor_readings');
    expect(await captured()).toEqual([{ all: 'sensor_readings' }]);
    await client.query('truncate storage_bookings cascade');
    expect(await captured()).toEqual(expect.arrayContaining(['truncate', { all: 'storage_certificates' }]));
  });

  test('row 22: session_replication_role = replica does not switch capture off', async () => {
    await client.query('set session_replication_role = replica');
    await insertReading(client, sensorId, 1);
    const id = await insertBooking(client);
    expect(await captured()).toEqual([{ sensor: [sensorId] }, [id]]);
  });

  test('rows without a key emit nothing', async () => {
    await client.query('insert into iot_sensors (location_id) values (null)');
    await client.query('insert into pest_detections (location_id) values (null)');
    expect(await captured()).toEqual([]);
  });
});

describe('I5', () => {
  test('a role without any right on market_sync can write to the source tables', async () => {
    const role = `application_${randomBytes(6).toString('hex')}`;
    await client.query(`create role ${role}`);
    try {
      await client.query(
        `grant select, insert, update, delete, truncate on storage_bookings, iot_sensors, sensor_readings, pest_detections,
           crop_inspections, compliance_certificates, storage_certificates to ${role}`,
      );
      await client.query(`set role ${role}`);
      const id = await insertBooking(client);
      await insertReading(client, sensorId, 1);
      await client.query('update sensor_readings set reading_value = 2 where sensor_id = $1', [sensorId]);
      await client.query('truncate pest_detections');
      await expect(client.query('select from market_sync.checkpoint')).rejects.toMatchObject({
        code: '42501',
      });
      await client.query('reset role');
      expect(await captured()).toEqual([
        [id],
        { sensor: [sensorId] },
        { sensor: [sensorId] },
        { all: 'pest_detections' },
      ]);
    } finally {
      await client.query(`reset role; drop owned by ${role}; drop role ${role}`);
    }
  });

  test('a session with a search_path and functions of its own cannot mislead capture', async () => {
    await client.query(`
      create schema trap;
      create function trap.array_agg(text) returns text[] language sql as 'select null::text[]';
      create table trap.new_rows (sensor_id uuid);
      set search_path = trap, public, pg_catalog`);
    await insertReading(client, sensorId, 1);
    expect(await captured()).toEqual([{ sensor: [sensorId] }]);
  });
});

describe('I5, row 23: a source column that is renamed', () => {
  let scene: Scene;
  beforeAll(async () => {
    scene = await createScene();
  });
  afterAll(() => scene?.stop());

  test("does not make the application's statements fail; the consumer stops with an error that names it, and goes on once it is back", async () => {
    const { pool } = scene.database;
    const pipeline = await scene.start();
    const location = await insertLocation(pool);
    const booking = await insertBooking(pool, { locationId: location });
    const sensor = await insertSensor(pool, location);
    await scene.settle();
    const rename = (from: string, to: string) =>
      pool.query(`alter table pest_detections rename ${from} to ${to}`);
    await rename('action_taken', 'action');
    await insertDetection(pool, location);
    await pool.query(`update pest_detections set action = 'traps'`);
    const failure: unknown = await pipeline.failed.catch((error: unknown) => error);
    expect(describeError(failure)).toMatch(/there is no column pest_detections\.action_taken .*Mend them/);
    // The application goes on while nobody listens.
    await insertReading(pool, sensor, 7);
    await pool.query('delete from pest_detections');
    await insertDetection(pool, location);
    await pipeline.stop();

    await rename('action', 'action_taken');
    await scene.start();
    await scene.settle();
    expect(await scene.listing(booking)).toMatchObject({
      pest_count: 1,
      sensors: { temperature: { value: 7 } },
    });
    await scene.expectConverged([booking]);
  });
});
