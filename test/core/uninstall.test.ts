import { afterAll, afterEach, beforeAll, describe, expect, test } from 'vitest';
import { startPipeline } from '../../pipeline/pipeline.ts';
import { applyStorageGuardTables } from '../../src/embedded/storage-guard.ts';
import { EnvironmentError } from '../../src/errors.ts';
import { migrate } from '../../src/migrate.ts';
import { createPool, query } from '../../src/postgres.ts';
import { renderPlan } from '../../src/step.ts';
import { planUninstall, uninstall } from '../../src/uninstall.ts';
import { insertBooking, insertLocation, insertReading, insertSensor } from '../support/application.ts';
import { describeCatalog } from '../support/catalog.ts';
import { startCluster, type TestCluster } from '../support/cluster.ts';
import { OLD_SNAPSHOTS } from '../support/old-system.ts';
import { createMarket, settle, testConfig, testLog, until } from '../support/pipeline.ts';
import { splitStatements } from '../support/sql-text.ts';

// A cluster of its own: roles are the cluster's, and other tests need them.

let cluster: TestCluster;
beforeAll(async () => {
  cluster = await startCluster({ fsync: false });
});
afterAll(() => cluster?.stop());

const cleanups: (() => Promise<unknown>)[] = [];
afterEach(async () => {
  for (const cleanup of cleanups.splice(0).toReversed()) await cleanup();
});

const newPool = (database: string) => {
  const url = cluster.url(database);
  const pool = createPool({ url, applicationName: 'test', sourceSchema: 'public', log: testLog() });
  cleanups.push(() => pool.end());
  return { url, name: database, pool };
};

const PARTITIONED = `
  drop table sensor_readings;
  create table sensor_readings (
    id uuid not null default gen_random_uuid(), sensor_id uuid references iot_sensors on delete cascade,
    reading_value float8, reading_unit varchar(16), reading_time timestamptz not null, alert_triggered bool,
    alert_reason text, created_at timestamptz, primary key (id, reading_time)) partition by range (reading_time);
  create table readings_past partition of sensor_readings for values from (minvalue) to ('2026-01-01');
  create table readings_now partition of sensor_readings for values from ('2026-01-01') to (maxvalue)`;

/** A database of an application with privileges, comments, triggers and identities of its own. */
async function createForeign(name: string, extra = ''): Promise<ReturnType<typeof newPool>> {
  await query(newPool('postgres').pool, `drop database if exists ${name}`);
  await query(newPool('postgres').pool, `create database ${name}`);
  const database = newPool(name);
  await applyStorageGuardTables({ pool: database.pool, sourceSchema: 'public' });
  await query(
    database.pool,
    `comment on table storage_bookings is 'theirs';
     alter table iot_sensors replica identity full; alter table pest_detections set (fillfactor = 90);
     grant select on storage_bookings to public; grant update (status) on iot_sensors to public;
     create index their_own on sensor_readings (reading_time);
     create function theirs() returns trigger language plpgsql as 'begin return null; end';
     create trigger theirs after insert on storage_bookings for each statement execute function theirs();
     create publication their_publication for table crop_inspections;
     ${extra}`,
  );
  return database;
}

const contextOf = (database: ReturnType<typeof newPool>) => ({
  pool: database.pool,
  sourceSchema: 'public',
  log: testLog(),
});

const describeSource = async (database: ReturnType<typeof newPool>) => ({
  catalog: await describeCatalog(database.pool, {
    only: (line) => !line.includes('market_inventory_snapshots'),
  }),
  roles: await query(
    database.pool,
    `select rolname from pg_roles where rolname like 'market\\_sync%' order by 1`,
  ),
  slots: await query(database.pool, 'select slot_name from pg_replication_slots'),
});

async function startOn(database: ReturnType<typeof newPool>) {
  const market = await createMarket();
  const config = testConfig(database);
  const pool = createPool({
    url: database.url,
    applicationName: 'market-sync',
    sourceSchema: 'public',
    log: testLog(),
  });
  const pipeline = await startPipeline({
    config,
    databaseUrl: database.url,
    pool,
    market: market.market,
    log: testLog(),
  });
  await until('the consumer is active', () => pipeline.consumer.state === 'active');
  let stopped = false;
  const stop = async () => {
    if (stopped) return;
    stopped = true;
    await pipeline.stop();
    await pool.end();
  };
  cleanups.push(() => market.drop(), stop);
  return { market, stop };
}

