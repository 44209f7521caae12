import { join } from 'node:path';
import { afterAll, afterEach, beforeAll, expect, test } from 'vitest';
import { readCheckpoint } from '../../src/store/checkpoint.ts';
import { processName } from '../../src/store/publish.ts';
import { insertBooking, setQuantity } from '../support/application.ts';
import { copyDirectory, copyRunning, putBack, writeOwned } from '../support/base-backup.ts';
import { startCluster, type TestCluster } from '../support/cluster.ts';
import { recordLog } from '../support/log-recorder.ts';
import { until } from '../support/pipeline.ts';
import { createScene, type Scene } from '../support/scene.ts';

// Row 13: a copy of the whole cluster is put back, slot, checkpoint and identity included. They agree with each other,
// and nothing in PostgreSQL shows that history was cut. MongoDB, which nobody put back, knows better.

let cluster: TestCluster;
let scene: Scene;

beforeAll(async () => {
  cluster = await startCluster({ fsync: false });
  scene = await createScene({ cluster });
});

afterAll(async () => {
  await scene?.stop();
  await cluster?.stop();
});

afterEach(() => scene.stopPipelines());

const copyOf = (dataDir: string): string => `${dataDir}-copy`;

/** A cold copy: PostgreSQL is shut down in order, copied, and started again. */
async function copyCluster(): Promise<void> {
  await cluster.kill('SIGINT');
  await copyDirectory(cluster.dataDir, copyOf(cluster.dataDir));
  await cluster.start();
}

async function putCopyBack(): Promise<void> {
  await cluster.kill('SIGINT');
  await putBack(copyOf(cluster.dataDir), cluster.dataDir);
  await cluster.start();
}

const untilHistoryChecked = (): Promise<void> =>
  until('history is checked under this postmaster', async () => {
    const { rows } = await scene.database.pool.query<{ checked: boolean }>(
      `select coalesce(history_checked_for = pg_postmaster_start_time(), false) as checked from market_sync.checkpoint`,
    );
    return rows[0]?.checked === true;
  });

const reasons = async (): Promise<string[]> => {
  const { rows } = await scene.database.pool.query<{ reason: string }>(
    'select reason from market_sync.resync order by id',
  );
  return rows.map(({ reason }) => reason);
};

const CUT = 'MongoDB has listings of another history: PostgreSQL was put back to an older state';
const LOUD = 'changes may have been lost, everything will be recomputed and published again';

test('row 13: an older copy of the whole cluster put back is noticed at once, and every listing says again what the copy says', async () => {
  const { pool } = scene.database;
  const before = await scene.start();
  const [changed, deleted, untouched] = [
    await insertBooking(pool, { quantityKg: 1 }),
    await insertBooking(pool, { quantityKg: 1 }),
    await insertBooking(pool, { quantityKg: 1 }),
  ];
  await scene.settle();
  await untilHistoryChecked();
  await before.stop();
  await copyCluster();

  const gone = await scene.start();
  await setQuantity(pool, changed, 2);
  await scene.settle();
  await setQuantity(pool, changed, 3);
  await pool.query('delete from storage_bookings where id = $1', [deleted]);
  const later = await insertBooking(pool);
  await scene.settle();
  expect(await scene.listing(changed)).toMatchObject({ quantity_kg: 3, revision: 3 });
  expect(await scene.listing(deleted)).toMatchObject({ status: 'withdrawn' });
  expect(await scene.listing(later)).toBeDefined();
  await gone.stop();
  await putCopyBack();

  const { log, count, last } = recordLog();
  await scene.start({ log });
  await until('a new epoch begins within 10 s', async () => (await readCheckpoint(pool)).epoch === 2, 10_000);
  await scene.settle();
  expect(count(LOUD)).toBe(1);
  expect(last(LOUD)).toMatchObject({ reason: CUT, epoch: 2 });
  expect(await reasons()).toEqual(['first start', CUT]);
  await scene.expectConverged();
  expect(await scene.listing(changed)).toMatchObject({ quantity_kg: 1, epoch: 2 });
  expect(await scene.listing(deleted)).toMatchObject({ status: 'published', epoch: 2 });
  expect(await scene.listing(untouched)).toMatchObject({ quantity_kg: 1, epoch: 2 });
  expect(await scene.listing(later)).toBeUndefined();

  // Writes are accepted again.
  await setQuantity(pool, changed, 4);
  await scene.settle();
  expect(await scene.listing(changed)).toMatchObject({ quantity_kg: 4, epoch: 2 });
});

