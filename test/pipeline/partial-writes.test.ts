import { afterAll, beforeAll, expect, test } from 'vitest';
import { query } from '../../src/postgres.ts';
import { claimListings, releaseClaims } from '../../src/store/outbox.ts';
import { publishBatch, publishBookings, publishContext } from '../../src/store/publish.ts';
import { reconcileBookings } from '../../src/store/reconcile.ts';
import {
  insertBooking,
  insertCertificate,
  insertDetection,
  insertInspection,
  insertLocation,
  insertReading,
  insertSensor,
  insertVendor,
  setQuantity,
} from '../support/application.ts';
import { testLog } from '../support/pipeline.ts';
import { createScene, type Scene } from '../support/scene.ts';

// A reading writes its listings' sensors and nothing else; whatever else changed, or may have, writes all of it.

let scene: Scene;

beforeAll(async () => {
  scene = await createScene({ settings: { PUBLISH_INTERVAL_MS: '0' } });
});

afterAll(() => scene?.stop());

interface Farm {
  bookingId: string;
  locationId: string;
  vendorId: string;
  sensorId: string;
}

const pool = () => scene.database.pool;

async function recompute(bookingId: string): Promise<void> {
  await reconcileBookings(pool(), { bookingIds: [bookingId], now: undefined });
}

const context = () =>
  publishContext({
    config: scene.config,
    pool: pool(),
    market: scene.market.market,
    log: testLog(),
    random: Math.random,
    role: 'api',
  });

/** A booking with something in every part, published. */
async function plant(): Promise<Farm> {
  const [locationId, vendorId] = [await insertLocation(pool()), await insertVendor(pool())];
  const sensorId = await insertSensor(pool(), locationId);
  await insertReading(pool(), sensorId, 20);
  await insertDetection(pool(), locationId);
  await insertCertificate(pool(), vendorId, '2100-01-01');
  const inspectionId = await insertInspection(pool());
  const bookingId = await insertBooking(pool(), { locationId, vendorId, inspectionId });
  await recompute(bookingId);
  await publishBookings(context(), [bookingId]);
  await scene.expectConverged([bookingId]);
  return { bookingId, locationId, vendorId, sensorId };
}

/** What a claim of what is due says of the booking's listing; the claim is given back. */
async function claimed(bookingId: string): Promise<{ revision: number; base: number | null }> {
  const claims = await claimListings(pool(), { publisher: 't', leaseSeconds: 60, limit: 1000 });
  await releaseClaims(pool(), { publisher: 't' });
  const claim = claims.find((entry) => entry.booking_id === bookingId);
  if (claim === undefined) throw new Error('not claimed');
  if (claim.base_revision === null) expect(Object.keys(claim)).toContain('sensors');
  return { revision: claim.revision, base: claim.base_revision };
}

test('a reading needs the sensors only, also a second one before the first is written', async () => {
  const { bookingId, sensorId } = await plant();
  await insertReading(pool(), sensorId, 21);
  await recompute(bookingId);
  expect(await claimed(bookingId)).toEqual({ revision: 2, base: 1 });
  await insertReading(pool(), sensorId, 22);
  await recompute(bookingId);
  expect(await claimed(bookingId)).toEqual({ revision: 3, base: 1 });
});

test.for<[string, (farm: Farm) => Promise<unknown>]>([
  ['the booking', ({ bookingId }) => setQuantity(pool(), bookingId, 77)],
  ['a detection', ({ locationId }) => insertDetection(pool(), locationId)],
  [
    'a detection that is resolved',
    ({ locationId }) =>
      pool().query('update pest_detections set resolved_at = now() where location_id = $1', [locationId]),
  ],
  ['a certificate', ({ vendorId }) => insertCertificate(pool(), vendorId, '2099-01-01')],
  [
    'the certificate of the booking',
    ({ bookingId }) =>
      pool().query(
        `insert into storage_certificates (booking_id, certificate_number, certificate_status) values ($1::uuid, 'S-' || $1::uuid, 'issued')`,
        [bookingId],
      ),
  ],
  [
    'the inspection',
    ({ bookingId }) =>
      pool().query(
        `update crop_inspections set freshness_score = 3 where id = (select ai_inspection_id from storage_bookings where id = $1)`,
        [bookingId],
      ),
  ],
  [
    'a note',
    ({ bookingId }) =>
      pool().query(`select market_sync.set_override($1, '{"special_notes": "dry"}', 'why')`, [bookingId]),
  ],
  ['a hold', ({ bookingId }) => pool().query(`select market_sync.hold(array[$1::uuid], 'why')`, [bookingId])],
  [
    'the hash, which somebody took away,',
    ({ bookingId }) =>
      pool().query('update market_inventory_snapshots set parts_hash = null where booking_id = $1', [
        bookingId,
      ]),
  ],
  ['the epoch', () => pool().query(`select market_sync.cut_history('test')`)],
])(
  '%s needs all of it, and goes on doing so when a reading comes before it is written',
  async ([, change]) => {
    const farm = await plant();
    const { bookingId, sensorId } = farm;
    await change(farm);
    await recompute(bookingId);
    const { revision, base } = await claimed(bookingId);
    expect(base).toBeNull();
    await insertReading(pool(), sensorId, 21);
    await recompute(bookingId);
    expect(await claimed(bookingId)).toEqual({ revision: revision + 1, base: null });
    await publishBookings(context(), [bookingId]);
    await insertReading(pool(), sensorId, 22);
    await recompute(bookingId);
    expect(await claimed(bookingId)).toEqual({ revision: revision + 2, base: revision + 1 });
  },
);

