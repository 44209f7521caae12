import { afterAll, beforeAll, expect, test } from 'vitest';
import { z } from 'zod';
import { createApi } from '../../src/api/app.ts';
import { query } from '../../src/postgres.ts';
import { reconcileBookings } from '../../src/store/reconcile.ts';
import { createTestApi, giveListingId, insertSnapshot, setBookingStatus, type TestApi } from './setup.ts';

let api: TestApi;
beforeAll(async () => {
  api = await createTestApi();
});
afterAll(() => api.drop());

const reportSchema = z.strictObject({
  success: z.literal(true),
  total: z.int(),
  published: z.int(),
  failed: z.int(),
  pending: z.int(),
  results: z.array(
    z.strictObject({
      booking_id: z.guid(),
      status: z.enum(['published', 'failed', 'parked']),
      listing_id: z.string().nullable(),
      error: z.string().optional(),
    }),
  ),
});

async function syncAll(app = api.app): Promise<z.infer<typeof reportSchema>> {
  const response = await app.request('/storage-guard/snapshots/sync-all', { method: 'POST' });
  expect(response.status).toBe(200);
  return reportSchema.parse(await response.json());
}

/** Snapshots of bookings that have nothing but themselves. */
async function insertMany(count: number): Promise<void> {
  const rows = await query<{ id: string }>(
    api.database.pool,
    `insert into storage_bookings (farmer_id, crop_type, quantity_kg, booking_status)
     select gen_random_uuid(), 'Rice', n, 'active' from generate_series(1, $1) n returning id`,
    [count],
  );
  await reconcileBookings(api.database.pool, { bookingIds: rows.map((row) => row.id), now: undefined });
}

test('with nothing to publish it answers zeroes, and nothing is audited', async () => {
  const audited = () => query(api.database.pool, 'select action from market_sync.manual_action');
  expect(await syncAll()).toEqual({
    success: true,
    total: 0,
    published: 0,
    failed: 0,
    pending: 0,
    results: [],
  });
  expect(await audited()).toEqual([]);
  await insertSnapshot(api.database.pool);
  await syncAll();
  expect(await audited()).toEqual([{ action: 'sync_all' }]);
});

test('it publishes what is unpublished, tombstones included, and nothing that is published', async () => {
  const { pool } = api.database;
  const [first, second, done] = [
    await insertSnapshot(pool),
    await insertSnapshot(pool),
    await insertSnapshot(pool),
  ];
  await api.app.request(`/storage-guard/snapshots/${done.bookingId}/publish`, { method: 'POST' });
  await setBookingStatus(pool, second.bookingId, 'cancelled');
  const report = await syncAll();
  expect(report).toMatchObject({ total: 2, published: 2, failed: 0, pending: 0 });
  expect(new Set(report.results.map((result) => result.booking_id))).toEqual(
    new Set([first.bookingId, second.bookingId]),
  );
  for (const { booking_id, listing_id } of report.results) {
    const listing = await api.market.market.listings.findOne({ booking_id });
    expect(listing?._id.toHexString()).toBe(listing_id);
    expect(listing?.status).toBe(booking_id === second.bookingId ? 'withdrawn' : 'published');
  }
  expect((await syncAll()).total).toBe(0);
});

test('one that can never be written is reported as failed, then as parked, then left alone; the others are published', async () => {
  const { pool } = api.database;
  await insertSnapshot(pool);
  const taken = (await syncAll()).results[0]?.listing_id ?? '';
  const { bookingId } = await insertSnapshot(pool);
  await insertSnapshot(pool);
  await giveListingId(pool, bookingId, taken);
  const first = await syncAll();
  expect(first).toMatchObject({ total: 2, published: 1, failed: 1 });
  const failed = first.results.find((result) => result.booking_id === bookingId);
  expect(failed).toMatchObject({ status: 'failed', listing_id: null });
  expect(failed?.error).toContain('belongs to another booking');
  expect((await syncAll()).results).toMatchObject([{ booking_id: bookingId, status: 'parked' }]);
  expect((await syncAll()).total).toBe(0);
});

test('more than one batch is published in one call', async () => {
  await insertMany(230);
  const report = await syncAll();
  expect(report).toMatchObject({ total: 230, published: 230, pending: 0 });
  expect(await api.market.market.listings.countDocuments({ crop_type: 'Rice' })).toBe(230);
});

test('when the server stops, it ends early and reports the rest as pending', async () => {
  await insertMany(3);
  const stopped = createApi(api.ctx, { stopping: AbortSignal.abort() });
  expect(await syncAll(stopped)).toMatchObject({ total: 3, published: 0, pending: 3, results: [] });
  expect(await syncAll()).toMatchObject({ total: 3, published: 3, pending: 0 });
});