/** Two bookings of a pipeline that lives on while `copy` is made, what follows is lost, and `putItBack` brings the copy back. */
async function liveThrough({
  copy,
  putItBack,
}: {
  copy: () => Promise<void>;
  putItBack: () => Promise<void>;
}): Promise<void> {
  const { pool } = scene.database;
  const pipeline = await scene.start();
  const [changed, deleted] = [
    await insertBooking(pool, { quantityKg: 1 }),
    await insertBooking(pool, { quantityKg: 1 }),
  ];
  await scene.settle();
  await untilHistoryChecked();
  const { epoch } = await readCheckpoint(pool);
  await copy();
  await setQuantity(pool, changed, 2);
  await pool.query('delete from storage_bookings where id = $1', [deleted]);
  const later = await insertBooking(pool);
  await scene.settle();
  expect(await scene.listing(later)).toMatchObject({ status: 'published' });

  await putItBack();
  await until('a new epoch begins', async () => (await readCheckpoint(pool)).epoch === epoch + 1);
  await scene.settle();
  await scene.expectConverged();
  expect(await scene.listing(changed)).toMatchObject({ quantity_kg: 1, epoch: epoch + 1 });
  expect(await scene.listing(deleted)).toMatchObject({ status: 'published', epoch: epoch + 1 });
  expect(await scene.listing(later)).toBeUndefined();
  // Writes are accepted again, by the process that lived through it.
  await setQuantity(pool, changed, 4);
  await scene.settle();
  expect(await scene.listing(changed)).toMatchObject({ quantity_kg: 4, epoch: epoch + 1 });
  expect(pipeline.consumer.state).toBe('active');
}

test('row 13: a base backup, which has no slots, put back under a pipeline that lives on', async () => {
  await liveThrough({
    copy: () => copyRunning(cluster, copyOf(cluster.dataDir)),
    putItBack: putCopyBack,
  });
  expect((await reasons()).at(-1)).toBe('the replication slot is gone');
});

test('row 13: a copy that was made of the running server, slots and all, put back under a pipeline that lives on', async () => {
  await liveThrough({
    copy: () => copyRunning(cluster, copyOf(cluster.dataDir), { slots: true }),
    putItBack: putCopyBack,
  });
  // Its slot may have been copied at a later position than its checkpoint.
  expect((await reasons()).at(-1)).toMatch(
    /^(MongoDB has listings of another history|the replication slot .* is ahead)/,
  );
});

test('row 13: a recovery to a point in time, on a new timeline with a slot of that name, under a pipeline that lives on', async () => {
  const archive = `${cluster.dataDir}-archive`;
  await liveThrough({
    copy: async () => {
      await copyRunning(cluster, copyOf(cluster.dataDir), { slots: true });
      await scene.database.pool.query(`select pg_create_restore_point('before'), pg_switch_wal()`);
    },
    putItBack: async () => {
      await cluster.kill('SIGINT');
      await copyDirectory(join(cluster.dataDir, 'pg_wal'), archive);
      const copy = copyOf(cluster.dataDir);
      await writeOwned(
        cluster,
        join(copy, 'postgresql.auto.conf'),
        `restore_command = 'cp "${archive}/%f" "%p"'\nrecovery_target_name = 'before'\nrecovery_target_action = 'promote'\n`,
      );
      await writeOwned(cluster, join(copy, 'recovery.signal'), '');
      await putBack(copy, cluster.dataDir);
      await cluster.start();
      await until('the recovery has ended', () =>
        scene.database.pool.query<{ ended: boolean }>('select not pg_is_in_recovery() as ended').then(
          ({ rows }) => rows[0]?.ended === true,
          () => false,
        ),
      );
    },
  });
  expect((await reasons()).at(-1)).toMatch(
    /^(the checkpoint belongs to timeline 1, the server is on 2|the replication slot is lost)/,
  );
});

