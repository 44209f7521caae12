import { afterAll, beforeAll, beforeEach, expect, test } from 'vitest';
import { createApi } from '../../src/api/app.ts';
import { connectMarket, type Market } from '../../src/mongo.ts';
import { createPool } from '../../src/postgres.ts';
import { findSnapshot } from '../../src/store/snapshots.ts';
import { testLog, until } from '../support/pipeline.ts';
import { type FaultProxy, startProxy } from '../support/proxy.ts';
import { apiContext, createTestApi, expectProblem, insertSnapshot, type TestApi } from './setup.ts';

/** An API that reaches PostgreSQL and the market through proxies, which fail when told to. */
let direct: TestApi;
let app: TestApi['app'];
let pool: ReturnType<typeof createPool>;
let market: Market;
let postgresProxy: FaultProxy;
let marketProxy: FaultProxy;

beforeAll(async () => {
  direct = await createTestApi();
  postgresProxy = await startProxy(direct.database.url);
  pool = createPool({
    url: postgresProxy.url,
    applicationName: 'test api',
    sourceSchema: 'public',
    log: testLog(),
  });
  marketProxy = await startProxy(direct.market.url);
  market = await connectMarket({
    url: marketProxy.url,
    database: direct.market.database,
    timeoutMs: 10_000,
  });
  app = createApi(apiContext({ pool, market }));
});
afterAll(async () => {
  await market.close();
  await pool.end();
  await postgresProxy.stop();
  await marketProxy.stop();
  await direct.drop();
});

let bookingId: string;
beforeEach(async () => {
  bookingId = (await insertSnapshot(direct.database.pool)).bookingId;
});

const BASE = '/storage-guard/snapshots';
const post = (path: string) => app.request(`${BASE}/${path}`, { method: 'POST' });

test('while PostgreSQL refuses connections every route is 503 with Retry-After, and works when it is back', async () => {
  expect((await app.request(BASE)).status).toBe(200);
  await postgresProxy.refuse();
  for (const response of [
    await app.request(BASE),
    await app.request(`${BASE}/${bookingId}`),
    await post(`${bookingId}/publish`),
    await post(`${bookingId}/reconcile`),
    await post('sync-all'),
  ]) {
    expect(response.headers.get('retry-after')).toBe('2');
    const problem = await expectProblem(response, 'database_unavailable');
    expect(JSON.stringify(problem)).not.toMatch(/ECONN|127\.0\.0\.1/);
  }
  await postgresProxy.heal();
  expect((await app.request(`${BASE}/${bookingId}`)).status).toBe(200);
});

test('a database that is being dropped or shut down under a request is 503, not 500', async () => {
  const holder = await direct.database.pool.connect();
  await holder.query('begin; lock table market_inventory_snapshots in access exclusive mode');
  const waiting = app.request(`${BASE}/${bookingId}`);
  const blocked = `select pid from pg_stat_activity where application_name = 'test api' and wait_event_type = 'Lock'`;
  await until('the request waits', async () => (await direct.database.pool.query(blocked)).rows.length > 0);
  await direct.database.pool.query(`select pg_terminate_backend(pid) from (${blocked}) waiting`);
  await expectProblem(await waiting, 'database_unavailable');
  await holder.query('rollback');
  holder.release();
});

test.each(['hang', 'refuse'] as const)(
  'while MongoDB is away (%s), publish and sync-all are 503 within a second, and the snapshot stays as it was',
  async (failure) => {
    expect((await post(`${bookingId}/publish`)).status).toBe(200);
    const other = await insertSnapshot(direct.database.pool);
    await marketProxy[failure]();
    const tookMs: number[] = [];
    for (const path of [`${bookingId}/publish`, `${other.bookingId}/publish`, 'sync-all']) {
      const startedAt = performance.now();
      const response = await post(path);
      tookMs.push(performance.now() - startedAt);
      expect(response.headers.get('retry-after')).toBe('2');
      await expectProblem(response, 'market_unavailable');
    }
    expect(Math.min(...tookMs)).toBeLessThan(1_000); // the fastest, for the sake of busy machines
    expect((await findSnapshot(direct.database.pool, bookingId))?.status).toBe('published');
    expect((await findSnapshot(direct.database.pool, other.bookingId))?.status).toBe('ready_to_publish');
    // Reading and reconciling need no MongoDB.
    expect((await app.request(`${BASE}/${bookingId}`)).status).toBe(200);
    expect((await post(`${bookingId}/reconcile`)).status).toBe(200);
    await marketProxy.heal();
    await until(
      'publish works again',
      async () => (await post(`${other.bookingId}/publish`)).status === 200,
      15_000,
    );
  },
);

test('readyz answers within two seconds whatever hangs, and says what', async () => {
  const checks = async () => {
    const startedAt = performance.now();
    const response = await app.request('/readyz');
    expect(performance.now() - startedAt).toBeLessThan(2_000);
    expect(response.status).toBe(503);
    return (await response.json()) as {
      status: string;
      checks: Record<string, { ok: boolean; detail: string }>;
    };
  };
  expect((await checks()).checks).toMatchObject({ postgres: { ok: true }, mongodb: { ok: true } });
  marketProxy.hang();
  expect((await checks()).checks).toMatchObject({ postgres: { ok: true }, mongodb: { ok: false } });
  postgresProxy.hang();
  const both = await checks();
  expect(both.checks).toMatchObject({
    postgres: { ok: false },
    mongodb: { ok: false },
    consumer: { ok: false },
  });
  expect(both.checks.postgres?.detail).toBe('does not answer within 700 ms');
  expect((await app.request('/healthz')).status).toBe(200);
  await Promise.all([marketProxy.heal(), postgresProxy.heal()]);
  await until('both answer', async () => {
    const { postgres, mongodb } = (await checks()).checks;
    return postgres?.ok === true && mongodb?.ok === true;
  });
});
