import { ObjectId } from 'mongodb';
import { afterAll, beforeEach, expect, test } from 'vitest';
import type { Market } from '../../src/mongo.ts';
import { readCheckpoint } from '../../src/store/checkpoint.ts';
import { checkHistory } from '../../src/store/history.ts';
import { publishBatch } from '../../src/store/publish.ts';
import { reconcileBookings } from '../../src/store/reconcile.ts';
import { insertBooking } from '../support/application.ts';
import { testLog, until } from '../support/pipeline.ts';
import { createScene, type Scene } from '../support/scene.ts';

// Row 13: what MongoDB knows is compared with what this database has made. No pipeline runs: nothing mends it meanwhile.

let scene: Scene;

beforeEach(async () => {
  await scene?.stop();
  scene = await createScene();
});

afterAll(() => scene?.stop());

const publisher = (market: Market = scene.market.market) => ({
  pool: scene.database.pool,
  market,
  log: testLog(),
  publisher: 'a test',
  leaseSeconds: 60,
  attemptsMax: 5,
  random: Math.random,
});

async function publishBookings(count: number): Promise<string[]> {
  const { pool } = scene.database;
  const bookingIds: string[] = [];
  for (let index = 0; index < count; index += 1) bookingIds.push(await insertBooking(pool));
  await reconcileBookings(pool, { bookingIds, now: undefined });
  expect(await publishBatch(publisher(), { limit: count })).toMatchObject({ outcome: 'published' });
  return bookingIds;
}

const check = (market: Market = scene.market.market) =>
  checkHistory({ pool: scene.database.pool, market, log: testLog() }, new AbortController().signal);

const change = (bookingId: string, fields: Record<string, unknown>): Promise<unknown> =>
  scene.market.market.listings.updateOne({ booking_id: bookingId }, { $set: fields } as never);

/** Listings of bookings that this database has no snapshot of. */
async function insertGhosts(bookingId: string, count: number): Promise<string[]> {
  const { _id, ...listing } = (await scene.listing(bookingId)) ?? {};
  const ids = Array.from(
    { length: count },
    (_, index) => `00000000-0000-4000-8000-${String(index).padStart(12, '0')}`,
  );
  await scene.market.market.listings.insertMany(
    ids.map((id) => ({ ...listing, _id: new ObjectId(), booking_id: id })) as never,
  );
  return ids;
}

test("listings at their snapshots' versions or below are of this history", async () => {
  const [older] = await publishBookings(3);
  await scene.database.pool.query('update storage_bookings set quantity_kg = quantity_kg + 1 where id = $1', [
    older,
  ]);
  await reconcileBookings(scene.database.pool, { bookingIds: [older ?? ''], now: undefined });
  expect(await check()).toEqual({ compared: 3, cut: false });
});

test.each([
  ['a higher revision', { revision: 2 }],
  ['a higher epoch', { epoch: 7 }],
  ['the same version with another time of change', { 'metadata.last_updated': '2026-01-01T00:00:00.000Z' }],
])('row 13: one listing of %s cuts history, above every epoch that MongoDB has', async (_, fields) => {
  const [bookingId = ''] = await publishBookings(3);
  await change(bookingId, fields);
  expect(await check()).toMatchObject({ cut: true });
  const { epoch } = await readCheckpoint(scene.database.pool);
  expect(epoch).toBe('epoch' in fields ? 8 : 2);
  // It is a resync's by now.
  expect(await check()).toEqual({ compared: 0, cut: false });
});

test('row 13: one listing of a booking that this database does not know cuts history', async () => {
  const [bookingId = ''] = await publishBookings(1);
  await insertGhosts(bookingId, 1);
  expect(await check()).toEqual({ compared: 2, cut: true });
});

test('row 13: of several processes that find the same, one cuts history', async () => {
  const { pool } = scene.database;
  const [bookingId = ''] = await publishBookings(3);
  await change(bookingId, { revision: 2 });
  const holder = await pool.connect();
  let checks: ReturnType<typeof check>[] = [];
  try {
    await holder.query('begin');
    await holder.query('select market_sync.lock_reconcile()');
    checks = [check(), check(), check()];
    // Each has found it, and waits for its turn to cut.
    await until('all wait', async () => {
      const { rows } = await pool.query<{ count: number }>(
        `select count(*)::int as count from pg_locks l join pg_database d on d.oid = l.database
         where d.datname = current_database() and l.locktype = 'advisory' and not l.granted`,
      );
      return rows[0]?.count === 3;
    });
  } finally {
    await holder.query('rollback');
    holder.release();
  }
  const verdicts = (await Promise.all(checks)).map(({ cut }) => cut);
  expect(verdicts.toSorted()).toEqual([false, false, true]);
  expect((await readCheckpoint(pool)).epoch).toBe(2);
});