test.for(['hold', 'withdraw'])(
  'I8: %s of a booking that cannot be recomputed reaches its listing',
  async (action) => {
    const { bookingId } = await plant();
    await pool().query(
      `create or replace function refuse_poison() returns trigger language plpgsql as $$
     begin
       if new.quantity_kg = 666 then raise exception 'no such quantity' using errcode = '22003'; end if;
       return new;
     end $$`,
    );
    await pool().query(
      'create trigger refuse_poison before update on market_inventory_snapshots for each row execute function refuse_poison()',
    );
    try {
      await setQuantity(pool(), bookingId, 666);
      await pool().query(`select market_sync.${action}(array[$1::uuid], 'why')`, [bookingId]);
      expect((await claimed(bookingId)).base).toBeNull();
      await publishBatch(context(), { limit: 1_000 });
      expect((await scene.listing(bookingId))?.status).toBe(action === 'hold' ? 'held' : 'withdrawn');
    } finally {
      await pool().query('drop trigger refuse_poison on market_inventory_snapshots');
    }
  },
);

test('of a snapshot from before it was known what changed, all of it is written', async () => {
  const { bookingId, sensorId } = await plant();
  await pool().query(
    'update market_sync.snapshot_state set rest_hash = null, rest_revision = null where booking_id = $1',
    [bookingId],
  );
  await insertReading(pool(), sensorId, 21);
  await recompute(bookingId);
  expect(await claimed(bookingId)).toEqual({ revision: 2, base: null });
});

test('whoever publishes a booking by name has all of it written', async () => {
  const { bookingId, sensorId } = await plant();
  await insertReading(pool(), sensorId, 21);
  await recompute(bookingId);
  await scene.market.market.listings.updateOne({ booking_id: bookingId }, { $set: { crop_type: 'edited' } });
  await publishBookings(context(), [bookingId]);
  await scene.expectConverged([bookingId]);
});

test.for<[string, (farm: Farm) => Promise<unknown>]>([
  [
    'was put back to an older version',
    ({ bookingId }) =>
      scene.market.market.listings.updateOne(
        { booking_id: bookingId },
        { $set: { revision: 0, crop_type: 'old' } },
      ),
  ],
  ['was deleted', ({ bookingId }) => scene.market.market.listings.deleteOne({ booking_id: bookingId })],
  [
    'has another id',
    async ({ bookingId }) => {
      const { listings } = scene.market.market;
      const found = await listings.findOne({ booking_id: bookingId });
      await listings.deleteOne({ booking_id: bookingId });
      const { _id, ...fields } = found as NonNullable<typeof found>;
      await listings.insertOne(fields as never);
    },
  ],
])('a listing that %s is written whole when a reading comes', async ([, change]) => {
  const farm = await plant();
  await change(farm);
  await scene.start();
  await insertReading(pool(), farm.sensorId, 21);
  await scene.settle();
  await scene.expectConverged([farm.bookingId]);
  await scene.stopPipelines();
});

test('row 26: a reading leaves a field alone that somebody edited in MongoDB, and the next change of the booking puts it right', async () => {
  const { bookingId, sensorId } = await plant();
  await scene.start();
  await scene.settle();
  await scene.market.market.listings.updateOne({ booking_id: bookingId }, { $set: { crop_type: 'edited' } });
  await insertReading(pool(), sensorId, 21);
  await scene.settle();
  expect(await scene.listing(bookingId)).toMatchObject({
    crop_type: 'edited',
    sensors: { temperature: { value: 21 } },
  });
  await setQuantity(pool(), bookingId, 9);
  await scene.settle();
  await scene.expectConverged([bookingId]);
  const rows = await query(pool(), 'select last_error from market_sync.snapshot_state where attempts > 0');
  expect(rows).toEqual([]);
});
