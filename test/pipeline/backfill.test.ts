import v8 from 'node:v8';
import vm from 'node:vm';
import { ObjectId } from 'mongodb';
import { afterAll, afterEach, beforeAll, beforeEach, expect, test } from 'vitest';
import { query } from '../../src/postgres.ts';
import { findDuplicates, removeDuplicates } from '../../src/store/listing-duplicates.ts';
import { publishBatch, publishContext } from '../../src/store/publish.ts';
import { reconcileBookings } from '../../src/store/reconcile.ts';
import { backfillChunk, beginTask } from '../../src/store/task-work.ts';
import { closeLostTasks, findTask, requestBackfill } from '../../src/store/tasks.ts';
import { insertBooking, setQuantity } from '../support/application.ts';
import { testLog, until } from '../support/pipeline.ts';
import { createScene, type Scene } from '../support/scene.ts';

let scene: Scene;
beforeAll(async () => {
  scene = await createScene({ settings: { BATCH_KEYS_MAX: '50' } });
});
afterAll(() => scene?.stop());
beforeEach(async () => {
  await query(
    scene.database.pool,
    `truncate storage_bookings, market_inventory_snapshots, market_sync.snapshot_state, market_sync.task, market_sync.manual_action cascade;
     delete from pgboss.job`,
  );
  await scene.market.market.listings.deleteMany({});
});
afterEach(() => scene.stopPipelines());

async function insertBookings(count: number): Promise<string[]> {
  const rows = await query<{ id: string }>(
    scene.database.pool,
    `insert into storage_bookings (farmer_id, crop_type, quantity_kg, booking_status)
     select gen_random_uuid(), 'Rice', n, 'active' from generate_series(1, $1) n returning id`,
    [count],
  );
  return rows.map((row) => row.id);
}

/** Recomputes the first bookings as a backfill does. */
async function backfill(limit: number): Promise<void> {
  const { pool } = scene.database;
  const id = await requestBackfill(pool, 'a test');
  await beginTask(pool, id);
  await backfillChunk(pool, { id, limit, now: undefined });
}

const publisher = () =>
  publishContext({
    config: scene.config,
    pool: scene.database.pool,
    market: scene.market.market,
    log: testLog(),
    random: Math.random,
    role: 'pipeline',
  });

/** Which bookings the next batch of so many publishes. */
async function publishNext(limit: number, only?: 'live' | 'background'): Promise<string[]> {
  const outcome = await publishBatch(publisher(), { limit, ...(only === undefined ? {} : { only }) });
  return outcome.outcome === 'published' ? outcome.results.map((result) => result.bookingId) : [];
}

test('a live change is published before everything that a backfill has made, however much that is', async () => {
  const { pool } = scene.database;
  const ids = await insertBookings(30);
  await backfill(30);
  const [live = '', manual = ''] = ids.toSorted().toReversed();
  await setQuantity(pool, live, 4_711);
  await reconcileBookings(pool, { bookingIds: [live], now: undefined, committedAt: new Date() });
  await query(pool, 'select market_sync.hold(array[$1::uuid], $2)', [manual, 'a person waits']);
  expect((await publishNext(2)).toSorted()).toEqual([live, manual].toSorted());
  expect(await publishNext(10, 'live')).toEqual([]);
  expect((await publishNext(100, 'background')).length).toBe(28);
  expect(await publishNext(100)).toEqual([]);
});

test('what waits for a live change goes on waiting in front when a backfill changes it again', async () => {
  const { pool } = scene.database;
  const [id = ''] = await insertBookings(1);
  await reconcileBookings(pool, { bookingIds: [id], now: undefined, committedAt: new Date() });
  await setQuantity(pool, id, 4_712);
  await backfill(10);
  expect(await publishNext(10, 'live')).toEqual([id]);
  // Published, it is a backfill's again when that changes it.
  await setQuantity(pool, id, 4_713);
  await query(pool, `update market_sync.task set state = 'cancelled', finished_at = now()`);
  await backfill(10);
  expect(await publishNext(10, 'live')).toEqual([]);
  expect(await publishNext(10)).toEqual([id]);
});

