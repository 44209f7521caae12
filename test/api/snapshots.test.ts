import { afterAll, beforeAll, expect, test } from 'vitest';
import { z } from 'zod';
import { snapshotSchema } from '../../src/api/snapshot-resource.ts';
import { query } from '../../src/postgres.ts';
import {
  createTestApi,
  expectProblem,
  giveListingId,
  insertBooking,
  insertSnapshot,
  setBookingStatus,
  type TestApi,
} from './setup.ts';

let api: TestApi;
beforeAll(async () => {
  api = await createTestApi();
});
afterAll(() => api.drop());

const UNKNOWN = '00000000-0000-4000-8000-000000000000';
const BASE = '/storage-guard/snapshots';
const post = (path: string) => api.app.request(`${BASE}/${path}`, { method: 'POST' });
const strictSnapshot = z.strictObject(snapshotSchema.shape);
const snapshotAnswer = z.strictObject({ success: z.literal(true), snapshot: strictSnapshot });
const reconcileAnswer = snapshotAnswer.extend({ message: z.string(), changed: z.boolean() });
const publishAnswer = z.strictObject({
  success: z.literal(true),
  message: z.string(),
  listing_id: z.string().regex(/^[0-9a-f]{24}$/),
});

const findListing = (bookingId: string) => api.market.market.listings.findOne({ booking_id: bookingId });

test('a snapshot is answered with its documented columns: ISO times, numbers, infinity as null, no internal hashes', async () => {
  const { bookingId } = await insertSnapshot(api.database.pool);
  const response = await api.app.request(`${BASE}/${bookingId.toUpperCase()}`);
  expect(response.status).toBe(200);
  const { snapshot } = snapshotAnswer.parse(await response.json());
  expect(snapshot).toMatchObject({
    booking_id: bookingId,
    end_date: null,
    quality_score: 87.5,
    quantity_kg: 1200,
    status: 'ready_to_publish',
    market_listing_id: null,
    published_at: null,
    is_certified: true,
    certification_types: ['HACCP', 'storage_certificate'],
    has_pest_alerts: true,
    revision: 1,
  });
  expect(snapshot.sensors.temperature?.value).toBe(4.2);
  expect(snapshot.created_at).toMatch(/^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z$/);
});

test('a row taken over from the system before, with nulls everywhere, is answered with the defaults of missing data', async () => {
  await query(
    api.database.pool,
    `insert into market_inventory_snapshots (booking_id, farmer_id, crop_type, quantity_kg, quality_score)
     values ('11111111-1111-0000-0000-111111111111', gen_random_uuid(), 'Onion', 1, 'NaN')`,
  );
  const response = await api.app.request(`${BASE}/11111111-1111-0000-0000-111111111111`);
  const { snapshot } = snapshotAnswer.parse(await response.json());
  expect(snapshot).toMatchObject({ sensors: {}, pest_events: [], freshness: 'unknown', quality_score: null });
  const published = await post('11111111-1111-0000-0000-111111111111/publish');
  await expectProblem(published, 'not_computed');
});

test('an unknown booking is 404 to read, to publish and to reconcile', async () => {
  await expectProblem(await api.app.request(`${BASE}/${UNKNOWN}`), 'not_found');
  await expectProblem(await post(`${UNKNOWN}/publish`), 'not_found');
  await expectProblem(await post(`${UNKNOWN}/reconcile`), 'not_found');
});

test('publish answers with the result: the listing is in MongoDB and the snapshot says so', async () => {
  const { bookingId } = await insertSnapshot(api.database.pool);
  const response = await post(`${bookingId}/publish`);
  expect(response.status).toBe(200);
  const answer = publishAnswer.parse(await response.json());
  expect((await findListing(bookingId))?._id.toHexString()).toBe(answer.listing_id);
  const read = snapshotAnswer.parse(await (await api.app.request(`${BASE}/${bookingId}`)).json());
  expect(read.snapshot).toMatchObject({ status: 'published', market_listing_id: answer.listing_id });
  expect(read.snapshot.published_at).not.toBeNull();
});

test('a snapshot that another publisher has in work is 503, with what becomes of it', async () => {
  const { bookingId } = await insertSnapshot(api.database.pool);
  await query(
    api.database.pool,
    `update market_sync.snapshot_state set claimed_by = 'another', lease_until = clock_timestamp() + interval '1 hour'
     where booking_id = $1`,
    [bookingId],
  );
  const refused = await post(`${bookingId}/publish`);
  expect(refused.headers.get('retry-after')).toBe('2');
  await expectProblem(refused, 'publisher_busy');
});

test('publishing again restores a listing that was deleted by hand, under the same id', async () => {
  const { bookingId } = await insertSnapshot(api.database.pool);
  const first = publishAnswer.parse(await (await post(`${bookingId}/publish`)).json());
  await api.market.market.listings.deleteOne({ booking_id: bookingId });
  const second = publishAnswer.parse(await (await post(`${bookingId}/publish`)).json());
  expect(second.listing_id).toBe(first.listing_id);
  expect(await findListing(bookingId)).not.toBeNull();
});

