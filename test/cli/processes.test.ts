import { afterAll, beforeAll, expect, test } from 'vitest';
import { query } from '../../src/postgres.ts';
import { createMarket, type TestMarket, until } from '../support/pipeline.ts';
import { createDatabase, type TestDatabase } from '../support/postgres.ts';
import { runProgram, startProgram } from './program.ts';

let database: TestDatabase;
let market: TestMarket;
beforeAll(async () => {
  [database, market] = await Promise.all([createDatabase(), createMarket()]);
});
afterAll(async () => {
  await market.drop();
  await database.drop();
});

const settings = (): NodeJS.ProcessEnv => ({
  DATABASE_URL: database.url,
  MONGODB_URL: market.url,
  MONGODB_DATABASE: market.database,
  SLOT_NAME: `slot_${database.name}`,
  LOG_LEVEL: 'warn',
  PORT: '0',
});

const STOP_LIMIT_MS = 10_000;

test('migrate, pipeline and api as processes of their own carry a change from SQL to the API and to MongoDB', async () => {
  const first = await runProgram(['migrate'], settings());
  expect(first).toMatchObject({
    code: 0,
    stdout: expect.stringMatching(/^applied 001_create_snapshots\.sql, .*\n$/),
  });
  expect(await runProgram(['migrate'], settings())).toEqual({
    code: 0,
    stdout: 'nothing to do\n',
    stderr: '',
  });

  const pipeline = startProgram(['pipeline'], settings());
  const api = startProgram(['api'], settings());
  const [, url] = await api.printed(/^API +(http:\S+)$/m);
  await pipeline.printed(/^pipeline running$/m);

  const [booking] = await query<{ id: string }>(
    database.pool,
    `insert into storage_bookings (farmer_id, crop_type, quantity_kg, booking_status)
     values (gen_random_uuid(), 'Millet', 100, 'active') returning id`,
  );
  const id = booking?.id ?? '';
  const served = async () => {
    const response = await fetch(`${url}/storage-guard/snapshots/${id}`);
    const body = (await response.json()) as { snapshot?: { quantity_kg: number; status: string } };
    return { status: response.status, ...body };
  };
  const listed = () => market.market.listings.findOne({ booking_id: id });
  await until('the listing is there', async () => (await listed())?.quantity_kg === 100);

  await query(database.pool, 'update storage_bookings set quantity_kg = 250 where id = $1', [id]);
  await until('the change is in MongoDB', async () => (await listed())?.quantity_kg === 250);
  await until(
    'the API says that it is published',
    async () => (await served()).snapshot?.status === 'published',
  );
  expect(await served()).toMatchObject({
    status: 200,
    success: true,
    snapshot: { booking_id: id, quantity_kg: 250 },
  });

  const status = await runProgram(['status', '--json'], { DATABASE_URL: database.url });
  expect(status).toMatchObject({ code: 0, stderr: '' });
  expect(JSON.parse(status.stdout)).toMatchObject({
    consumer: { state: 'active' },
    slot: { name: `slot_${database.name}`, active: true },
    snapshots: { total: 1, to_publish: 0, parked: 0 },
  });
  expect((await runProgram(['status'], { DATABASE_URL: database.url })).stdout).toMatch(
    /^consumer +active.*\nslot +slot_/,
  );

  for (const { code, durationMs } of await Promise.all([pipeline.end('SIGTERM'), api.end('SIGTERM')])) {
    expect(code).toBe(0);
    expect(durationMs).toBeLessThan(STOP_LIMIT_MS);
  }
  expect(pipeline.stderr() + api.stderr()).toBe('');
  // The consumer has given its place back: whoever comes next need not wait for its lease.
  expect(await query(database.pool, 'select holder from market_sync.checkpoint')).toEqual([{ holder: null }]);
});
