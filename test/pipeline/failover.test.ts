import { afterAll, afterEach, beforeAll, expect, test, vi } from 'vitest';
import type { Pipeline } from '../../pipeline/pipeline.ts';
import { readCheckpoint } from '../../src/store/checkpoint.ts';
import { insertBooking, setQuantity } from '../support/application.ts';
import { startCluster, type TestCluster } from '../support/cluster.ts';
import { recordLog } from '../support/log-recorder.ts';
import { until } from '../support/pipeline.ts';
import { type FaultProxy, startProxy } from '../support/proxy.ts';
import { createScene, type Scene } from '../support/scene.ts';
import { ask, type Standby, startStandby } from '../support/standby.ts';

// Row 13: a second PostgreSQL, which follows the first by streaming replication, takes its place under a running pipeline.
// The proxy stands for the address that moves. Each test ends with its standby as the primary of the next.

// On a slow machine a standby takes its time to start, and PostgreSQL to give it the slot.
vi.setConfig({ testTimeout: 150_000 });
const SYNCHRONISED_WITHIN_MS = 90_000;

let primary: TestCluster;
let proxy: FaultProxy;
let scene: Scene;
let standby: Standby | undefined;

beforeAll(async () => {
  primary = await startCluster({ fsync: false });
  proxy = await startProxy(primary.url());
  const url = (database = 'postgres'): string => {
    const address = new URL(proxy.url);
    address.pathname = database;
    return address.href;
  };
  scene = await createScene({ cluster: { ...primary, url } });
});

afterAll(async () => {
  await scene?.stop();
  await proxy?.stop();
  await primary?.stop();
});

afterEach(async () => {
  await scene.stopPipelines();
  if (standby !== undefined && standby !== primary) await standby.stop();
  standby = undefined;
});

const SYNCHRONISED = { sync_replication_slots: 'on' };

async function follow(name: string, parameters = {}): Promise<Standby> {
  standby = await startStandby(primary, { name, parameters });
  return standby;
}

/** What PostgreSQL does by itself within a minute while bookings change: the slot moves, and the standby takes it over. */
async function untilSlotSynchronised(on: Standby): Promise<void> {
  await until(
    'the slot is on the standby, to stay',
    async () => {
      await scene.database.pool.query('select pg_log_standby_snapshot()');
      await scene.database.pool.query(
        `select pg_logical_emit_message(true, 'market_sync', '{"v":1,"booking":["00000000-0000-0000-0000-000000000000"]}')`,
      );
      const slots = await ask<{ usable: boolean }>(
        on.url(),
        `select synced and not temporary and invalidation_reason is null as usable from pg_replication_slots
       where slot_name = '${scene.config.slotName}'`,
      );
      return slots[0]?.usable === true;
    },
    SYNCHRONISED_WITHIN_MS,
  );
}

async function untilReplayed(on: Standby): Promise<void> {
  const [now] = await ask<{ lsn: string }>(primary.url(), 'select pg_current_wal_flush_lsn()::text as lsn');
  await until('the standby has everything', async () => {
    const [row] = await ask<{ there: boolean }>(
      on.url(),
      `select pg_last_wal_replay_lsn() >= '${now?.lsn}' as there`,
    );
    return row?.there === true;
  });
}

async function configure(server: TestCluster, settings: Readonly<Record<string, string>>): Promise<void> {
  for (const [name, value] of Object.entries(settings)) {
    await ask(server.url(), `alter system set ${name} = '${value}'`);
  }
  await ask(server.url(), 'select pg_reload_conf()');
}

/** The primary's machine is gone from one moment to the next, and the address moves to the standby. */
async function failOver(to: Standby): Promise<void> {
  proxy.hang();
  await primary.kill('SIGKILL');
  await to.promote();
  proxy.retarget(to.url());
  await proxy.heal();
  const gone = primary;
  primary = to;
  await gone.stop();
  await until('PostgreSQL answers again', () =>
    scene.database.pool.query('select').then(
      () => true,
      () => false,
    ),
  );
}

