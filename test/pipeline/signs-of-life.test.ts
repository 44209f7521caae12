import pg from 'pg';
import { describe, expect, test } from 'vitest';
import { parseLsn } from '../../src/lsn.ts';
import { insertBooking } from '../support/application.ts';
import { recordLog } from '../support/log-recorder.ts';
import { until } from '../support/pipeline.ts';
import { createDatabase } from '../support/postgres.ts';
import { createScene, type Scene } from '../support/scene.ts';

const SENDER_TIMEOUT_MS = 1_000;

/** A scene whose server closes a replication connection that is silent for a second. */
async function createImpatientScene(settings: NodeJS.ProcessEnv = {}): Promise<Scene> {
  const scene = await createScene({ settings });
  await scene.database.pool.query(
    `alter database ${scene.database.name} set wal_sender_timeout = '${SENDER_TIMEOUT_MS}ms'`,
  );
  return scene;
}

interface Sender {
  pid: number;
  ageMs: number;
  confirmedLsn: string;
}

async function findSender({ database, config }: Scene): Promise<Sender> {
  const { rows } = await database.pool.query<Sender>(
    `select active_pid as pid, confirmed_flush_lsn::text as "confirmedLsn",
       extract(epoch from clock_timestamp() - backend_start)::float8 * 1000 as "ageMs"
     from pg_replication_slots left join pg_stat_activity on pid = active_pid where slot_name = $1`,
    [config.slotName],
  );
  if (rows[0] === undefined) throw new Error('no slot');
  return rows[0];
}

describe.concurrent('a consumer with a short wal_sender_timeout', () => {
  test('row 14: the slot advances while another database is busy and this one idle, on one connection', async () => {
    const scene = await createImpatientScene();
    const elsewhere = await createDatabase({ template: 'empty' });
    try {
      const { log, count } = recordLog();
      await scene.start({ log });
      await insertBooking(scene.database.pool);
      await scene.settle();
      const before = await findSender(scene);
      await elsewhere.pool.query(
        `create table busy as select repeat('x', 100) as filling from generate_series(1, 10000)`,
      );
      const { rows } = await elsewhere.pool.query<{ lsn: string }>(
        'select pg_current_wal_lsn()::text as lsn',
      );
      const target = parseLsn(rows[0]?.lsn ?? '');
      await until(
        'the slot passes it',
        async () => parseLsn((await findSender(scene)).confirmedLsn) >= target,
      );
      const after = await findSender(scene);
      expect(after.pid).toBe(before.pid);
      expect(after.ageMs).toBeGreaterThan(3 * SENDER_TIMEOUT_MS);
      expect(count('consumer active')).toBe(1);
      // I2: what is confirmed is in the checkpoint.
      const checkpoint = await scene.database.pool.query<{ covered: boolean }>(
        'select commit_lsn >= $1::pg_lsn as covered from market_sync.checkpoint',
        [after.confirmedLsn],
      );
      expect(checkpoint.rows).toEqual([{ covered: true }]);
    } finally {
      await scene.stop();
      await elsewhere.drop();
    }
  });

  test('I9: signs of life go on while reading is paused and a slow batch is in work', async () => {
    const scene = await createImpatientScene({ PENDING_KEYS_MAX: '1000' });
    const blocker = new pg.Client({ connectionString: scene.database.url });
    await blocker.connect();
    try {
      const { log, count } = recordLog();
      await scene.start({ log });
      await insertBooking(scene.database.pool);
      await scene.settle();
      const before = await findSender(scene);
      // Whoever recomputes takes this lock first: the batch waits for it.
      await blocker.query('begin; select pg_advisory_xact_lock(5501, 1)');
      await insertBooking(scene.database.pool);
      await until('the batch waits', async () => {
        const waiting = await scene.database.pool.query(
          `select from pg_stat_activity where datname = current_database() and wait_event = 'advisory'`,
        );
        return waiting.rowCount === 1;
      });
      await scene.database.pool.query(
        `insert into storage_bookings (farmer_id, crop_type, quantity_kg)
         select gen_random_uuid(), 'Tomato', 1 from generate_series(1, 5000)`,
      );
      const pausedAt = (await findSender(scene)).ageMs;
      await until('three times the timeout has passed', async () => {
        const { pid, ageMs } = await findSender(scene);
        if (pid !== before.pid) throw new Error('the server has closed the connection');
        return ageMs > pausedAt + 3 * SENDER_TIMEOUT_MS;
      });
      await blocker.query('rollback');
      await scene.settle();
      expect((await findSender(scene)).pid).toBe(before.pid);
      expect(count('consumer active')).toBe(1);
      const { rows } = await scene.database.pool.query<{ count: number }>(
        'select count(*)::int as count from market_inventory_snapshots',
      );
      expect(rows).toEqual([{ count: 5_002 }]);
    } finally {
      await blocker.end();
      await scene.stop();
    }
  });
});
