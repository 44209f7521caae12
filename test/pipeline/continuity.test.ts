import { ObjectId } from 'mongodb';
import { test as base, describe, expect } from 'vitest';
import { alterSlotFailover } from '../../pipeline/replication-server.ts';
import { findSlot } from '../../pipeline/slot.ts';
import { readCheckpoint } from '../../src/store/checkpoint.ts';
import { insertBooking, setQuantity } from '../support/application.ts';
import { startCluster } from '../support/cluster.ts';
import { until } from '../support/pipeline.ts';
import { startProxy } from '../support/proxy.ts';
import { createScene, type Scene } from '../support/scene.ts';

// History was cut: changes may have been lost or undone, and nothing on the stream says so (D6, rows 12 and 13).

const test = base.extend<{ scene: Scene }>({
  // biome-ignore lint/correctness/noEmptyPattern: vitest reads what a fixture needs from its parameter
  scene: async ({}, use) => {
    const scene = await createScene();
    await use(scene);
    await scene.stop();
  },
});

const dropSlot = async ({ database, config }: Scene): Promise<void> => {
  await until('the slot is dropped', async () => {
    const { rows } = await database.pool.query<{ dropped: boolean }>(
      'select true as dropped from pg_replication_slots where slot_name = $1',
      [config.slotName],
    );
    if (rows.length === 0) return true;
    // In one statement, before its consumer comes back.
    await database.pool
      .query(
        `select pg_terminate_backend(active_pid, 5000) from pg_replication_slots where slot_name = $1 and active;
         select pg_drop_replication_slot($1)`.replaceAll('$1', `'${config.slotName}'`),
      )
      .catch(() => undefined);
    return false;
  });
};

/** From then on MongoDB's versions are compared only where they are written: what this test does to them stays. */
const untilHistoryChecked = ({ database }: Scene): Promise<void> =>
  until('history is checked', async () => {
    const { rows } = await database.pool.query<{ checked: boolean }>(
      'select history_checked_for is not null as checked from market_sync.checkpoint',
    );
    return rows[0]?.checked === true;
  });

/** Two bookings that are published; what happens to them while nobody watches; a listing of nobody's. */
async function lose(
  world: Scene,
  cut: () => Promise<void>,
): Promise<{ kept: string; gone: string; ghost: string }> {
  const { pool } = world.database;
  const [kept, gone] = [await insertBooking(pool, { quantityKg: 1 }), await insertBooking(pool)];
  await world.settle();
  await untilHistoryChecked(world);
  const before = await world.listing(kept);
  // Restored away: MongoDB has a listing that this database never knew.
  const ghost = '00000000-0000-4000-8000-000000000001';
  await world.market.market.listings.insertOne({
    ...before,
    _id: new ObjectId(),
    booking_id: ghost,
  } as never);
  // And one that is ahead of what the database says of it.
  await world.market.market.listings.updateOne(
    { booking_id: kept },
    { $set: { revision: 1_000, quantity_kg: 99 } },
  );
  await cut();
  return { kept, gone, ghost };
}

async function expectNewHistory(
  world: Scene,
  lost: Awaited<ReturnType<typeof lose>>,
  reason: RegExp,
): Promise<void> {
  const { pool } = world.database;
  await until('a new epoch begins', async () => (await readCheckpoint(pool)).epoch === 2, 10_000);
  await world.settle();
  const { rows } = await pool.query<{ reason: string; phase: string }>(
    'select reason, phase from market_sync.resync order by id desc limit 1',
  );
  expect(rows).toEqual([{ reason: expect.stringMatching(reason), phase: 'done' }]);
  await world.expectConverged();
  expect(await world.listing(lost.kept)).toMatchObject({ quantity_kg: 2, epoch: 2 });
  expect(await world.listing(lost.gone)).toMatchObject({ status: 'withdrawn', epoch: 2 });
  expect(await world.listing(lost.ghost)).toBeUndefined();
}

/** What nobody will ever see on the stream. */
async function changeUnseen(world: Scene, lost: { kept: string; gone: string }): Promise<void> {
  await setQuantity(world.database.pool, lost.kept, 2);
  await world.database.pool.query('delete from storage_bookings where id = $1', [lost.gone]);
}

