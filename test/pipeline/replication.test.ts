import pg from 'pg';
import { afterAll, beforeAll, beforeEach, expect, test, vi } from 'vitest';
import type { Change } from '../../pipeline/decode.ts';
import { type Replication, startReplication } from '../../pipeline/replication.ts';
import { type Lsn, parseLsn } from '../../src/lsn.ts';
import { insertBooking } from '../support/application.ts';
import { startCluster, type TestCluster } from '../support/cluster.ts';
import { until } from '../support/pipeline.ts';
import { startProxy } from '../support/proxy.ts';
import { createScene, type Scene } from '../support/scene.ts';

// pg-logical-replication by itself, on a cluster where nothing else writes WAL.

const SLOT = 'under_test';

let cluster: TestCluster;
let scene: Scene;
let pool: pg.Pool;

beforeAll(async () => {
  cluster = await startCluster({ fsync: false, parameters: { autovacuum: 'off' } });
  scene = await createScene({ cluster });
  pool = scene.database.pool;
});

afterAll(async () => {
  await scene?.stop();
  await cluster?.stop();
});

/** One transaction as it arrived. */
interface Arrived {
  bookingIds: string[];
  commitLsn: Lsn;
  endLsn: Lsn;
}

/** A subscription that keeps what arrives, whole transactions only. */
async function subscribe(
  options: { from?: Lsn; url?: string; onChange?: (change: Change) => void } = {},
): Promise<{ replication: Replication; arrived: Arrived[] }> {
  const arrived: Arrived[] = [];
  let open: Arrived | undefined;
  const replication = await startReplication({
    silenceMaxMs: 60_000,
    url: options.url ?? scene.database.url,
    slotName: SLOT,
    startLsn: options.from ?? (await confirmedLsn()),
    onChange: (change) => {
      options.onChange?.(change);
      if (change.kind === 'begin') open = { bookingIds: [], commitLsn: change.commitLsn, endLsn: 0n };
      if (change.kind === 'booking') open?.bookingIds.push(...change.bookingIds);
      if (change.kind === 'commit' && open !== undefined) arrived.push({ ...open, endLsn: change.endLsn });
    },
    onKeepalive: () => undefined,
  });
  return { replication, arrived };
}

const slotRow = async () =>
  (await pool.query('select * from pg_replication_slots where slot_name = $1', [SLOT])).rows[0];
const confirmedLsn = async (): Promise<Lsn> => parseLsn((await slotRow()).confirmed_flush_lsn);

beforeEach(async () => {
  await until('the slot is free', async () => (await slotRow())?.active !== true);
  await pool.query(
    'select pg_drop_replication_slot(slot_name) from pg_replication_slots where slot_name = $1',
    [SLOT],
  );
  await pool.query(`select pg_create_logical_replication_slot($1, 'pgoutput')`, [SLOT]);
});

/** Two bookings, each its own transaction, the second commit's record right behind the first one's end. */
async function adjacentCommits(arrived: Arrived[]): Promise<[Arrived, Arrived]> {
  const [first, second] = [new pg.Client(scene.database.url), new pg.Client(scene.database.url)];
  await Promise.all([first.connect(), second.connect()]);
  try {
    for (let attempt = 0; attempt < 20; attempt += 1) {
      const before = arrived.length;
      await Promise.all([first.query('begin'), second.query('begin')]);
      await insertBooking(first);
      await insertBooking(second);
      await first.query('commit');
      await second.query('commit');
      await until('both arrived', () => arrived.length >= before + 2);
      const [a, b] = arrived.slice(before);
      if (a !== undefined && b !== undefined && a.endLsn === b.commitLsn) return [a, b];
    }
  } finally {
    await Promise.all([first.end(), second.end()]);
  }
  throw new Error('no two adjacent commits in 20 attempts');
}

test('I2: redelivers the second of two adjacent commits after a cut between their acknowledgements', async () => {
  const before = await subscribe();
  const [first, second] = await adjacentCommits(before.arrived);
  await before.replication.confirm(first.endLsn);
  await until('the slot is confirmed', async () => (await confirmedLsn()) >= first.endLsn);
  await pool.query(
    'select pg_terminate_backend(active_pid, 5000) from pg_replication_slots where slot_name = $1',
    [SLOT],
  );
  await expect(before.replication.ended).rejects.toThrow();

  const after = await subscribe();
  await until('something arrives', () => after.arrived.length > 0);
  await after.replication.stop();
  expect(after.arrived[0]).toEqual(second);
  expect(after.arrived.flatMap(({ bookingIds }) => bookingIds)).not.toContain(first.bookingIds[0]);
});

