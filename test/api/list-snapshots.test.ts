import { afterAll, beforeAll, expect, test } from 'vitest';
import { z } from 'zod';
import { snapshotSchema } from '../../src/api/snapshot-resource.ts';
import { query } from '../../src/postgres.ts';
import { type Booked, createTestApi, expectProblem, insertSnapshot, type TestApi } from './setup.ts';

let api: TestApi;
const booked: Booked[] = [];
beforeAll(async () => {
  api = await createTestApi();
  for (const cropType of ['Tomato', 'Onion', 'Onion', 'Rice', 'Rice']) {
    booked.push(await insertSnapshot(api.database.pool, { cropType }));
  }
});
afterAll(() => api.drop());

const pageSchema = z.strictObject({
  success: z.literal(true),
  snapshots: z.array(z.strictObject(snapshotSchema.shape)),
  next_cursor: z.string().nullable(),
});

const get = (search: string) => api.app.request(`/storage-guard/snapshots${search}`);

async function list(search: string): Promise<{ ids: string[]; next: string | null }> {
  const response = await get(search);
  expect(response.status).toBe(200);
  const page = pageSchema.parse(await response.json());
  return { ids: page.snapshots.map((snapshot) => snapshot.booking_id), next: page.next_cursor };
}

const ids = (...positions: number[]) => positions.map((position) => booked[position]?.bookingId);

test('all snapshots come, newest first', async () => {
  expect(await list('')).toEqual({ ids: ids(4, 3, 2, 1, 0), next: null });
});

test('every filter narrows, and filters combine', async () => {
  expect((await list('?crop_type=Onion')).ids).toEqual(ids(2, 1));
  expect((await list(`?farmer_id=${booked[3]?.farmerId}`)).ids).toEqual(ids(3));
  expect((await list(`?location_id=${booked[1]?.locationId}&crop_type=Onion`)).ids).toEqual(ids(1));
  expect((await list(`?location_id=${booked[1]?.locationId}&crop_type=Rice`)).ids).toEqual([]);
  expect((await list('?status=ready_to_publish')).ids).toHaveLength(5);
  expect((await list('?status=withdrawn')).ids).toEqual([]);
});

test('pages join without a gap or a repetition, also for snapshots of the same microsecond', async () => {
  await query(
    api.database.pool,
    `update market_inventory_snapshots set created_at = '2026-01-02 03:04:05.123456+00' where crop_type = 'Rice'`,
  );
  const all = (await list('')).ids;
  const pages: string[] = [];
  let cursor = '';
  for (let page = 0; page < 5; page += 1) {
    const { ids, next } = await list(`?limit=1${cursor}`);
    expect(ids).toHaveLength(1);
    pages.push(...ids);
    if (next === null) break;
    cursor = `&cursor=${next}`;
  }
  expect(pages).toEqual(all);
});

test('a snapshot that was added after the first page does not shift the second', async () => {
  const first = await list('?limit=2');
  const added = await insertSnapshot(api.database.pool, { cropType: 'Late' });
  const second = await list(`?limit=200&cursor=${first.next}`);
  expect(first.ids.concat(second.ids)).not.toContain(added.bookingId);
  expect(new Set([...first.ids, ...second.ids]).size).toBe(5);
});

test('a cursor survives infinite and ancient times', async () => {
  for (const time of ['-infinity', 'infinity', '0044-03-15 12:00:00 BC', '20000-01-01']) {
    await query(
      api.database.pool,
      `update market_inventory_snapshots set created_at = $1 where crop_type = 'Onion'`,
      [time],
    );
    const first = await list('?crop_type=Onion&limit=1');
    expect((await list(`?crop_type=Onion&limit=1&cursor=${first.next}`)).ids).toHaveLength(1);
  }
});

const madeByHand = (value: unknown) => Buffer.from(JSON.stringify(value)).toString('base64url');
const UUID = '00000000-0000-4000-8000-000000000000';
test.each([
  'x',
  '%00',
  'AAAA',
  '!!!!',
  madeByHand({ $ne: null }),
  madeByHand(['2026-01-01', UUID]),
  madeByHand(['2026-13-41 00:00:00+00', UUID]),
  madeByHand(['2026-01-01 00:00:00+00', 'x']),
  madeByHand(["' or 1=1", UUID]),
  `${madeByHand(['infinity', UUID])}=`,
  'a'.repeat(201),
])('the cursor %s is 400', async (cursor) => {
  const problem = await expectProblem(await get(`?cursor=${cursor}`), 'malformed_request');
  expect(problem.errors?.[0]).toMatchObject({ in: 'query', name: 'cursor' });
});

test.each([
  ['?limit=0', 'limit'],
  ['?limit=201', 'limit'],
  ['?limit=-1', 'limit'],
  ['?limit=1e1', 'limit'],
  ['?limit=', 'limit'],
  ['?limit=1&limit=2', 'limit'],
  ['?status=gone', 'status'],
  ['?farmer_id=1', 'farmer_id'],
  ['?location_id[$ne]=x', 'location_id[$ne]'],
  ['?crop_type=', 'crop_type'],
  ['?crop_type=a%00b', 'crop_type'],
  [`?crop_type=${'x'.repeat(121)}`, 'crop_type'],
  ['?__proto__=1', '__proto__'],
  ['?color=red', 'color'],
])('the query %s is 400 and names %s', async (search, name) => {
  const problem = await expectProblem(await get(search), 'malformed_request');
  expect(problem.errors?.map((error) => error.name)).toContain(name);
});
