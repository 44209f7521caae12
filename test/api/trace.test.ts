import { afterAll, beforeAll, expect, test } from 'vitest';
import { createApi } from '../../src/api/app.ts';
import { connectMarket } from '../../src/mongo.ts';
import { query } from '../../src/postgres.ts';
import { publishBatch } from '../../src/store/publish.ts';
import { startProxy } from '../support/proxy.ts';
import {
  apiContext,
  createTestApi,
  expectProblem,
  insertBooking,
  insertSnapshot,
  type TestApi,
} from './setup.ts';

let api: TestApi;
beforeAll(async () => {
  api = await createTestApi();
});
afterAll(() => api.drop());

interface Trace {
  source: Record<string, unknown> & { booking: Record<string, unknown>; sensors: unknown[]; cut: string[] };
  snapshot: Record<string, unknown>;
  listing: Record<string, unknown> | null;
  market_error: string | null;
  state: Record<string, unknown>;
  override: unknown;
  manual_state: unknown;
}

async function trace(bookingId: string, app = api.app): Promise<Trace> {
  const response = await app.request(`/storage-guard/snapshots/${bookingId}/trace`);
  expect(response.status).toBe(200);
  return (await response.json()) as Trace;
}

test('a trace shows source rows, snapshot, listing, state and what people have decided, side by side', async () => {
  const { bookingId, locationId } = await insertSnapshot(api.database.pool);
  await publishBatch(api.ctx.publish, { limit: 10 });
  const put = await api.app.request(`/storage-guard/snapshots/${bookingId}/override`, {
    method: 'PUT',
    headers: { 'content-type': 'application/json' },
    body: JSON.stringify({ grade: 'C', reason: 'seen' }),
  });
  expect(put.status).toBe(200);
  const found = await trace(bookingId);
  expect(found.source).toMatchObject({
    booking: { id: bookingId, booking_status: 'active', grade: null, end_date: 'infinity' },
    location: { id: locationId, name: 'Hall 1' },
    inspection: { freshness: 'fresh', freshness_score: 87.5 },
    sensors: [{ sensor_type: 'temperature', newest_reading: { reading_value: 4.2 } }],
    pest_detections: [{ pest_type: 'weevil' }],
    certificates: [{ certificate_type: 'HACCP', expiry_date: 'infinity' }],
    storage_certificate: { certificate_number: `SC-${bookingId}` },
    cut: [],
  });
  expect(found).toMatchObject({
    snapshot: { booking_id: bookingId, grade: 'C', revision: 2 },
    listing: {
      booking_id: bookingId,
      grade: null,
      revision: 1,
      _id: expect.stringMatching(/^[0-9a-f]{24}$/),
    },
    market_error: null,
    state: { revision: 2, published_revision: 1, attempts: 0, parked_at: null },
    override: { grade: 'C', reason: 'seen', actor: 'local' },
    manual_state: null,
  });
});

test('what a trace shows is bounded: lists are cut and say so, long texts too', async () => {
  const { pool } = api.database;
  const { bookingId, locationId } = await insertSnapshot(pool);
  await query(
    pool,
    `insert into iot_sensors (location_id, sensor_type) select $1, 'gas' from generate_series(1, 60)`,
    [locationId],
  );
  await query(pool, `update storage_bookings set vendor_notes = repeat('x', 5000) where id = $1`, [
    bookingId,
  ]);
  const { source } = await trace(bookingId);
  expect([source.sensors.length, source.cut]).toEqual([50, ['sensors']]);
  expect(source.booking.vendor_notes).toBe(`${'x'.repeat(2_000)}…`);
});

test('a booking without a snapshot, a snapshot without a booking, and a listing without either can be traced', async () => {
  const { pool } = api.database;
  const bare = await insertBooking(pool);
  expect(await trace(bare.bookingId)).toMatchObject({ snapshot: null, listing: null, state: null });
  const orphan = await insertSnapshot(pool);
  await query(pool, 'delete from storage_bookings where id = $1', [orphan.bookingId]);
  expect(await trace(orphan.bookingId)).toMatchObject({ source: null, snapshot: { revision: 1 } });
  const ghost = '00000000-0000-4000-8000-000000000007';
  await api.market.market.listings.insertOne({ booking_id: ghost, revision: 3 } as never);
  expect(await trace(ghost)).toMatchObject({ source: null, snapshot: null, listing: { revision: 3 } });
  const unknown = '/storage-guard/snapshots/00000000-0000-4000-8000-000000000009/trace';
  await expectProblem(await api.app.request(unknown), 'not_found');
});

test('while MongoDB does not answer a trace says so within its time, and shows the rest', async () => {
  const { bookingId } = await insertSnapshot(api.database.pool);
  const proxy = await startProxy(api.market.url);
  const market = await connectMarket({ url: proxy.url, database: api.market.database, timeoutMs: 10_000 });
  try {
    const app = createApi(apiContext({ pool: api.database.pool, market }));
    proxy.hang();
    const askedAt = performance.now();
    expect(await trace(bookingId, app)).toMatchObject({
      listing: null,
      market_error: 'MongoDB does not answer within 2000 ms',
      snapshot: { booking_id: bookingId },
      source: { booking: { id: bookingId } },
    });
    expect(performance.now() - askedAt).toBeLessThan(5_000);
  } finally {
    await proxy.stop();
    await market.close();
  }
});