test('row 4: PostgreSQL killed and back is not taken for an older copy', async () => {
  const { pool } = scene.database;
  const { epoch } = await readCheckpoint(pool);
  const before = await reasons();
  const { log, last } = recordLog();
  await scene.start({ log });
  const bookingId = await insertBooking(pool);
  await scene.settle();
  await cluster.kill('SIGKILL');
  await cluster.start();
  await setQuantity(pool, bookingId, 9);
  await scene.settle();
  await untilHistoryChecked();
  expect(last('history checked against mongodb')).toMatchObject({ cut: false });
  expect((await readCheckpoint(pool)).epoch).toBe(epoch);
  expect(await reasons()).toEqual(before);
  await scene.expectConverged();
});

test('row 4: what the crash of PostgreSQL brought back as claimed is published within 20 s, not when its lease runs out', async () => {
  const { pool } = scene.database;
  await scene.start();
  const bookingId = await insertBooking(pool, { quantityKg: 1 });
  await scene.settle();
  await untilHistoryChecked();
  // Marks do not wait for the disk. This is what a crash leaves that undoes the last one.
  await pool.query(
    `update market_sync.snapshot_state
     set published_revision = 0, claimed_by = $2, lease_until = now() + interval '60 seconds' where booking_id = $1`,
    [bookingId, `${processName()}:pipeline:1`],
  );
  await cluster.kill('SIGKILL');
  await cluster.start();
  await until(
    'it is published',
    async () => {
      const { rows } = await pool.query<{ done: boolean }>(
        'select published_revision = revision as done from market_sync.snapshot_state where booking_id = $1',
        [bookingId],
      );
      return rows[0]?.done === true;
    },
    20_000,
  );
});

/** What another history of this database has published of the booking, which this one does not know. */
async function publishInAnotherHistory(
  bookingId: string,
  version: { revision: number; quantityKg: number },
): Promise<void> {
  await untilHistoryChecked();
  await scene.market.market.listings.updateOne({ booking_id: bookingId }, {
    $set: {
      revision: version.revision,
      quantity_kg: version.quantityKg,
      'metadata.last_updated': '2026-01-01T00:00:00.000Z',
    },
  } as never);
}

test.for([
  ['a higher revision', 99],
  ['the same revision, made at another time', 2],
] as const)(
  'row 13: a publisher that finds %s than this history has made begins a new one',
  async ([, revision]) => {
    const { pool } = scene.database;
    const { log, count } = recordLog();
    await scene.start({ log });
    const [bookingId, other] = [await insertBooking(pool), await insertBooking(pool)];
    await scene.settle();
    const { epoch } = await readCheckpoint(pool);
    await publishInAnotherHistory(bookingId, { revision, quantityKg: 77 });
    await setQuantity(pool, bookingId, 5);
    await until('a new epoch begins', async () => (await readCheckpoint(pool)).epoch === epoch + 1);
    await scene.settle();
    expect(count(LOUD)).toBe(1);
    expect((await reasons()).at(-1)).toBe(CUT);
    await scene.expectConverged();
    expect(await scene.listing(bookingId)).toMatchObject({ quantity_kg: 5, epoch: epoch + 1 });
    expect(await scene.listing(other)).toMatchObject({ epoch: epoch + 1 });
  },
);

test('row 13: several publishers that find the same begin one new history', async () => {
  const { pool } = scene.database;
  await scene.start();
  await scene.start({ until: 'standby' });
  await scene.start({ until: 'standby' });
  const bookingIds: string[] = [];
  for (let index = 0; index < 30; index += 1) bookingIds.push(await insertBooking(pool));
  await scene.settle();
  const { epoch } = await readCheckpoint(pool);
  for (const bookingId of bookingIds)
    await publishInAnotherHistory(bookingId, { revision: 99, quantityKg: 77 });
  await pool.query('update storage_bookings set quantity_kg = 6 where id = any ($1)', [bookingIds]);
  await until('a new epoch begins', async () => (await readCheckpoint(pool)).epoch > epoch);
  await scene.settle();
  expect((await readCheckpoint(pool)).epoch).toBe(epoch + 1);
  await scene.expectConverged();
});