test('row 27: a confirmation right before the stop is read, though the server has much more to send', async () => {
  await pool.query(`do $$ begin
    set synchronous_commit = off;
    for i in 1..20000 loop
      insert into storage_bookings (farmer_id, crop_type, quantity_kg)
        values (gen_random_uuid(), repeat('wheat', 20), 1);
      commit;
    end loop;
  end $$`);
  for (let round = 1; round <= 10; round += 1) {
    const stopped = Promise.withResolvers<Lsn>();
    let commits = 0;
    const { replication } = await subscribe({
      onChange: (change) => {
        if (change.kind !== 'commit' || ++commits !== 500) return;
        void replication.confirm(change.endLsn);
        void replication.stop().then(() => stopped.resolve(change.endLsn), stopped.reject);
      },
    });
    const endLsn = await stopped.promise;
    await until('the slot is free', async () => (await slotRow())?.active !== true);
    expect(await confirmedLsn()).toBe(endLsn);
  }
});

test('I2: a confirmation stands at exactly the position given', async () => {
  const { replication, arrived } = await subscribe();
  await insertBooking(pool);
  await until('it arrives', () => arrived.length === 1);
  const endLsn = arrived[0]?.endLsn ?? 0n;
  await replication.confirm(endLsn);
  await until('the slot moves', async () => (await confirmedLsn()) >= endLsn);
  expect(await confirmedLsn()).toBe(endLsn);
  await replication.stop();
});

test('I2: what is received and not confirmed is never confirmed by itself, however long the connection lives', async () => {
  // The library has a timer that acknowledges what it has received, every 10 s. It is moved on rather than waited for,
  // and every status update is seen on its way: they come in order, so one after it would show what came before.
  vi.useFakeTimers({ toFake: ['setInterval', 'clearInterval', 'Date'] });
  const claims: Lsn[] = [];
  const proxy = await startProxy(scene.database.url);
  try {
    proxy.onRequest = (chunk) => claims.push(...statusUpdates(chunk));
    const from = await confirmedLsn();
    const { replication, arrived } = await subscribe({ url: proxy.url, from });
    await insertBooking(pool);
    await until('it arrives', () => arrived.length === 1);
    vi.advanceTimersByTime(60_000);
    await replication.confirm(from);
    await until('a sign of life is sent', () => claims.length > 0);
    await replication.stop();
    expect(claims.filter((claim) => claim > from)).toEqual([]);
    expect(await confirmedLsn()).toBe(from);
  } finally {
    vi.useRealTimers();
    await proxy.stop();
  }
});

test('I2: after a handler has thrown no later row is delivered or confirmed, and the stream ends with its error', async () => {
  const from = await confirmedLsn();
  const seen: string[] = [];
  const boom = new Error('boom');
  const { replication } = await subscribe({
    from,
    onChange: (change) => {
      if (change.kind !== 'booking') return;
      seen.push(...change.bookingIds);
      if (seen.length === 2) throw boom;
    },
  });
  // In one transaction: the server sends all of it at once.
  await pool.query(
    `insert into storage_bookings (farmer_id, crop_type, quantity_kg)
     select gen_random_uuid(), 'Tomato', 1 from generate_series(1, 5)`,
  );
  await expect(replication.ended).rejects.toBe(boom);
  await replication.confirm(from + 1_000_000n);
  await until('the connection is closed', async () => (await slotRow()).active === false);
  expect(seen).toHaveLength(2);
  expect(await confirmedLsn()).toBe(from);
});

test('I2: a second subscription begins where it is told, not after what the first one received', async () => {
  const from = await confirmedLsn();
  const first = await subscribe({ from });
  const id = await insertBooking(pool);
  await until('it arrives', () => first.arrived.length === 1);
  await first.replication.stop();
  expect(first.arrived[0]?.bookingIds).toEqual([id]);

  await until('the slot is free', async () => (await slotRow()).active === false);
  const second = await subscribe({ from });
  await until('it arrives again', () => second.arrived.length === 1);
  await second.replication.stop();
  expect(second.arrived).toEqual(first.arrived);
});

test('a subscription to a slot that is not there says so, and one to a slot in use', async () => {
  const first = await subscribe();
  await expect(subscribe()).rejects.toMatchObject({ code: '55006' });
  await first.replication.stop();
  await until('the slot is free', async () => (await slotRow()).active === false);
  await pool.query('select pg_drop_replication_slot($1)', [SLOT]);
  await expect(subscribe({ from: 0n })).rejects.toMatchObject({ code: '42704' });
  await pool.query(`select pg_create_logical_replication_slot($1, 'pgoutput')`, [SLOT]);
});

/** The positions in the status updates ('r') among CopyData messages ('d'). */
function statusUpdates(chunk: Buffer): Lsn[] {
  const claims: Lsn[] = [];
  for (let offset = 0; offset + 5 <= chunk.length; ) {
    const length = chunk.readUInt32BE(offset + 1);
    if (chunk[offset] === 0x64 && chunk[offset + 5] === 0x72) {
      claims.push(...[6, 14, 22].map((field) => chunk.readBigUInt64BE(offset + field)));
    }
    offset += 1 + length;
  }
  return claims;
}