const reasons = async (): Promise<string[]> => {
  const { rows } = await scene.database.pool.query<{ reason: string }>(
    'select reason from market_sync.resync order by id',
  );
  return rows.map(({ reason }) => reason);
};

const untilHistoryChecked = (): Promise<void> =>
  until('history is checked under this postmaster', async () => {
    const { rows } = await scene.database.pool.query<{ checked: boolean }>(
      `select coalesce(history_checked_for = pg_postmaster_start_time(), false) as checked from market_sync.checkpoint`,
    );
    return rows[0]?.checked === true;
  });

const FOLLOWED = 'a standby has taken over with the replication slot: going on where the checkpoint is';
const CUT = 'MongoDB has listings of another history: PostgreSQL was put back to an older state';

/** As an application does that tries again until it is answered. */
function startWriting(bookingIds: readonly string[]): { writes: () => number; stop(): Promise<void> } {
  let [writing, writes] = [true, 0];
  const run = async (): Promise<void> => {
    for (let quantityKg = 1; writing; quantityKg += 1) {
      const bookingId = bookingIds[quantityKg % bookingIds.length] as string;
      const written = await setQuantity(scene.database.pool, bookingId, quantityKg).then(
        () => true,
        () => false,
      );
      if (written) writes += 1;
    }
  };
  const ended = run();
  return {
    writes: () => writes,
    stop: async () => {
      writing = false;
      await ended;
    },
  };
}

async function expectSameHistory(before: { epoch: number; reasons: string[] }): Promise<void> {
  await scene.settle();
  await untilHistoryChecked();
  await scene.settle();
  expect((await readCheckpoint(scene.database.pool)).epoch).toBe(before.epoch);
  expect(await reasons()).toEqual(before.reasons);
  await scene.expectConverged();
}

test('row 13: a failover in the middle of writes, where the slot was synchronised and nothing is lost, goes on in the same epoch', async () => {
  const { pool } = scene.database;
  const { log, last, count } = recordLog();
  await scene.start({ log });
  const bookingIds = [await insertBooking(pool), await insertBooking(pool), await insertBooking(pool)];
  const next = await follow('standby_1', SYNCHRONISED);
  // The primary waits with every commit, and with every change it streams, until this standby has it.
  await configure(primary, {
    synchronous_standby_names: 'standby_1',
    synchronized_standby_slots: 'standby_1',
  });
  await untilSlotSynchronised(next);
  const before = { epoch: (await readCheckpoint(pool)).epoch, reasons: await reasons() };

  const application = startWriting(bookingIds);
  await until('bookings change', () => application.writes() > 30);
  await failOver(next);
  const written = application.writes();
  await until('bookings change again', () => application.writes() > written + 30);
  await application.stop();

  await expectSameHistory(before);
  expect(count(FOLLOWED)).toBe(1);
  expect(last(FOLLOWED)).toMatchObject({ timeline: 2, left_timeline: 1, epoch: before.epoch });
  expect((await readCheckpoint(pool)).timeline).toBe(2);
});

test('row 13: a standby whose slot lags behind the checkpoint goes on from the checkpoint, in the same epoch', async () => {
  const { pool } = scene.database;
  await scene.start();
  const bookingId = await insertBooking(pool);
  const next = await follow('standby_2', SYNCHRONISED);
  await untilSlotSynchronised(next);
  await configure(next, { sync_replication_slots: 'off' });
  await until('the standby does not synchronise any more', async () => {
    const workers = await ask(
      next.url(),
      `select from pg_stat_activity where backend_type = 'slotsync worker'`,
    );
    return workers.length === 0;
  });
  for (let quantityKg = 2; quantityKg < 20; quantityKg += 1) await setQuantity(pool, bookingId, quantityKg);
  await scene.settle();
  await untilReplayed(next);
  const { epoch, commitLsn = 0n } = await readCheckpoint(pool);
  const [slot] = await ask<{ behind: boolean }>(
    next.url(),
    `select confirmed_flush_lsn < '0/0'::pg_lsn + ${commitLsn} as behind from pg_replication_slots`,
  );
  expect(slot?.behind).toBe(true);
  const before = { epoch, reasons: await reasons() };

  await failOver(next);
  await setQuantity(pool, bookingId, 20);
  await expectSameHistory(before);
  expect(await scene.listing(bookingId)).toMatchObject({ quantity_kg: 20 });
});