describe.each([
  ['plain', ''],
  ['partitioned', PARTITIONED],
])('with %s readings', (kind, extra) => {
  test('uninstall leaves the whole catalog as it was, keeps the snapshots, and migrate takes them over again', async () => {
    const database = await createForeign(`again_${kind}`, extra);
    const before = await describeSource(database);
    await migrate(contextOf(database));
    const { market, stop } = await startOn(database);
    const location = await insertLocation(database.pool);
    const booking = await insertBooking(database.pool, { locationId: location });
    await insertReading(database.pool, await insertSensor(database.pool, location), 4.5);
    await settle(database);
    const listing = await market.market.listings.findOne({ booking_id: booking });

    const refused = await uninstall(contextOf(database)).catch((error: Error) => error);
    expect(refused).toBeInstanceOf(EnvironmentError);
    expect((refused as Error).message).toMatch(/market-sync is at work on this database .*Stop every/);
    await stop();

    expect((await uninstall(contextOf(database))).kept).toEqual([]);
    expect(await describeSource(database)).toEqual(before);
    expect((await planUninstall(contextOf(database))).steps).toEqual([]);
    const kept = await query(
      database.pool,
      'select booking_id, status, market_listing_id, sensors is not null as sensors from market_inventory_snapshots',
    );
    expect(kept).toEqual([
      { booking_id: booking, status: 'published', market_listing_id: String(listing?._id), sensors: true },
    ]);

    await migrate(contextOf(database));
    const again = await startOn(database);
    await settle(database);
    const now = await again.market.market.listings.findOne({ booking_id: booking });
    expect(String(now?._id)).toBe(String(listing?._id));
    await again.stop();
    await uninstall(contextOf(database));
    expect(await describeSource(database)).toEqual(before);
  });
});

test('what uninstall --plan prints, run by hand, takes away the same', async () => {
  const database = await createForeign('planned', OLD_SNAPSHOTS);
  const before = await describeSource(database);
  await migrate(contextOf(database));
  const installed = await describeSource(database);
  const { steps } = await planUninstall(contextOf(database));
  const text = renderPlan(['heading'], steps);
  expect(await describeSource(database)).toEqual(installed);
  expect(text.match(/^-- Locks: \S/gm)).toHaveLength(steps.length);
  const client = await database.pool.connect();
  try {
    for (const statement of splitStatements(text)) await client.query(statement);
  } finally {
    client.release(true);
  }
  expect(await describeSource(database)).toEqual(before);
});

test('roles that another database uses, or somebody is a member of, stay, and so does a pgboss that others use', async () => {
  const [database, other] = [await createForeign('kept_one'), await createForeign('kept_other')];
  for (const each of [database, other]) await migrate(contextOf(each));
  const { kept } = await uninstall(contextOf(other));
  expect(kept).toHaveLength(6);
  expect(kept.join()).toContain('role market_sync_api: it is used in database kept_one');

  await query(database.pool, 'create role ana login in role market_sync_reader');
  cleanups.push(() => query(database.pool, 'drop role market_sync_reader; drop role ana'));
  await query(database.pool, `select pgboss.create_queue('mails', '{"policy":"standard"}')`);
  const outcome = await uninstall(contextOf(database));
  expect(outcome.kept).toEqual([
    'schema pgboss: others keep jobs there, too (mails)',
    'role market_sync_reader: ana is a member of it (drop role market_sync_reader takes it from them)',
  ]);
  expect(await query(database.pool, `select to_regclass('pgboss.queue') is not null as there`)).toEqual([
    { there: true },
  ]);
});

test("a view of somebody's over market_sync is named, and nothing is taken away", async () => {
  const database = await createForeign('viewed');
  await migrate(contextOf(database));
  await query(database.pool, 'create view board as select * from market_sync.queue');
  const installed = await describeCatalog(database.pool);
  await expect(uninstall(contextOf(database))).rejects.toThrow(
    'board would be dropped with the schema market_sync',
  );
  expect(await describeCatalog(database.pool)).toEqual(installed);
  await query(database.pool, 'drop view board');
  await uninstall(contextOf(database));
});

test('an owner who is no superuser takes away what it has installed; roles that others made stay, and are named', async () => {
  const admin = newPool('postgres').pool;
  await query(admin, `create role careful login createrole password 'test'`);
  await query(admin, 'create database owned owner careful');
  const url = new URL(cluster.url('owned'));
  url.username = 'careful';
  const pool = createPool({ url: url.href, applicationName: 'test', sourceSchema: 'public', log: testLog() });
  const database = { url: url.href, name: 'owned', pool };
  cleanups.push(async () => {
    await query(admin, 'drop database owned with (force)');
    await query(admin, 'drop role careful');
  });
  cleanups.push(() => pool.end());
  await applyStorageGuardTables({ pool, sourceSchema: 'public' });
  const before = await describeSource(database);
  await migrate(contextOf(database));
  expect((await uninstall(contextOf(database))).kept).toEqual([]);
  expect(await describeSource(database)).toEqual(before);

  // As where a superuser has made the roles for it.
  const { pool: other } = await createForeign('made_roles');
  await migrate({ pool: other, sourceSchema: 'public', log: testLog() });
  await query(admin, 'alter role careful nocreaterole');
  await migrate(contextOf(database));
  await uninstall({ pool: other, sourceSchema: 'public', log: testLog() });
  const { kept } = await uninstall(contextOf(database));
  expect(kept).toHaveLength(6);
  expect(kept[0]).toMatch(/^role market_sync_admin.*: permission denied/);
  expect((await describeSource(database)).catalog).toEqual(before.catalog);
  await query(admin, kept.map((line) => `drop role ${/^role (\w+)/.exec(line)?.[1]}`).join(';'));
});
