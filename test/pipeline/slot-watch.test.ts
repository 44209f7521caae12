import { afterAll, afterEach, beforeAll, expect, test } from 'vitest';
import { startSlotWatch } from '../../pipeline/slot-watch.ts';
import { createApi } from '../../src/api/app.ts';
import { readCheckpoint } from '../../src/store/checkpoint.ts';
import { readSlotHealth } from '../../src/store/slot-health.ts';
import { apiContext } from '../api/setup.ts';
import { insertBooking, setQuantity } from '../support/application.ts';
import { startCluster, type TestCluster } from '../support/cluster.ts';
import { type LogRecorder, recordLog } from '../support/log-recorder.ts';
import { testLog, until } from '../support/pipeline.ts';
import { createScene, type Scene } from '../support/scene.ts';

// Row 15: a consumer that is stalled keeps WAL back, and before PostgreSQL gives the slot up people must know.

const KEEP_MB = 128;

let cluster: TestCluster;
let scene: Scene;
let app: ReturnType<typeof createApi>;

beforeAll(async () => {
  cluster = await startCluster({
    fsync: false,
    parameters: {
      max_slot_wal_keep_size: `${KEEP_MB}MB`,
      min_wal_size: '32MB',
      max_wal_size: '32MB',
      autovacuum: 'off',
    },
  });
  scene = await createScene({ cluster });
  app = createApi(apiContext({ pool: scene.database.pool, market: scene.market.market }));
});

afterEach(() => scene.stopPipelines());

afterAll(async () => {
  await scene?.stop();
  await cluster?.stop();
});

interface Check {
  ok: boolean;
  detail: string;
}
async function readyz(): Promise<{ status: number; checks: Record<'slot' | 'resync' | 'consumer', Check> }> {
  const response = await app.request('/readyz');
  const { checks } = (await response.json()) as { checks: Record<'slot' | 'resync' | 'consumer', Check> };
  return { status: response.status, checks };
}
const untilReady = (): Promise<void> => until('readyz is 200', async () => (await readyz()).status === 200);

/** Writes 16 MB of WAL, which is nobody's change. */
async function writeWal(): Promise<void> {
  await scene.database.pool.query(`select pg_logical_emit_message(true, 'filling', 'x'), pg_switch_wal()`);
  await scene.database.pool.query('checkpoint');
}

const walStatus = async (): Promise<string | undefined> =>
  (await readSlotHealth(scene.database.pool)).walStatus;

/** A stall as an application makes it: a session that holds the lock of all recomputes, and does nothing. */
async function stallConsumer(): Promise<() => Promise<void>> {
  const client = await scene.database.pool.connect();
  await client.query('begin');
  await client.query('select market_sync.lock_reconcile()');
  return async () => {
    await client.query('rollback');
    client.release();
  };
}

const FILLING = 'the replication slot keeps too much wal back';

test('row 15: while the consumer is stalled the log warns and readyz is red before the slot is lost, and both are well again once it goes on', async () => {
  const { pool } = scene.database;
  const recorder: LogRecorder = recordLog();
  await scene.start({ log: recorder.log });
  const bookingId = await insertBooking(pool, { quantityKg: 1 });
  await scene.settle();
  await untilReady();
  expect(recorder.count(FILLING)).toBe(0);

  const goOn = await stallConsumer();
  try {
    await setQuantity(pool, bookingId, 2);
    await until('readyz says that the slot fills', async () => {
      await writeWal();
      return !(await readyz()).checks.slot.ok;
    });
    expect(await readyz()).toMatchObject({
      status: 503,
      checks: { consumer: { ok: true }, slot: { detail: expect.stringMatching(/^keeps too much WAL back/) } },
    });
    await until('the log warns', () => recorder.count(FILLING) > 0);
    expect(recorder.last(FILLING)).toMatchObject({
      wal_status: 'extended',
      safe_wal_bytes: expect.any(Number),
      retained_wal_bytes: expect.any(Number),
      remedy: expect.stringContaining('does not confirm'),
    });
    // In time: what the slot needs is still there.
    expect(await walStatus()).toBe('extended');
  } finally {
    await goOn();
  }
  await until('readyz is 200 again', async () => {
    await pool.query('checkpoint');
    return (await readyz()).status === 200;
  });
  await until('the log says so', () => recorder.count('the replication slot is well again') > 0);
  await scene.settle();
  await scene.expectConverged([bookingId]);
  // The same slot went on: no new history.
  expect((await readCheckpoint(pool)).epoch).toBe(1);
});