/** Two bookings and a pipeline that follows them, before anything is lost. */
async function startBookings(): Promise<{
  changed: string;
  deleted: string;
  pipeline: Pipeline;
  epoch: number;
}> {
  const { pool } = scene.database;
  const pipeline = await scene.start();
  const [changed, deleted] = [
    await insertBooking(pool, { quantityKg: 1 }),
    await insertBooking(pool, { quantityKg: 1 }),
  ];
  await scene.settle();
  return { changed, deleted, pipeline, epoch: (await readCheckpoint(pool)).epoch };
}

test('row 13: a failover that loses what was published already begins a new epoch, and every listing says again what the standby says', async () => {
  const { pool } = scene.database;
  const { changed, deleted, pipeline, epoch } = await startBookings();
  const next = await follow('standby_3', SYNCHRONISED);
  await untilSlotSynchronised(next);
  await untilReplayed(next);
  // The standby is cut off, and the primary goes on alone.
  await configure(next, { primary_conninfo: '' });
  await until('the standby hears nothing', async () => {
    const rows = await ask(
      primary.url(),
      `select from pg_stat_replication where application_name = 'standby_3'`,
    );
    return rows.length === 0;
  });
  await setQuantity(pool, changed, 2);
  await pool.query('delete from storage_bookings where id = $1', [deleted]);
  const later = await insertBooking(pool);
  await scene.settle();
  expect(await scene.listing(changed)).toMatchObject({ quantity_kg: 2 });
  expect(await scene.listing(deleted)).toMatchObject({ status: 'withdrawn' });
  expect(await scene.listing(later)).toMatchObject({ status: 'published' });

  await failOver(next);
  await until('a new epoch begins', async () => (await readCheckpoint(pool)).epoch === epoch + 1);
  await scene.settle();
  expect((await reasons()).at(-1)).toBe(CUT);
  await scene.expectConverged();
  expect(await scene.listing(changed)).toMatchObject({ quantity_kg: 1, epoch: epoch + 1 });
  expect(await scene.listing(deleted)).toMatchObject({ status: 'published', epoch: epoch + 1 });
  expect(await scene.listing(later)).toBeUndefined();

  // Writes are accepted again, by the process that lived through it.
  await setQuantity(pool, changed, 3);
  await scene.settle();
  expect(await scene.listing(changed)).toMatchObject({ quantity_kg: 3, epoch: epoch + 1 });
  expect(pipeline.consumer.state).toBe('active');
});

test('row 13: a failover to a standby without the slot begins a new epoch, though no transaction is lost', async () => {
  const { pool } = scene.database;
  const { changed, deleted, epoch } = await startBookings();
  const next = await follow('standby_4');
  await setQuantity(pool, changed, 2);
  await untilReplayed(next);

  await failOver(next);
  await pool.query('delete from storage_bookings where id = $1', [deleted]);
  await until('a new epoch begins', async () => (await readCheckpoint(pool)).epoch === epoch + 1);
  await scene.settle();
  expect((await reasons()).at(-1)).toBe('the replication slot is gone');
  await scene.expectConverged();
  expect(await scene.listing(changed)).toMatchObject({ quantity_kg: 2, epoch: epoch + 1 });
  expect(await scene.listing(deleted)).toMatchObject({ status: 'withdrawn', epoch: epoch + 1 });
});
