import { afterAll, beforeAll, expect, test } from 'vitest';
import type { Pipeline } from '../../pipeline/pipeline.ts';
import { recordFailure } from '../../src/store/outbox.ts';
import { insertBooking, insertInspection, insertLocation, setQuantity } from '../support/application.ts';
import { until } from '../support/pipeline.ts';
import { createScene, type Scene } from '../support/scene.ts';

const ATTEMPTS_MAX = 2;

let scene: Scene;
let pipeline: Pipeline;

beforeAll(async () => {
  scene = await createScene({ settings: { PUBLISH_ATTEMPTS_MAX: String(ATTEMPTS_MAX) } });
  pipeline = await scene.start();
});

afterAll(() => scene?.stop());

interface State {
  parked: boolean;
  attempts: number;
  last_error: string | null;
  revision: number;
  published_revision: number;
}

async function stateOf(bookingId: string): Promise<State | undefined> {
  const { rows } = await scene.database.pool.query<State>(
    `select parked_at is not null as parked, attempts, last_error, revision, published_revision
     from market_sync.snapshot_state where booking_id = $1`,
    [bookingId],
  );
  return rows[0];
}

const untilParked = (bookingId: string): Promise<void> =>
  until('the booking is parked', async () => (await stateOf(bookingId))?.parked === true);

/** From now on nothing can be written to the snapshot of this booking that says so in its quantity. */
const POISON_KG = 666;
async function poisonSnapshots(): Promise<void> {
  await scene.database.pool.query(`
    create or replace function refuse_poison() returns trigger language plpgsql as $$
    begin
      if new.quantity_kg = ${POISON_KG} then raise exception 'no such quantity' using errcode = '22003'; end if;
      return new;
    end $$;
    create or replace trigger refuse_poison before insert or update on market_inventory_snapshots
      for each row execute function refuse_poison()`);
}
const healSnapshots = (): Promise<unknown> =>
  scene.database.pool.query('drop trigger if exists refuse_poison on market_inventory_snapshots');

test('I7: a listing too large for MongoDB is parked with its error after bounded attempts, others go on, and it returns when it shrinks', async () => {
  const { pool } = scene.database;
  const inspectionId = await insertInspection(pool);
  const [large, other] = [await insertBooking(pool, { inspectionId }), await insertBooking(pool)];
  await scene.settle();
  await pool.query(`update crop_inspections set visual_defects = repeat('mould ', 3000000) where id = $1`, [
    inspectionId,
  ]);
  await setQuantity(pool, other, 2);
  await untilParked(large);
  expect(await stateOf(large)).toMatchObject({
    attempts: ATTEMPTS_MAX,
    last_error: expect.stringMatching(/the listing has \d+ bytes, more than/),
    revision: 2,
    published_revision: 1,
  });
  await scene.settle();
  expect(await scene.listing(large)).toMatchObject({ visual_defects: 'none', revision: 1 });
  await scene.expectConverged([other]);

  await pool.query(`update crop_inspections set visual_defects = 'mould' where id = $1`, [inspectionId]);
  await scene.settle();
  expect(await stateOf(large)).toMatchObject({ parked: false, attempts: 0, last_error: null });
  await scene.expectConverged([large]);
});

test('row 9: a failure of an older version does not park a newer one', async () => {
  const { pool } = scene.database;
  const bookingId = await insertBooking(pool, { quantityKg: 1 });
  await scene.settle();
  const first = { bookingId, epoch: 1, revision: 1, error: 'too large', retryAfterMs: 1, attemptsMax: 1 };
  const client = await pool.connect();
  try {
    // In one transaction, so that the publisher does not come between.
    await client.query('begin');
    await client.query('update market_sync.snapshot_state set published_revision = 0 where booking_id = $1', [
      bookingId,
    ]);
    await setQuantity(client, bookingId, 2);
    await client.query('select market_sync.reconcile(array[$1::uuid])', [bookingId]);
    expect(await recordFailure(client, first)).toBe(false);
    await client.query('commit');
  } finally {
    client.release();
  }
  await scene.settle();
  await scene.expectConverged([bookingId]);
  const published = { parked: false, attempts: 0, last_error: null, revision: 2, published_revision: 2 };
  expect(await stateOf(bookingId)).toEqual(published);
  expect(await recordFailure(pool, first)).toBe(false);
  expect(await stateOf(bookingId)).toEqual(published);
});