test('row 15: a slot that is followed keeps little WAL, also between two of PostgreSQL’s own records of running transactions', async () => {
  const { pool } = scene.database;
  await scene.start();
  await scene.settle();
  // Just made by PostgreSQL itself: the next comes in 15 s.
  await pool.query('checkpoint');
  for (let count = 0; count < 3; count += 1) await writeWal();
  const writtenAt = performance.now();
  const retained = async () => (await readSlotHealth(pool)).retainedWalBytes ?? Number.POSITIVE_INFINITY;
  const watch = startSlotWatch({ pool, log: testLog() }, { lookMs: 100 });
  await until('little is kept', async () => {
    // So that the consumer has something to confirm.
    await setQuantity(pool, await insertBooking(pool), 2);
    return (await retained()) < 33_554_432;
  });
  await watch.stop();
  expect(performance.now() - writtenAt).toBeLessThan(5_000);
  await scene.settle();
});

test('row 12: a slot that is lost while the consumer is stalled is replaced without a person, and readyz is red until everything is equal again', async () => {
  const { pool } = scene.database;
  const recorder = recordLog();
  await scene.start({ log: recorder.log });
  const bookingId = await insertBooking(pool, { quantityKg: 1 });
  await scene.settle();
  await untilReady();
  const { epoch } = await readCheckpoint(pool);
  const goOn = await stallConsumer();
  try {
    await setQuantity(pool, bookingId, 2);
    await until('the slot is lost', async () => {
      await writeWal();
      return (await walStatus()) === 'lost';
    });
    expect((await readyz()).status).toBe(503);
  } finally {
    await goOn();
  }
  await until('a new epoch begins', async () => (await readCheckpoint(pool)).epoch > epoch);
  await untilReady();
  await scene.settle();
  await scene.expectConverged([bookingId]);
  expect(
    recorder.last('changes may have been lost, everything will be recomputed and published again'),
  ).toMatchObject({ reason: 'the replication slot is lost: WAL it needed was removed' });
});

test('row 12: readyz is red within 10 s of a slot that is dropped while streaming, names it while it is missing, and is green once everything is equal', async () => {
  const { pool } = scene.database;
  await scene.start();
  const bookingId = await insertBooking(pool);
  await scene.settle();
  await untilReady();
  const { epoch } = await readCheckpoint(pool);
  // PostgreSQL makes no new slot before every open transaction has ended.
  const open = await pool.connect();
  try {
    await open.query('begin');
    await open.query('select pg_current_xact_id()');
    await until('the slot is dropped', async () => {
      await pool
        .query(
          `select pg_terminate_backend(active_pid, 5000) from pg_replication_slots where slot_name = '${scene.config.slotName}' and active;
         select pg_drop_replication_slot('${scene.config.slotName}')`,
        )
        .catch(() => undefined);
      const { rowCount } = await pool.query(
        'select from pg_replication_slots where slot_name = $1 and confirmed_flush_lsn is not null',
        [scene.config.slotName],
      );
      return rowCount === 0;
    });
    await until('readyz is red for the slot', async () => !(await readyz()).checks.slot.ok, 10_000);
    expect((await readyz()).status).toBe(503);
    await setQuantity(pool, bookingId, 2);
  } finally {
    await open.query('rollback');
    open.release();
  }
  await until('a new epoch begins', async () => (await readCheckpoint(pool)).epoch > epoch);
  await untilReady();
  await scene.settle();
  await scene.expectConverged([bookingId]);
});

test.each([
  ['no consumer has begun', { begun: false, present: false }, 'none'],
  ['it was dropped', { present: false }, 'missing'],
  ['nothing limits what is kept', { safeWalBytes: undefined, keptWalBytes: -1 }, 'ok'],
  [
    'nothing limits what is kept, and it is very much',
    { safeWalBytes: undefined, keptWalBytes: -1, retainedWalBytes: 17 * 1024 ** 3 },
    'filling',
  ],
  ['a quarter of what is kept is left', { safeWalBytes: 25 }, 'ok'],
  ['less than a quarter is left', { safeWalBytes: 24 }, 'filling'],
  ['the next checkpoint may remove it', { walStatus: 'unreserved', safeWalBytes: -3 }, 'filling'],
  ['WAL was removed', { walStatus: 'lost', safeWalBytes: undefined }, 'lost'],
] as const)('row 15: the slot is judged when %s', async (_, facts, state) => {
  const healthy = {
    begun: true,
    present: true,
    walStatus: 'extended',
    retainedWalBytes: 1_000_000,
    safeWalBytes: 100,
    keptWalBytes: 100,
  };
  const { begun, present, walStatus, retainedWalBytes, safeWalBytes, keptWalBytes } = {
    ...healthy,
    ...facts,
  };
  const { rows } = await scene.database.pool.query(
    'select market_sync.judge_slot($1, $2, $3, $4, $5, $6) as state',
    [begun, present, walStatus, retainedWalBytes, safeWalBytes, keptWalBytes],
  );
  expect(rows).toEqual([{ state }]);
});