test.each([
  ['a version that it has not made', 'revision = revision - 1, epoch = epoch'],
  [
    'another one of that number',
    `metadata = jsonb_set(metadata, '{last_updated}', '"2026-01-01T00:00:00.000Z"')`,
  ],
])(
  'row 13: a publisher that learns only afterwards that the database was put back, and knows %s, marks nothing and cuts history',
  async (_, restored) => {
    const { pool } = scene.database;
    const [bookingId = ''] = await publishBookings(2);
    await pool.query('update storage_bookings set quantity_kg = 5 where id = $1', [bookingId]);
    await reconcileBookings(pool, { bookingIds: [bookingId], now: undefined });
    const { market } = scene.market;
    let writes = 0;
    // Between MongoDB's answer and the mark.
    const listings = new Proxy(market.listings, {
      get: (target, name) => {
        if (name !== 'bulkWrite') return Reflect.get(target, name, target);
        return async (...args: Parameters<typeof target.bulkWrite>) => {
          const reply = await target.bulkWrite(...args);
          writes += 1;
          await pool.query(`update market_inventory_snapshots set ${restored} where booking_id = $1`, [
            bookingId,
          ]);
          await pool.query(
            `update market_sync.snapshot_state state set revision = s.revision, published_revision = 1
           from market_inventory_snapshots s where s.booking_id = state.booking_id and s.booking_id = $1`,
            [bookingId],
          );
          return reply;
        };
      },
    });
    const late = publisher({ ...market, listings: listings as Market['listings'] });
    expect(await publishBatch(late, { limit: 10 })).toMatchObject({
      outcome: 'published',
      results: [{ bookingId, result: 'failed' }],
    });
    expect(writes).toBe(1);
    expect((await readCheckpoint(pool)).epoch).toBe(2);
    const { rows } = await pool.query(
      'select published_revision, claimed_by from market_sync.snapshot_state where booking_id = $1',
      [bookingId],
    );
    expect(rows).toEqual([{ published_revision: 1, claimed_by: null }]);
  },
);

test('a listing that cleanup deletes while history is checked is no sign of another history', async () => {
  const [bookingId = ''] = await publishBookings(1);
  const [deleted] = await insertGhosts(bookingId, 1);
  const { market } = scene.market;
  // The first read is the scan; the second looks again at what has no snapshot.
  let reads = 0;
  const listings = new Proxy(market.listings, {
    get: (target, name) => {
      if (name !== 'find') return Reflect.get(target, name, target);
      return (...args: Parameters<typeof target.find>) => {
        reads += 1;
        const cursor = target.find(...args);
        if (reads !== 2) return cursor;
        return {
          project: () => ({
            toArray: async () => {
              await target.deleteOne({ booking_id: deleted ?? '' });
              return target.find(...args).toArray();
            },
          }),
        };
      };
    },
  });
  expect(await check({ ...market, listings: listings as Market['listings'] })).toEqual({
    compared: 2,
    cut: false,
  });
  expect(reads).toBe(2);
});

test('I9: thousands of listings are compared in batches, and one of another history among the last is found', async () => {
  const [bookingId = ''] = await publishBookings(1);
  const ids = await insertGhosts(bookingId, 2_500);
  await scene.database.pool.query(
    `insert into market_inventory_snapshots (booking_id, farmer_id, crop_type, quantity_kg, epoch, revision)
     select id, gen_random_uuid(), 'wheat', 1, 1, 1 from unnest($1::uuid[]) id`,
    [ids],
  );
  expect(await check()).toEqual({ compared: 2_501, cut: false });
  await change(ids.at(-1) ?? '', { revision: 2 });
  expect(await check()).toMatchObject({ cut: true });
});

test('documents that nobody of ours can have written say nothing of history, and do not stand in the way of a new one', async () => {
  const [bookingId = ''] = await publishBookings(1);
  await scene.market.market.listings.insertMany([
    { _id: new ObjectId(), booking_id: 'by hand', epoch: 1, revision: 1 },
    { _id: new ObjectId(), booking_id: '00000000-0000-4000-8000-000000000001' },
    { _id: new ObjectId(), booking_id: '00000000-0000-4000-8000-000000000002', epoch: 1e12, revision: 1 },
    { _id: new ObjectId(), booking_id: '00000000-0000-4000-8000-000000000003', epoch: 1, revision: 1.5 },
    { _id: new ObjectId(), booking_id: '00000000-0000-4000-8000-000000000004', epoch: 'x', revision: 1 },
  ] as never);
  expect(await check()).toEqual({ compared: 1, cut: false });
  await change(bookingId, { revision: 2 });
  expect(await check()).toMatchObject({ cut: true });
  expect((await readCheckpoint(scene.database.pool)).epoch).toBe(2);
});