test('twenty publishes of one booking at once make one listing, and all answer its id', async () => {
  const { bookingId } = await insertSnapshot(api.database.pool);
  const answers = await Promise.all(
    Array.from({ length: 20 }, async () =>
      publishAnswer.parse(await (await post(`${bookingId}/publish`)).json()),
    ),
  );
  expect(new Set(answers.map((answer) => answer.listing_id)).size).toBe(1);
  expect(await api.market.market.listings.countDocuments({ booking_id: bookingId })).toBe(1);
});

test.each([
  ['cancelled', 'withdrawn'],
  ['completed', 'completed'],
])('a booking that is %s cannot be published: 400, and nothing is written', async (status, word) => {
  const { bookingId } = await insertSnapshot(api.database.pool);
  await setBookingStatus(api.database.pool, bookingId, status);
  const problem = await expectProblem(await post(`${bookingId}/publish`), 'not_publishable');
  expect(problem.detail).toContain(word);
  expect(await findListing(bookingId)).toBeNull();
});

test('a booking without a snapshot is 404 to publish, and the answer says what to do', async () => {
  const { bookingId } = await insertBooking(api.database.pool);
  const problem = await expectProblem(await post(`${bookingId}/publish`), 'not_found');
  expect(problem.detail).toContain('Reconcile');
});

test('a listing that MongoDB can never take is 422 with the error, then parked, and others are not held up', async () => {
  const [taken, other] = [await insertSnapshot(api.database.pool), await insertSnapshot(api.database.pool)];
  const { listing_id } = publishAnswer.parse(await (await post(`${taken.bookingId}/publish`)).json());
  const { bookingId } = await insertSnapshot(api.database.pool);
  await giveListingId(api.database.pool, bookingId, listing_id);
  const first = await expectProblem(await post(`${bookingId}/publish`), 'not_processable');
  expect(first.detail).toMatch(/belongs to another booking.*tried again/);
  const second = await expectProblem(await post(`${bookingId}/publish`), 'not_processable');
  expect(second.detail).toContain('parked');
  expect((await post(`${other.bookingId}/publish`)).status).toBe(200);
});

test('reconcile creates the snapshot of a live booking, then says whether anything changed', async () => {
  const { bookingId } = await insertBooking(api.database.pool);
  const first = await post(`${bookingId}/reconcile`);
  expect(first.status).toBe(200);
  expect(reconcileAnswer.parse(await first.json())).toMatchObject({
    changed: true,
    snapshot: { revision: 1 },
  });
  const second = reconcileAnswer.parse(await (await post(`${bookingId}/reconcile`)).json());
  expect(second).toMatchObject({ changed: false, snapshot: { revision: 1 } });
  await query(api.database.pool, `update storage_bookings set grade = 'B' where id = $1`, [bookingId]);
  const third = reconcileAnswer.parse(await (await post(`${bookingId}/reconcile`)).json());
  expect(third).toMatchObject({ changed: true, snapshot: { revision: 2, grade: 'B' } });
});

test('reconcile of an ended booking without a snapshot is 404 and makes none', async () => {
  const { bookingId } = await insertBooking(api.database.pool);
  await query(api.database.pool, `update storage_bookings set booking_status = 'completed' where id = $1`, [
    bookingId,
  ]);
  await expectProblem(await post(`${bookingId}/reconcile`), 'not_found');
  await expectProblem(await api.app.request(`${BASE}/${bookingId}`), 'not_found');
});

test('reconcile of a deleted booking withdraws its snapshot', async () => {
  const { bookingId } = await insertSnapshot(api.database.pool);
  await query(api.database.pool, 'delete from storage_bookings where id = $1', [bookingId]);
  const answer = reconcileAnswer.parse(await (await post(`${bookingId}/reconcile`)).json());
  expect(answer).toMatchObject({ changed: true, snapshot: { status: 'withdrawn' } });
});

test('a booking whose data cannot be processed is 422 to reconcile, with the error', async () => {
  const { bookingId } = await insertBooking(api.database.pool);
  await query(
    api.database.pool,
    'alter table market_inventory_snapshots add constraint small check (quantity_kg < 5000)',
  );
  await query(api.database.pool, 'update storage_bookings set quantity_kg = 5000 where id = $1', [bookingId]);
  const problem = await expectProblem(await post(`${bookingId}/reconcile`), 'not_processable');
  expect(problem.detail).toContain('23514');
});

test('manual publish and reconcile answer within a second', async () => {
  const { bookingId } = await insertSnapshot(api.database.pool);
  for (const action of ['publish', 'reconcile']) {
    const startedAt = performance.now();
    expect((await post(`${bookingId}/${action}`)).status).toBe(200);
    expect(performance.now() - startedAt).toBeLessThan(1_000);
  }
});