test('I7: a booking whose recompute fails on its data is parked, the others of its batch are written, the checkpoint moves', async () => {
  const { pool } = scene.database;
  const [bad, good] = [await insertBooking(pool), await insertBooking(pool)];
  await scene.settle();
  await poisonSnapshots();
  try {
    await pool.query(
      `update storage_bookings set quantity_kg = case when id = $1 then ${POISON_KG} else 2 end where id in ($1, $2)`,
      [bad, good],
    );
    await scene.settle();
    expect(await stateOf(bad)).toMatchObject({
      parked: true,
      last_error: '22003 no such quantity',
      revision: 1,
    });
    await scene.expectConverged([good]);
  } finally {
    await healSnapshots();
  }
  await setQuantity(pool, bad, 3);
  await scene.settle();
  expect(await stateOf(bad)).toMatchObject({ parked: false, last_error: null });
  await scene.expectConverged([bad, good]);
});

test('I7: a new booking whose first recompute fails is parked too, and gets its snapshot once its data are right', async () => {
  const { pool } = scene.database;
  await poisonSnapshots();
  let bad = '';
  try {
    bad = await insertBooking(pool, { quantityKg: POISON_KG });
    await scene.settle();
    expect(await stateOf(bad)).toMatchObject({ parked: true, revision: 0 });
  } finally {
    await healSnapshots();
  }
  await setQuantity(pool, bad, 1);
  await scene.settle();
  await scene.expectConverged([bad]);
});

test('I7: a parked booking whose data return to what they were is no longer parked', async () => {
  const { pool } = scene.database;
  const bad = await insertBooking(pool, { quantityKg: 1 });
  await scene.settle();
  await poisonSnapshots();
  try {
    await setQuantity(pool, bad, POISON_KG);
    await scene.settle();
    expect(await stateOf(bad)).toMatchObject({ parked: true });
    await setQuantity(pool, bad, 1);
    await scene.settle();
    expect(await stateOf(bad)).toMatchObject({ parked: false, last_error: null });
    await scene.expectConverged([bad]);
  } finally {
    await healSnapshots();
  }
});

test('I7: a parked booking that is deleted is withdrawn', async () => {
  const { pool } = scene.database;
  const bad = await insertBooking(pool, { quantityKg: 1 });
  await scene.settle();
  await poisonSnapshots();
  try {
    await setQuantity(pool, bad, POISON_KG);
    await untilParked(bad);
    await pool.query('delete from storage_bookings where id = $1', [bad]);
    await scene.settle();
    expect(await stateOf(bad)).toMatchObject({ parked: false });
    expect(await scene.listing(bad)).toMatchObject({ status: 'withdrawn', quantity_kg: 1 });
  } finally {
    await healSnapshots();
  }
});

test('I7: a parked booking that never had a snapshot leaves nothing behind when it is deleted', async () => {
  const { pool } = scene.database;
  await poisonSnapshots();
  try {
    const bad = await insertBooking(pool, { quantityKg: POISON_KG });
    await untilParked(bad);
    await pool.query('delete from storage_bookings where id = $1', [bad]);
    await scene.settle();
    expect(await stateOf(bad)).toBeUndefined();
    expect(await scene.listing(bad)).toBeUndefined();
  } finally {
    await healSnapshots();
  }
});

test('D10: what is parked because MongoDB will not take it is still refreshed by the clock, and may fit then', async () => {
  const { pool } = scene.database;
  const locationId = await insertLocation(pool);
  const bookingId = await insertBooking(pool, { locationId });
  // They leave the window of seven days in two seconds.
  await pool.query(
    `insert into pest_detections (location_id, pest_type, action_taken, detected_at)
     select $1, 'weevil', repeat('x', 1000000), clock_timestamp() - interval '7 days' + interval '2 seconds' from generate_series(1, 17)`,
    [locationId],
  );
  await untilParked(bookingId);
  await until('the clock has made it due', async () => {
    await pipeline.queue.trigger('refresh');
    return (await stateOf(bookingId))?.parked === false;
  });
  await scene.settle();
  await scene.expectConverged([bookingId]);
});

const retryParked = async (bookingIds?: string[]): Promise<number | undefined> => {
  const { rows } = await scene.database.pool.query<{ count: number }>(
    'select market_sync.retry_parked($1) as count',
    [bookingIds ?? null],
  );
  return rows[0]?.count;
};

