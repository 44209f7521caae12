import { afterEach, beforeEach, expect, test } from 'vitest';
import { ObjectId } from 'mongodb';
import { query } from '../../src/postgres.ts';
import { insertBooking, setQuantity } from '../support/application.ts';
import { insertOldSnapshot, pollPublished, pollReady, writeOldListing } from '../support/old-poller.ts';
import { createMarket } from '../support/pipeline.ts';
import { createScene, type Scene } from '../support/scene.ts';

// docs/migrating.md says what happens while the old system still runs beside this one. Each of its claims is a test here.

let scene: Scene;
beforeEach(async () => {
  scene = await createScene();
});
afterEach(() => scene.stop());

const poller = () => ({ pool: scene.database.pool, market: scene.market.market });

const snapshot = async (bookingId: string) =>
  (
    await query<{ status: string; quantity_kg: number; market_listing_id: string }>(
      scene.database.pool,
      'select status, quantity_kg, market_listing_id from market_inventory_snapshots where booking_id = $1',
      [bookingId],
    )
  )[0];

test("the poller's listings are adopted with their ids, and none is doubled", async () => {
  const ids = await Promise.all([1, 2, 3].map(() => insertBooking(scene.database.pool)));
  for (const id of ids) await insertOldSnapshot(scene.database.pool, id);
  expect(await pollReady(poller())).toBe(3);
  const before = await Promise.all(ids.map(async (id) => String((await scene.listing(id))?._id)));

  await scene.start();
  await scene.settle();
  await scene.expectConverged();
  const after = await Promise.all(ids.map(async (id) => String((await scene.listing(id))?._id)));
  expect(after).toEqual(before);
  expect(await Promise.all(ids.map(async (id) => (await snapshot(id))?.market_listing_id))).toEqual(before);
});

test('beside a running pipeline the poller finds nothing that is ready', async () => {
  const id = await insertBooking(scene.database.pool);
  await scene.start();
  await scene.settle();
  await setQuantity(scene.database.pool, id, 2);
  await scene.settle();
  expect((await snapshot(id))?.status).toBe('published');
  expect(await pollReady(poller())).toBe(0);
});

test('I1: a snapshot that the poller inserts for a booking is noticed when the booking changes', async () => {
  await scene.start();
  await scene.settle();
  const id = await insertBooking(scene.database.pool, { status: 'completed' }); // Ended: the pipeline makes none.
  await insertOldSnapshot(scene.database.pool, id);
  await query(scene.database.pool, `update storage_bookings set booking_status = 'active' where id = $1`, [
    id,
  ]);
  await scene.settle();
  await scene.expectConverged([id]);
});

test("a listing that the poller wrote over stays the poller's until its booking changes, then it is ours again", async () => {
  const id = await insertBooking(scene.database.pool, { quantityKg: 1 });
  await scene.start();
  await scene.settle();
  const listingId = String((await scene.listing(id))?._id);

  await pollPublished(poller());
  expect(await scene.listing(id)).toHaveProperty('written_by');
  await scene.settle();
  expect(await scene.listing(id)).not.toHaveProperty('revision');

  await setQuantity(scene.database.pool, id, 2);
  await scene.settle();
  const listing = await scene.listing(id);
  expect(listing).toMatchObject({ quantity_kg: 2, status: 'published' });
  expect(String(listing?._id)).toBe(listingId);
});

test('a slow poller that writes an old state beside changes loses to the next change', async () => {
  const id = await insertBooking(scene.database.pool, { quantityKg: 1 });
  await scene.start();
  await scene.settle();
  const old = {
    booking_id: id,
    crop_type: 'Tomato',
    quantity_kg: 1,
    market_listing_id: (await snapshot(id))?.market_listing_id ?? null,
  };
  for (let quantity = 2; quantity <= 20; quantity += 1) {
    await setQuantity(scene.database.pool, id, quantity);
    await writeOldListing(scene.market.market, old);
  }
  await setQuantity(scene.database.pool, id, 21);
  await scene.settle();
  expect(await scene.listing(id)).toMatchObject({ quantity_kg: 21 });
});

test('a second listing of one booking is refused to the poller by the unique index', async () => {
  const id = await insertBooking(scene.database.pool);
  await scene.start();
  await scene.settle();
  const row = {
    booking_id: id,
    crop_type: 'Tomato',
    quantity_kg: 1,
    market_listing_id: new ObjectId().toHexString(),
  };
  await expect(writeOldListing(scene.market.market, row)).rejects.toMatchObject({ code: 11000 });
});

test('what the poller wrote over and no change has mended, a cut of history mends: listings and snapshots', async () => {
  const id = await insertBooking(scene.database.pool, { quantityKg: 5 });
  await scene.start();
  await scene.settle();
  await pollPublished(poller());
  await query(
    scene.database.pool,
    `update market_inventory_snapshots set freshness = 'rotten' where booking_id = $1`,
    [id],
  );

  await query(scene.database.pool, `select market_sync.cut_history('the old system is off')`);
  await scene.settle();
  await scene.expectConverged();
});

test('after the shadow, a cut of history fills the collection that buyers read, and adopts what is in it', async () => {
  const shadow = await createMarket();
  try {
    const [known, fresh] = [
      await insertBooking(scene.database.pool),
      await insertBooking(scene.database.pool),
    ];
    await insertOldSnapshot(scene.database.pool, known);
    await pollReady(poller());
    const knownId = String((await scene.listing(known))?._id);

    await scene.start({ market: shadow.market });
    await scene.settle();
    expect(await shadow.market.listings.countDocuments({})).toBe(2);
    expect(await scene.listing(fresh)).toBeUndefined();
    expect(await scene.listing(known)).toHaveProperty('written_by');

    await scene.stopPipelines();
    await scene.start();
    await query(scene.database.pool, `select market_sync.cut_history('cut over')`);
    await scene.settle();
    await scene.expectConverged();
    expect(String((await scene.listing(known))?._id)).toBe(knownId);
  } finally {
    await shadow.drop();
  }
});

test('I3: a snapshot of a live booking that the poller deletes comes back above what its listing has, and that follows', async () => {
  const id = await insertBooking(scene.database.pool, { quantityKg: 1 });
  await scene.start();
  await scene.settle();
  for (const quantity of [2, 3]) {
    await setQuantity(scene.database.pool, id, quantity);
    await scene.settle();
  }
  const before = await scene.listing(id);
  await query(scene.database.pool, 'delete from market_inventory_snapshots where booking_id = $1', [id]);
  await setQuantity(scene.database.pool, id, 4);
  await scene.settle();
  await scene.expectConverged([id]);
  const after = await scene.listing(id);
  expect(after).toMatchObject({ quantity_kg: 4, epoch: 1, revision: Number(before?.revision) + 1 });
  expect(String(after?._id)).toBe(String(before?._id));
  expect((await snapshot(id))?.market_listing_id).toBe(String(before?._id));
  const [checkpoint] = await query<{ epoch: number }>(
    scene.database.pool,
    'select epoch from market_sync.checkpoint',
  );
  expect(checkpoint?.epoch).toBe(1);
});