describe.concurrent('row 12', () => {
  test('a slot that was dropped while the pipeline was stopped: new epoch, everything published again, ghosts removed', async ({
    scene,
  }) => {
    const pipeline = await scene.start();
    const lost = await lose(scene, () => pipeline.stop());
    await dropSlot(scene);
    await changeUnseen(scene, lost);
    await scene.start();
    await expectNewHistory(scene, lost, /^the replication slot is gone$/);
  });

  test('a slot that is dropped while streaming is noticed within 10 s', async ({ scene }) => {
    const pipeline = await scene.start();
    const lost = await lose(scene, () => dropSlot(scene));
    await changeUnseen(scene, lost);
    await expectNewHistory(scene, lost, /^the replication slot is gone$/);
    expect(pipeline.consumer.state).toBe('active');
  });

  test('a slot that is dropped and made again at once while streaming is not taken for the one that was', async ({
    scene,
  }) => {
    const pipeline = await scene.start();
    const { slotName } = scene.config;
    const lost = await lose(scene, async () => {
      // In one statement, before its consumer comes back; again, should that have been quicker.
      await until('the slot is another one', () =>
        scene.database.pool
          .query(
            `select pg_terminate_backend(active_pid, 5000) from pg_replication_slots where slot_name = '${slotName}' and active;
             select pg_drop_replication_slot('${slotName}');`,
          )
          .then(() =>
            scene.database.pool.query(`select pg_create_logical_replication_slot('${slotName}', 'pgoutput')`),
          )
          .then(
            () => true,
            () => false,
          ),
      );
    });
    await changeUnseen(scene, lost);
    await expectNewHistory(scene, lost, /^the replication slot (is gone|\(.*\) is ahead of the checkpoint)/);
    expect(pipeline.consumer.state).toBe('active');
  });

  test('a slot that is dropped between being judged and streaming ends no process: it is judged anew', async ({
    scene,
    onTestFinished,
  }) => {
    const pipeline = await scene.start();
    const lost = await lose(scene, () => pipeline.stop());
    await changeUnseen(scene, lost);
    const proxy = await startProxy(scene.database.url);
    onTestFinished(() => proxy.stop());
    const aboutToStream = Promise.withResolvers<void>();
    proxy.onRequest = (chunk) => {
      if (!chunk.includes('START_REPLICATION')) return;
      proxy.onRequest = () => undefined;
      proxy.hold();
      aboutToStream.resolve();
    };
    // Not waited for: its queue may be held as well.
    const starting = scene.start({ databaseUrl: proxy.url });
    await aboutToStream.promise;
    await dropSlot(scene);
    await proxy.release();
    const again = await starting;
    await expectNewHistory(scene, lost, /^the replication slot is gone$/);
    expect(again.consumer.state).toBe('active');
    await again.stop();
  });

  base('a slot whose WAL was removed', async () => {
    const cluster = await startCluster({
      fsync: false,
      parameters: {
        max_slot_wal_keep_size: '1MB',
        min_wal_size: '32MB',
        max_wal_size: '32MB',
        autovacuum: 'off',
      },
    });
    const lossy = await createScene({ cluster });
    try {
      const pipeline = await lossy.start();
      const lost = await lose(lossy, () => pipeline.stop());
      await changeUnseen(lossy, lost);
      await until('the slot is lost', async () => {
        await lossy.database.pool.query(
          `select pg_logical_emit_message(true, 'filling', repeat('x', 10000)), pg_switch_wal()`,
        );
        await lossy.database.pool.query('checkpoint');
        const { rows } = await lossy.database.pool.query<{ wal_status: string }>(
          'select wal_status from pg_replication_slots where slot_name = $1',
          [lossy.config.slotName],
        );
        return rows[0]?.wal_status === 'lost';
      });
      await lossy.start();
      await expectNewHistory(lossy, lost, /^the replication slot is lost/);
    } finally {
      await lossy.stop();
      await cluster.stop();
    }
  });
});

