import { afterEach, beforeEach, expect, test } from 'vitest';
import { sqlStateOf } from '../../src/postgres.ts';
import { acquireConsumer, readCheckpoint, releaseConsumer } from '../../src/store/checkpoint.ts';
import { reconcileBatch } from '../../src/store/reconcile.ts';
import { insertBooking, setQuantity } from '../support/application.ts';
import { until } from '../support/pipeline.ts';
import { createScene, type Scene } from '../support/scene.ts';

let scene: Scene;

beforeEach(async () => {
  scene = await createScene();
});

afterEach(() => scene?.stop());

const quantity = async (bookingId: string): Promise<unknown> =>
  (
    await scene.database.pool.query<{ quantity_kg: number }>(
      'select quantity_kg from market_inventory_snapshots where booking_id = $1',
      [bookingId],
    )
  ).rows[0]?.quantity_kg;

test('I6: a second consumer stands by, and takes over within seconds of the end of the first', async () => {
  const first = await scene.start();
  const second = await scene.start({ until: 'standby' });
  const bookingId = await insertBooking(scene.database.pool, { quantityKg: 1 });
  await scene.settle();
  expect([first.consumer.state, second.consumer.state]).toEqual(['active', 'standby']);
  await first.stop();
  await until('the second is active', () => second.consumer.state === 'active', 5_000);
  await setQuantity(scene.database.pool, bookingId, 2);
  await scene.settle();
  await scene.expectConverged();
  expect((await readCheckpoint(scene.database.pool)).epoch).toBe(1);
});

test('I6: a consumer that was killed is replaced once it shows no sign of life', async () => {
  // The remains of a killed one: its place is held, nobody streams.
  const { pool } = scene.database;
  await acquireConsumer(pool, { holder: 'killed', slotName: scene.config.slotName, leaseSeconds: 3_600 });
  await scene.start({ until: 'standby' });
  const bookingId = await insertBooking(pool);
  await scene.settle();
  await scene.expectConverged([bookingId]);
});

test('I6: a consumer that has lost its place writes no snapshot, moves no checkpoint, confirms nothing, and stands by', async () => {
  const { pool } = scene.database;
  const pipeline = await scene.start();
  const bookingId = await insertBooking(pool, { quantityKg: 1 });
  await scene.settle();
  const before = await readCheckpoint(pool);

  // As after a pause of the whole process: its lease ran out, and another one took the place.
  await pool.query(`update market_sync.checkpoint set lease_until = '-infinity'`);
  const generation = await acquireConsumer(pool, {
    holder: 'another',
    slotName: scene.config.slotName,
    leaseSeconds: 3_600,
  });
  expect(generation).toBe(before.generation + 1);
  const confirmed = await scene.confirmedLsn();
  await setQuantity(pool, bookingId, 2);
  await until('it has noticed', () => pipeline.consumer.state !== 'active');
  expect(await quantity(bookingId)).toBe(1);
  expect((await readCheckpoint(pool)).commitLsn).toBe(before.commitLsn);
  expect(await scene.confirmedLsn()).toBe(confirmed);

  const batch = {
    generation: before.generation,
    commitLsn: 2n ** 60n,
    xids: [],
    keys: { booking: [bookingId], location: [], sensor: [], vendor: [], inspection: [] },
    bookingsMax: 10,
    leaseSeconds: 10,
    now: undefined,
    resyncReason: undefined,
    committedAt: undefined,
  };
  const client = await pool.connect();
  const refusal: unknown = await reconcileBatch(client, batch).catch((error: unknown) => error);
  client.release();
  expect(sqlStateOf(refusal)).toBe('MS001');
  expect(await quantity(bookingId)).toBe(1);

  await releaseConsumer(pool, generation ?? 0);
  await scene.settle();
  expect(pipeline.consumer.state).toBe('active');
  await scene.expectConverged([bookingId]);
});