/** Poison for MongoDB: with the id of another booking's listing, this one's can never be written. Answers its own id. */
async function stealListingId(bookingId: string, from: string): Promise<string | null> {
  const { pool } = scene.database;
  const { rows } = await pool.query<{ id: string | null }>(
    'select market_listing_id as id from market_inventory_snapshots where booking_id = $1',
    [bookingId],
  );
  await scene.market.market.listings.deleteOne({ booking_id: bookingId });
  await pool.query(
    `update market_inventory_snapshots set market_listing_id = (
       select market_listing_id from market_inventory_snapshots where booking_id = $2) where booking_id = $1`,
    [bookingId, from],
  );
  return rows[0]?.id ?? null;
}
const giveListingId = (bookingId: string, listingId: string | null): Promise<unknown> =>
  scene.database.pool.query(
    'update market_inventory_snapshots set market_listing_id = $2 where booking_id = $1',
    [bookingId, listingId],
  );

test('row 8: what is parked is seen in SQL with where, why, how often and since when, and released by SQL, one or all', async () => {
  const { pool } = scene.database;
  const [taken, stolen, uncomputed] = [
    await insertBooking(pool),
    await insertBooking(pool, { quantityKg: 1 }),
    await insertBooking(pool, { quantityKg: 1 }),
  ];
  await scene.settle();
  const listingId = await stealListingId(stolen, taken);
  await setQuantity(pool, stolen, 2);
  await poisonSnapshots();
  try {
    await setQuantity(pool, uncomputed, POISON_KG);
    await untilParked(stolen);
    await untilParked(uncomputed);
  } finally {
    await healSnapshots();
  }
  const { rows } = await pool.query(
    `select booking_id, stage, attempts, error, first_failed_at <= last_failed_at and last_failed_at <= parked_at as in_order
     from market_sync.parked order by stage`,
  );
  expect(rows).toEqual([
    {
      booking_id: stolen,
      stage: 'publish',
      attempts: ATTEMPTS_MAX,
      error: expect.stringMatching(/belongs to another booking/),
      in_order: true,
    },
    {
      booking_id: uncomputed,
      stage: 'reconcile',
      attempts: 1,
      error: '22003 no such quantity',
      in_order: true,
    },
  ]);

  // Nothing was mended: one more round, and it is parked again.
  expect(await retryParked([stolen])).toBe(1);
  await untilParked(stolen);
  expect(await stateOf(stolen)).toMatchObject({ attempts: ATTEMPTS_MAX });

  await giveListingId(stolen, listingId);
  expect(await retryParked()).toBe(2);
  await scene.settle();
  await until(
    'none is parked',
    async () => (await pool.query('select from market_sync.parked')).rowCount === 0,
  );
  await scene.expectConverged([taken, stolen, uncomputed]);
  expect(await retryParked()).toBe(0);
  expect(await retryParked([taken])).toBe(0);
});

test('row 9: a parked one that changed meanwhile is published by SQL at its newest state', async () => {
  const { pool } = scene.database;
  const [taken, stolen] = [await insertBooking(pool), await insertBooking(pool, { quantityKg: 1 })];
  await scene.settle();
  const listingId = await stealListingId(stolen, taken);
  await setQuantity(pool, stolen, 2);
  await untilParked(stolen);
  // A change gives it another attempt, and that fails too.
  await setQuantity(pool, stolen, 3);
  await until('the newer version is parked', async () => {
    const state = await stateOf(stolen);
    return state?.parked === true && state.revision === 3;
  });
  await giveListingId(stolen, listingId);
  expect(await retryParked([stolen])).toBe(1);
  // At once: a publisher that nobody wakes looks again after 30 s.
  await until('it is published', async () => (await scene.listing(stolen))?.revision === 3, 15_000);
  expect(await scene.listing(stolen)).toMatchObject({ quantity_kg: 3 });
  await scene.settle();
  expect(await stateOf(stolen)).toMatchObject({ parked: false, attempts: 0, last_error: null });
});

test('I9: thousands of parked bookings that could not be computed are released at once and recomputed in batches', async () => {
  const { pool } = scene.database;
  const COUNT = 30_000;
  await scene.settle();
  await pool.query(
    `insert into market_sync.snapshot_state (booking_id, attempts, first_failed_at, last_failed_at, last_error, failed_stage, parked_at)
     select gen_random_uuid(), 1, now(), now(), 'bad', 'reconcile', now() from generate_series(1, ${COUNT})`,
  );
  expect(await retryParked()).toBe(COUNT);
  await scene.settle();
  // None has a booking any more: nothing is left of them.
  const { rows } = await pool.query(
    'select count(*)::int as count from market_sync.snapshot_state where revision = 0',
  );
  expect(rows).toEqual([{ count: 0 }]);
});
