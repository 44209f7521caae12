import { setTimeout as sleep } from 'node:timers/promises';
import type pg from 'pg';
import { describeError } from '../errors.ts';
import type { Logger } from '../log.ts';
import { classifyPostgresError, type Database, inTransaction, query } from '../postgres.ts';
import { type Climate, climateOf, measure, walk } from './demo-climate.ts';
import { createDemoData, type Row } from './demo-data.ts';
import { DEMO_EVENTS } from './demo-events.ts';
import { between, pick, type Random } from './random.ts';

/**
 * Fills a database without bookings with a small market; all of it or nothing. The same `now` gives the same rows, down
 * to their ids. False when there are bookings already: then nothing is changed. Tables are found by the search path.
 */
export async function fillDemo(pool: pg.Pool, input: { now: Date }): Promise<boolean> {
  return inTransaction(pool, async (client) => {
    const found = await query<{ filled: boolean }>(
      client,
      'select exists (select from storage_bookings) as filled',
    );
    if (found[0]?.filled === true) return false;
    for (const { rows, table } of createDemoData(input.now)) await insertRows(client, { table, rows });
    return true;
  });
}

async function insertRows(
  db: Database,
  { rows, table }: { table: string; rows: readonly Row[] },
): Promise<void> {
  const columns = Object.keys(rows[0] ?? {}).join(', ');
  await query(
    db,
    `insert into ${table} (${columns}) select ${columns} from json_populate_recordset(null::${table}, $1)`,
    [JSON.stringify(rows)],
  );
}

const INTERVAL_MS = 400;
const RETRY_PAUSE_MS = 1_000;
const RELOAD_TICKS = 250;

/**
 * Keeps readings coming, from the sensors of one location at a time, and now and then one of `DEMO_EVENTS`, until
 * aborted; then resolves. Goes on by itself after PostgreSQL was away, or after somebody changed the sensors. Throws
 * what cannot mend itself (a table or privilege is missing).
 */
export async function runDemo(
  pool: pg.Pool,
  options: { signal: AbortSignal; log: Logger; intervalMs?: number; random?: Random },
): Promise<void> {
  const { intervalMs = INTERVAL_MS, log, random = Math.random, signal } = options;
  let sensors: DemoSensor[] = [];
  for (let tick = 1; !signal.aborted; tick += 1) {
    let pauseMs = intervalMs;
    try {
      if (sensors.length === 0 || tick % RELOAD_TICKS === 0) sensors = await loadSensors(pool, random);
      await insertReadings(pool, { sensors, random });
      for (const event of DEMO_EVENTS) {
        if (tick >= event.firstTick && (tick - event.firstTick) % event.everyTicks === 0) {
          await query(pool, event.sql);
          log.debug({ event: event.name }, 'demo event');
        }
      }
    } catch (error) {
      if (classifyPostgresError(error) === 'fatal') throw error;
      log.debug({ error: describeError(error) }, 'demo pauses');
      sensors = [];
      pauseMs = RETRY_PAUSE_MS;
    }
    await sleep(pauseMs, undefined, { signal }).catch(() => undefined);
  }
}

type DemoSensor = { id: string; locationId: string; climate: Climate; value: number };

/** The active sensors, except one that fell silent while the others went on: it shows what a silent sensor looks like. */
const ACTIVE_SENSORS = `
  select id, location_id, storage_type, sensor_type, reading_value
  from (
    select s.id, s.location_id, l.type as storage_type, s.sensor_type, r.reading_value, r.reading_time,
      max(r.reading_time) over () as newest_time
    from iot_sensors s
    join storage_locations l on l.id = s.location_id
    left join lateral (
      select reading_value, reading_time from sensor_readings
      where sensor_id = s.id order by reading_time desc, id desc limit 1
    ) r on true
    where s.status = 'active'
  ) sensor
  where reading_time is null or reading_time > newest_time - interval '1 hour'`;

async function loadSensors(pool: pg.Pool, random: Random): Promise<DemoSensor[]> {
  const rows = await query<{
    id: string;
    location_id: string;
    storage_type: string | null;
    sensor_type: string | null;
    reading_value: number | null;
  }>(pool, ACTIVE_SENSORS);
  return rows.flatMap((row) => {
    const climate = climateOf(row.storage_type, row.sensor_type);
    if (climate === undefined) return [];
    const value = row.reading_value ?? between(random, climate.low, climate.high);
    return [{ id: row.id, locationId: row.location_id, climate, value }];
  });
}

/** As the application does it: the reading, and the time of the sensor's last one, which changes no snapshot. */
const INSERT_READINGS = `
  with reading as (
    insert into sensor_readings
      (sensor_id, reading_value, reading_unit, reading_time, alert_triggered, alert_reason)
    select sensor_id, reading_value, reading_unit, now(), alert_triggered, alert_reason
    from json_populate_recordset(null::sensor_readings, $1)
    returning sensor_id, reading_time
  )
  update iot_sensors set last_reading = reading.reading_time from reading where iot_sensors.id = reading.sensor_id`;

async function insertReadings(
  pool: pg.Pool,
  { random, sensors }: { random: Random; sensors: DemoSensor[] },
): Promise<void> {
  if (sensors.length === 0) return;
  const { locationId } = pick(random, sensors);
  const read = sensors.filter((sensor) => sensor.locationId === locationId);
  for (const sensor of read) sensor.value = walk(random, sensor.climate, sensor.value);
  const rows = read.map((sensor) => ({ sensor_id: sensor.id, ...measure(sensor.climate, sensor.value) }));
  await query(pool, INSERT_READINGS, [JSON.stringify(rows)]);
}