test('backfill() in SQL waits for a pipeline, is taken up at once by one that runs, and shows in backfills', async () => {
  const { pool } = scene.database;
  await insertBookings(120);
  const [asked] = await query<{ id: string }>(pool, `select market_sync.backfill('years of bookings') as id`);
  const id = asked?.id ?? '';
  // Nobody has made its job yet: it is not lost for that.
  await closeLostTasks(pool);
  expect(await query(pool, 'select id, state, reason, total from market_sync.backfills')).toEqual([
    { id, state: 'queued', reason: 'years of bookings', total: null },
  ]);
  expect(await query(pool, `select market_sync.backfill('me too') as id`)).toEqual([{ id }]);
  await scene.start();
  await until('it is done', async () => (await findTask(pool, id))?.state === 'done');
  const askedAt = performance.now();
  const again = await requestBackfill(pool, 'once more');
  await until('it has begun', async () => (await findTask(pool, again))?.started_at != null);
  expect(performance.now() - askedAt).toBeLessThan(10_000);
  await until('it is done, too', async () => (await findTask(pool, again))?.state === 'done');
  expect(
    await query(
      pool,
      `select state, total, done, failed, percent, rate_per_second, time_left, error from market_sync.backfills where id = $1`,
      [again],
    ),
  ).toEqual([
    {
      state: 'done',
      total: 120,
      done: 120,
      failed: 0,
      percent: 100,
      rate_per_second: null,
      time_left: null,
      error: null,
    },
  ]);
  expect(
    await query(
      pool,
      `select action, reason, via, details ->> 'job_id' as id from market_sync.audit_log order by id`,
    ),
  ).toEqual(
    expect.arrayContaining([
      { action: 'backfill', reason: 'years of bookings', via: 'sql', id },
      { action: 'backfill', reason: 'once more', via: 'sql', id: again },
    ]),
  );
  expect((await query(pool, 'select from market_sync.audit_log')).length).toBe(2);
  await scene.settle();
  await scene.expectConverged();
});

test('cancel_task() ends a backfill, once, and says why it cannot end another', async () => {
  const { pool } = scene.database;
  const id = await requestBackfill(pool, 'a test');
  await query(pool, 'select market_sync.cancel_task($1, $2)', [id, 'not now']);
  expect(await query(pool, 'select state from market_sync.backfills')).toEqual([{ state: 'cancelled' }]);
  const again = query(pool, 'select market_sync.cancel_task($1)', [id]);
  await expect(again).rejects.toMatchObject({ code: 'MS409' });
  const unknown = query(pool, 'select market_sync.cancel_task($1)', ['00000000-0000-0000-0000-000000000001']);
  await expect(unknown).rejects.toMatchObject({ code: 'MS404' });
  expect((await findTask(pool, id))?.rate_per_second).toBeNull();
});

test('a backfill in work says how fast it is and how long it still takes', async () => {
  const { pool } = scene.database;
  await insertBookings(40);
  await backfill(10);
  const [row] = await query<{ rate: number; left: number; percent: number }>(
    pool,
    `select rate_per_second as rate, extract(epoch from time_left)::float8 as left, percent from market_sync.backfills`,
  );
  expect(row?.rate).toBeGreaterThan(0);
  expect(row?.left).toBe(Math.ceil(30 / (row?.rate ?? 0)));
  expect(row?.percent).toBe(25);
  await query(pool, `update market_sync.task set advanced_at = advanced_at - interval '11 seconds'`);
  expect(await query(pool, 'select rate_per_second, time_left from market_sync.backfills')).toEqual([
    { rate_per_second: 0, time_left: null },
  ]);
});

test('row 24: bookings that are written, deleted and inserted while a backfill goes over them end as their rows say', async () => {
  const { pool } = scene.database;
  const ids = (await insertBookings(600)).toSorted();
  await scene.start();
  const id = await requestBackfill(pool, 'beside writes');
  const deleted: string[] = [];
  for (let n = 0; (await findTask(pool, id))?.state !== 'done' && n < 200; n += 1) {
    const at = (n * 37) % ids.length;
    const booking = ids[at] ?? '';
    if (n % 5 === 0 && !deleted.includes(booking)) {
      await query(pool, 'delete from storage_bookings where id = $1', [booking]);
      deleted.push(booking);
    } else if (n % 7 === 0) await insertBooking(pool);
    else await setQuantity(pool, booking, n);
  }
  await until('it is done', async () => (await findTask(pool, id))?.state === 'done');
  await scene.settle();
  await scene.expectConverged();
  for (const booking of deleted) {
    const listing = await scene.listing(booking);
    expect(listing === undefined || listing.status === 'withdrawn', booking).toBe(true);
  }
});

