import type pg from 'pg';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { migrate } from '../../src/migrate.ts';
import { createRest } from '../../src/migration-rests.ts';
import { connect, query } from '../../src/postgres.ts';
import { readSourceWrites } from '../../src/store/live-work.ts';
import { insertLocation, insertReading, insertSensor } from '../support/application.ts';
import { testLog } from '../support/pipeline.ts';
import { createDatabase, type TestDatabase } from '../support/postgres.ts';

let database: TestDatabase;
let client: pg.PoolClient;
beforeAll(async () => {
  database = await createDatabase();
  client = await connect(database.pool);
});
afterAll(async () => {
  client.release(true);
  await database.drop();
});

/** What this session has written is in the statistics once it answers. */
const flush = () => query(client, 'select pg_stat_force_next_flush()').then(() => query(client, 'select 1'));

async function write(): Promise<void> {
  await insertReading(client, await insertSensor(client, await insertLocation(client)), 4.5);
  await flush();
}

async function timeOf(rest: (tookMs: number) => Promise<void>, tookMs: number): Promise<number> {
  const startedAt = performance.now();
  await rest(tookMs);
  return performance.now() - startedAt;
}

test('I5: a migration rests between its steps beside an application that writes, and not at all where nobody does', async () => {
  const rest = await createRest(client, 'public');
  const alone = await timeOf(rest, 60_000);
  await write();
  const beside = await timeOf(rest, 200);
  // One of a minute would have been followed by two seconds, the most there is; timers may be a millisecond early.
  expect(alone).toBeLessThan(2_000 - 1);
  expect(beside).toBeGreaterThan(200 - 1);
});

test('I5: what the application writes is counted, in leaves of partitioned tables too, and what market-sync does is not', async () => {
  await query(
    client,
    `drop table sensor_readings;
     create table sensor_readings (
       id uuid not null default gen_random_uuid(), sensor_id uuid, reading_value float8, reading_unit varchar(16),
       reading_time timestamptz not null, alert_triggered bool, alert_reason text, created_at timestamptz,
       primary key (id, reading_time)) partition by range (reading_time);
     create table readings_all partition of sensor_readings for values from (minvalue) to (maxvalue)`,
  );
  await migrate({ pool: database.pool, sourceSchema: 'public', log: testLog() });
  await flush();
  const before = await readSourceWrites(client);
  await query(client, 'select market_sync.pause($1), market_sync.resume()', ['nothing of the application']);
  await flush();
  expect(await readSourceWrites(client)).toBe(before);
  // A sensor, and its reading in the leaf.
  await write();
  expect(await readSourceWrites(client)).toBe(before + 2);
});
