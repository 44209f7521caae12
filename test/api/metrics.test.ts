import { afterAll, beforeAll, expect, test } from 'vitest';
import { createApi } from '../../src/api/app.ts';
import { createPool, query } from '../../src/postgres.ts';
import { acquireConsumer, countMalformed } from '../../src/store/checkpoint.ts';
import { requestResync } from '../../src/store/resync.ts';
import { testLog } from '../support/pipeline.ts';
import { startProxy } from '../support/proxy.ts';
import { apiContext, createTestApi, expectProblem, insertSnapshot, type TestApi } from './setup.ts';

let api: TestApi;
beforeAll(async () => {
  api = await createTestApi();
});
afterAll(() => api.drop());

/** Reads Prometheus' text format: every metric must have its help and its type. */
async function scrape(app = api.app): Promise<Map<string, number>> {
  const response = await app.request('/metrics');
  expect(response.status).toBe(200);
  expect(response.headers.get('content-type')).toMatch(/^text\/plain; version=0\.0\.4/);
  const text = await response.text();
  const samples = new Map<string, number>();
  for (const [, name = '', value = ''] of text.matchAll(/^(\w+) (\S+)$/gm)) {
    samples.set(name, Number(value));
    expect(text).toMatch(new RegExp(`^# HELP ${name} \\S.*\\.$`, 'm'));
    expect(text).toContain(`# TYPE ${name} ${name.endsWith('_total') ? 'counter' : 'gauge'}\n`);
  }
  return samples;
}

test('the metrics say what PostgreSQL says at the moment', async () => {
  const { pool } = api.database;
  expect(Object.fromEntries(await scrape())).toMatchObject({
    market_sync_postgres_up: 1,
    market_sync_parked: 0,
    market_sync_to_publish: 0,
    market_sync_epoch: 1,
    market_sync_resyncs_total: 0,
    market_sync_resync_open: 0,
    market_sync_consumer_alive: 0,
    market_sync_slot_active: 0,
    market_sync_malformed_messages_total: 0,
  });
  await insertSnapshot(pool);
  await query(
    pool,
    `select market_sync.record_failure(booking_id, 'bad', interval '0', 1) from market_sync.snapshot_state`,
  );
  await insertSnapshot(pool);
  await insertSnapshot(pool);
  await acquireConsumer(pool, { holder: 'host:1', slotName: 'slot', leaseSeconds: 60 });
  await countMalformed(pool, 3);
  await requestResync(pool, 'a test asked');
  expect(Object.fromEntries(await scrape())).toMatchObject({
    market_sync_parked: 1,
    market_sync_to_publish: 2,
    market_sync_resyncs_total: 1,
    market_sync_resync_open: 1,
    market_sync_consumer_alive: 1,
    market_sync_malformed_messages_total: 3,
  });
  await query(pool, `select market_sync.cut_history('a test cuts')`);
  expect(Object.fromEntries(await scrape())).toMatchObject({
    market_sync_epoch: 2,
    market_sync_resyncs_total: 2,
    market_sync_resync_open: 1,
  });
});

test('the metrics of the slot are there once there is a slot', async () => {
  const { pool } = api.database;
  const before = await scrape();
  expect(before.has('market_sync_slot_retained_wal_bytes')).toBe(false);
  await query(
    pool,
    `with slot as (select lsn from pg_create_logical_replication_slot(current_database(), 'pgoutput'))
     update market_sync.checkpoint set slot_name = current_database(), commit_lsn = slot.lsn from slot`,
  );
  await query(pool, `select pg_logical_emit_message(true, 'filling', repeat('x', 100000))`);
  const after = await scrape();
  expect(after.get('market_sync_lag_bytes')).toBeGreaterThan(100_000);
  expect(after.get('market_sync_slot_retained_wal_bytes')).toBeGreaterThan(100_000);
});

test('the metrics carry the memory of the process', async () => {
  const samples = await scrape();
  expect(samples.get('process_resident_memory_bytes')).toBeGreaterThan(20_000_000);
  expect(samples.get('nodejs_heap_size_used_bytes')).toBeGreaterThan(1_000_000);
  expect(samples.has('nodejs_external_memory_bytes')).toBe(true);
  expect((samples.get('process_start_time_seconds') ?? 0) * 1000).toBeLessThan(Date.now());
});

test('while PostgreSQL does not answer the metrics say so within five seconds, and still carry the memory', async () => {
  const proxy = await startProxy(api.database.url);
  const pool = createPool({
    url: proxy.url,
    applicationName: 'test metrics',
    sourceSchema: 'public',
    log: testLog(),
  });
  try {
    const app = createApi(apiContext({ pool, market: api.market.market }));
    expect((await scrape(app)).get('market_sync_postgres_up')).toBe(1);
    proxy.hang();
    const askedAt = performance.now();
    const samples = await scrape(app);
    expect(performance.now() - askedAt).toBeLessThan(5_000);
    expect(samples.get('market_sync_postgres_up')).toBe(0);
    expect(samples.has('market_sync_parked')).toBe(false);
    expect(samples.get('process_resident_memory_bytes')).toBeGreaterThan(0);
  } finally {
    await proxy.stop();
    await pool.end();
  }
});

test('the metrics need the key where one is needed', async () => {
  const guarded = createApi({ ...api.ctx, apiKey: 'correct-horse-battery', requireKey: true });
  await expectProblem(await guarded.request('/metrics'), 'key_refused');
  const headers = { authorization: 'Bearer correct-horse-battery' };
  expect((await guarded.request('/metrics', { headers })).status).toBe(200);
});
