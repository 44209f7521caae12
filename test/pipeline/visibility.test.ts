import pg from 'pg';
import { afterAll, afterEach, beforeAll, beforeEach, expect, test } from 'vitest';
import type { Pipeline } from '../../pipeline/pipeline.ts';
import { type Lsn, parseLsn } from '../../src/lsn.ts';
import { readCheckpoint } from '../../src/store/checkpoint.ts';
import {
  insertBooking,
  insertLocation,
  insertReading,
  insertSensor,
  setQuantity,
} from '../support/application.ts';
import { startCluster, type TestCluster } from '../support/cluster.ts';
import { until } from '../support/pipeline.ts';
import { createScene, type Scene } from '../support/scene.ts';

// The gap between a commit on the stream and the same commit in other sessions' snapshots (D3a), made wide: the commit
// waits for a synchronous standby that never comes, after its WAL was flushed and sent.

let cluster: TestCluster;
let scene: Scene;
let pipeline: Pipeline;
/** How often the consumer has asked the clock: once for every attempt to write a batch. */
let attempts = 0;
let [application, other]: pg.Client[] = [];

beforeAll(async () => {
  cluster = await startCluster({ fsync: false, parameters: { autovacuum: 'off' } });
  const clock = {
    now: () => {
      attempts += 1;
      return new Date();
    },
    advance: () => undefined,
  };
  scene = await createScene({ cluster, clock });
  // Everybody else's commits need no standby; the application's do.
  await scene.database.pool.query('alter database postgres set synchronous_commit = local');
  await scene.database.pool.query(
    'select pg_terminate_backend(pid) from pg_stat_activity where pid <> pg_backend_pid() and datname is not null',
  );
});

beforeEach(async () => {
  pipeline = await scene.start();
  [application, other] = await Promise.all([connectApplication(), connectApplication()]);
});

afterEach(async () => {
  await closeGap();
  await Promise.all([application?.end(), other?.end()]);
  await pipeline.stop();
});

afterAll(async () => {
  await scene?.stop();
  await cluster?.stop();
});

async function connectApplication(): Promise<pg.Client> {
  const client = new pg.Client({ connectionString: cluster.url() });
  await client.connect();
  await client.query('set synchronous_commit = on');
  return client;
}

const ask = async <Value>(text: string, values: unknown[] = []): Promise<Value> =>
  (await scene.database.pool.query<{ value: Value }>(text, values)).rows[0]?.value as Value;

async function configureStandbys(names: string): Promise<void> {
  await scene.database.pool.query(`alter system set synchronous_standby_names = '${names}'`);
  await scene.database.pool.query('select pg_reload_conf()');
}

const closeGap = (): Promise<void> => configureStandbys('');

const countWaiting = (): Promise<number> =>
  ask(`select count(*)::int as value from pg_stat_activity where wait_event = 'SyncRep'`);

/** From now on the application's commits wait, after they are sent. */
async function openGap(): Promise<void> {
  await configureStandbys('nobody');
  const probe = await connectApplication();
  let waited = false;
  // A commit before the server has taken notice returns at once; then another. One that waits is told to give up.
  while (!waited) {
    let returned = false;
    const commit = probe.query(`select pg_logical_emit_message(true, 'probe', '')`).then(() => {
      returned = true;
    });
    await until('a commit waits, or returns', async () => {
      waited ||= (await countWaiting()) > 0;
      return waited || returned;
    });
    await ask(
      `select count(pg_cancel_backend(pid)) as value from pg_stat_activity where wait_event = 'SyncRep'`,
    );
    await commit;
  }
  await probe.end();
}

const checkpointLsn = async (): Promise<Lsn> => (await readCheckpoint(scene.database.pool)).commitLsn ?? 0n;

const snapshot = (bookingId: string): Promise<Record<string, unknown>> =>
  ask('select to_jsonb(s) as value from market_inventory_snapshots s where booking_id = $1', [bookingId]);

test('D3a: waits for a commit that it has received and cannot see yet, and shows its content once it can', async () => {
  const locationId = await insertLocation(application as pg.Client);
  const sensorId = await insertSensor(application as pg.Client, locationId);
  const bookingId = await insertBooking(application as pg.Client, { locationId, quantityKg: 1 });
  await scene.settle();

  await openGap();
  const before = parseLsn(await ask('select pg_current_wal_insert_lsn() as value'));
  const commits = Promise.all([
    setQuantity(application as pg.Client, bookingId, 2),
    insertReading(other as pg.Client, sensorId, 4.5),
  ]);
  await until('both commits wait', async () => (await countWaiting()) === 2);
  const written: string = await ask('select pg_current_wal_flush_lsn() as value');
  await until('both are sent', () =>
    ask('select coalesce(bool_or(sent_lsn >= $1::pg_lsn), false) as value from pg_stat_replication', [
      written,
    ]),
  );
  const sent = attempts;
  await until('the consumer has tried again and again', () => attempts >= sent + 10);
  expect(await snapshot(bookingId)).toMatchObject({ quantity_kg: 1, sensors: {} });
  expect(await checkpointLsn()).toBeLessThanOrEqual(before);

  await closeGap();
  await commits;
  await scene.settle();
  expect(await snapshot(bookingId)).toMatchObject({
    quantity_kg: 2,
    sensors: { temperature: { value: 4.5 } },
  });
  await scene.expectConverged([bookingId]);
});

test('row 27: stops while it waits for a commit to become visible, and takes it up after the next start', async () => {
  const bookingId = await insertBooking(application as pg.Client, { quantityKg: 1 });
  await scene.settle();
  await openGap();
  const commit = setQuantity(application as pg.Client, bookingId, 2);
  await until('the commit waits', async () => (await countWaiting()) === 1);
  const waiting = attempts;
  await until('the consumer tries', () => attempts >= waiting + 5);

  const startedAt = performance.now();
  await pipeline.stop();
  expect(performance.now() - startedAt).toBeLessThan(5_000);
  expect(await snapshot(bookingId)).toMatchObject({ quantity_kg: 1 });

  await closeGap();
  await commit;
  pipeline = await scene.start();
  await scene.settle();
  await scene.expectConverged([bookingId]);
});

test('row 27: stops while PostgreSQL waits for an open transaction before it makes the slot', async () => {
  const { pool } = scene.database;
  const { slotName } = scene.config;
  await pipeline.stop();
  await pool.query('select pg_drop_replication_slot($1)', [slotName]);
  await application?.query('begin');
  const bookingId = await insertBooking(application as pg.Client);
  pipeline = await scene.start({ until: 'starting' });
  await until('the slot waits for the transaction', async () => {
    const { rowCount } = await pool.query(
      'select from pg_replication_slots where slot_name = $1 and confirmed_flush_lsn is null',
      [slotName],
    );
    return rowCount === 1;
  });
  const startedAt = performance.now();
  await pipeline.stop();
  expect(performance.now() - startedAt).toBeLessThan(5_000);

  await application?.query('commit');
  pipeline = await scene.start();
  await scene.settle();
  await scene.expectConverged([bookingId]);
});