describe.concurrent('row 13', () => {
  test('a slot that is ahead of the checkpoint', async ({ scene }) => {
    const pipeline = await scene.start();
    const lost = await lose(scene, () => pipeline.stop());
    await changeUnseen(scene, lost);
    await scene.database.pool.query('select pg_replication_slot_advance($1, pg_current_wal_lsn())', [
      scene.config.slotName,
    ]);
    await scene.start();
    await expectNewHistory(scene, lost, /^the replication slot \(.*\) is ahead of the checkpoint \(.*\)$/);
  });

  test.for([
    ['another cluster', `system_identifier = '1'`, /^the checkpoint belongs to another PostgreSQL cluster$/],
    [
      'another timeline',
      'timeline = 99',
      /^the checkpoint belongs to timeline 99, the server is on 1, which does not come right from there$/,
    ],
  ] as const)('a checkpoint of %s', async ([, change, reason], { scene }) => {
    const pipeline = await scene.start();
    const lost = await lose(scene, () => pipeline.stop());
    await changeUnseen(scene, lost);
    await scene.database.pool.query(`update market_sync.checkpoint set ${change}`);
    // The slot of that other cluster knew nothing of these changes.
    await scene.database.pool.query('select pg_replication_slot_advance($1, pg_current_wal_lsn())', [
      scene.config.slotName,
    ]);
    await scene.start();
    await expectNewHistory(scene, lost, reason);
  });

  test('a slot behind the checkpoint is normal: the same epoch goes on, and nothing is computed anew', async ({
    scene,
  }) => {
    const { pool } = scene.database;
    const pipeline = await scene.start();
    const bookingId = await insertBooking(pool, { quantityKg: 1 });
    await scene.settle();
    await pipeline.stop();
    const { rows } = await pool.query<{ lsn: string }>('select pg_current_wal_lsn()::text as lsn');
    await pool.query('update market_sync.checkpoint set commit_lsn = $1', [rows[0]?.lsn]);
    await setQuantity(pool, bookingId, 2);
    const batches: number[] = [];
    await scene.start({ onBatch: (batch) => batches.push(batch.bookings) });
    await scene.settle();
    await scene.expectConverged([bookingId]);
    expect((await readCheckpoint(pool)).epoch).toBe(1);
    expect(batches.every((bookings) => bookings <= 2)).toBe(true);
  });
});

test.concurrent('row 13: a slot that standbys do not carry over becomes one that they do, in the same epoch', async ({
  scene,
}) => {
  const { slotName } = scene.config;
  const failover = async (): Promise<boolean | undefined> =>
    (await findSlot(scene.database.pool, slotName))?.failover;
  const pipeline = await scene.start();
  if ((await failover()) === undefined) return; // Before PostgreSQL 17 there is no such thing.
  expect(await failover()).toBe(true);
  await pipeline.stop();
  // As one that was made before PostgreSQL 17.
  await alterSlotFailover(scene.database.url, { slotName, failover: false });
  expect(await failover()).toBe(false);
  await scene.start();
  expect(await failover()).toBe(true);
  expect((await readCheckpoint(scene.database.pool)).epoch).toBe(1);
});

test.concurrent('SLOT_FAILOVER=off: the slot stays on its server', async ({ onTestFinished }) => {
  const scene = await createScene({ settings: { SLOT_FAILOVER: 'off' } });
  onTestFinished(() => scene.stop());
  await scene.start();
  expect((await findSlot(scene.database.pool, scene.config.slotName))?.failover ?? false).toBe(false);
});

test.concurrent("a slot of that name that is somebody else's is left alone, and said so", async ({
  scene,
}) => {
  const { pool } = scene.database;
  await pool.query(`select pg_create_logical_replication_slot($1, 'test_decoding')`, [scene.config.slotName]);
  const pipeline = await scene.start({ until: 'starting' });
  await expect(pipeline.failed).rejects.toThrow(/SLOT_NAME=.*test_decoding/);
  const { rows } = await pool.query('select plugin from pg_replication_slots where slot_name = $1', [
    scene.config.slotName,
  ]);
  expect(rows).toEqual([{ plugin: 'test_decoding' }]);
});