test('an old listing is adopted by its booking_id, under the _id it has, and the snapshot says so', async () => {
  const { pool } = scene.database;
  const [told = '', untold = '', wrong = ''] = (await insertBookings(3)).toSorted();
  const ids = [new ObjectId(), new ObjectId(), new ObjectId()];
  const old = [told, untold, wrong].map((booking_id, n) => ({
    _id: ids[n] as ObjectId,
    booking_id,
    quantity_kg: -1,
    status: 'published',
  }));
  await scene.market.market.listings.insertMany(old as never);
  await backfill(10);
  await query(
    pool,
    `update market_inventory_snapshots set market_listing_id = case booking_id when $1 then $2 when $3 then 'no id' end`,
    [told, String(ids[0]), wrong],
  );
  await publishNext(10);
  const named = await query<{ booking_id: string; listing_id: string }>(
    pool,
    'select booking_id, market_listing_id as listing_id from market_inventory_snapshots order by booking_id',
  );
  expect(named.map((row) => row.listing_id)).toEqual(ids.map(String));
  for (const [n, booking] of [told, untold, wrong].entries()) {
    const listing = await scene.listing(booking);
    expect(listing).toMatchObject({ _id: ids[n], epoch: 1, revision: 1 });
    expect(listing?.quantity_kg).toBeGreaterThan(0);
  }
});

test('I7: an old listing whose _id is no ObjectId parks its booking and holds up nobody else', async () => {
  const [foreign = '', other = ''] = (await insertBookings(2)).toSorted();
  await scene.market.market.listings.insertOne({ _id: 'a name', booking_id: foreign } as never);
  await backfill(10);
  const outcome = await publishBatch({ ...publisher(), attemptsMax: 1 }, { limit: 10 });
  expect(outcome).toMatchObject({
    outcome: 'published',
    results: expect.arrayContaining([
      expect.objectContaining({
        bookingId: foreign,
        result: 'parked',
        error: expect.stringContaining('a name'),
      }),
      expect.objectContaining({ bookingId: other, result: 'published' }),
    ]),
  });
});

test('of several old listings of a booking the one that its snapshot names stays, else the newest', async () => {
  const { pool } = scene.database;
  const { listings } = scene.market.market;
  const [named = '', unnamed = '', single = ''] = (await insertBookings(3)).toSorted();
  await backfill(10);
  const ids = [1, 2, 3, 4, 5, 6].map((second) => ObjectId.createFromTime(1_700_000_000 + second));
  await query(pool, 'update market_inventory_snapshots set market_listing_id = $2 where booking_id = $1', [
    named,
    String(ids[1]),
  ]);
  await listings.dropIndex('booking_id_1');
  try {
    const owners = [named, named, named, unnamed, unnamed, single];
    await listings.insertMany(owners.map((booking_id, n) => ({ _id: ids[n], booking_id })) as never);
    await listings.insertMany([{ note: 'no booking' }, { note: 'no booking' }] as never);
    let [removed, unowned] = [0, 0];
    for await (const batch of findDuplicates(pool, scene.market.market)) {
      unowned += batch.unowned;
      removed += await removeDuplicates(scene.market.market, batch.duplicates);
    }
    expect([removed, unowned]).toEqual([3, 2]);
    const left = await listings.find({ booking_id: { $in: owners } }).toArray();
    expect(left.map((document) => String(document._id)).toSorted()).toEqual(
      [ids[1], ids[4], ids[5]].map(String).toSorted(),
    );
    await listings.deleteMany({ booking_id: { $exists: false } } as never);
  } finally {
    await listings.createIndex({ booking_id: 1 }, { name: 'booking_id_1', unique: true });
  }
});

test('I9: a backfill of ten thousand bookings holds no more memory at its end than at its beginning', async () => {
  const { pool } = scene.database;
  v8.setFlagsFromString('--expose-gc');
  const collect = vm.runInNewContext('gc') as () => void;
  await insertBookings(10_000);
  const id = await requestBackfill(pool, 'a test');
  await beginTask(pool, id);
  const heapBytes: number[] = [];
  for (let more = true; more; ) {
    for (let chunk = 0; chunk < 10 && more; chunk += 1) {
      more = (await backfillChunk(pool, { id, limit: 250, now: undefined })).outcome === 'more';
    }
    collect();
    heapBytes.push(process.memoryUsage().heapUsed);
  }
  // One kilobyte kept of each booking would be 7.5 MB more by then.
  expect(heapBytes.length).toBeGreaterThanOrEqual(4);
  expect((heapBytes.at(-1) ?? 0) - (heapBytes[0] ?? 0)).toBeLessThan(2_000_000);
});
