import { afterAll, beforeAll, expect, test } from 'vitest';
import { createApi } from '../../src/api/app.ts';
import { createPool, query } from '../../src/postgres.ts';
import { acquireConsumer, countMalformed } from '../../src/store/checkpoint.ts';
import { readMetrics } from '../../src/store/metrics.ts';
import { requestResync } from '../../src/store/resync.ts';
import { type ParsedFamily, parseExposition } from '../ops/exposition.ts';
import { testLog, until } from '../support/pipeline.ts';
import { createDatabase } from '../support/postgres.ts';
import { startProxy } from '../support/proxy.ts';
import { apiContext, createTestApi, expectProblem, insertSnapshot, type TestApi } from './setup.ts';

let api: TestApi;
beforeAll(async () => {
  api = await createTestApi();
});
afterAll(() => api.drop());

async function readFamilies(app = api.app): Promise<Map<string, ParsedFamily>> {
  const response = await app.request('/metrics');
  expect(response.status).toBe(200);
  expect(response.headers.get('content-type')).toMatch(/^text\/plain; version=0\.0\.4/);
  return parseExposition(await response.text());
}

/** What is not divided by labels. */
async function scrape(app = api.app): Promise<Map<string, number>> {
  const samples = [...(await readFamilies(app)).values()].flatMap((family) => family.samples);
  return new Map(
    samples.flatMap(({ name, labels, value }) => (Object.keys(labels).length === 0 ? [[name, value]] : [])),
  );
}

/** A family's samples, written as `label=value,…` of those labels that are named. */
async function readSamples(name: string, ...labels: string[]): Promise<Record<string, number>> {
  const samples = (await readFamilies()).get(name)?.samples ?? [];
  return Object.fromEntries(
    samples.map((sample) => [labels.map((label) => sample.labels[label]).join(' '), sample.value]),
  );
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
    expect(samples.get('nodejs_eventloop_delay_seconds_count')).toBeDefined();
    const requests = (await readFamilies(app)).get('market_sync_http_requests_total')?.samples;
    expect(requests).toEqual([
      {
        name: 'market_sync_http_requests_total',
        labels: { method: 'GET', route: '/metrics', status: '200' },
        value: 2,
      },
    ]);
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

const RECORDED_MS = [0.3, 1.9, 2.1, 4.9, 10, 10.1, 99, 100, 101, 999, 1001, 31_000, 999_999, 5_000_000];

test('the histograms count in seconds exactly what PostgreSQL counted, also after it was folded', async () => {
  const { pool } = api.database;
  await query(pool, `select market_sync.record_latency('listing', $1::float8[], 2)`, [RECORDED_MS]);
  const read = async (): Promise<{ le: number; count: number }[]> => {
    const samples = (await readFamilies()).get('market_sync_commit_to_listing_seconds')?.samples ?? [];
    return samples.flatMap(({ labels, value }) =>
      labels.le === undefined ? [] : [{ le: Number(labels.le.replace('Inf', 'Infinity')), count: value }],
    );
  };
  const buckets = await read();
  expect(buckets).toHaveLength(16);
  for (const { le, count } of buckets) {
    const [counted] = await query<{ count: number }>(
      pool,
      `select coalesce(sum(count), 0)::int as count from market_sync.latency_histogram
       where stage = 'listing' and market_sync.latency_bound(bucket) <= $1::float8 * 1000 * 1.00001`,
      [le],
    );
    expect({ le, count }).toEqual({ le, count: counted?.count });
  }
  // And it is not the SQL alone that says so.
  expect(buckets.find(({ le }) => le === 1)?.count).toBe(2 * RECORDED_MS.filter((ms) => ms <= 1000).length);
  const sums = await scrape();
  expect(sums.get('market_sync_commit_to_listing_seconds_count')).toBe(2 * RECORDED_MS.length);
  expect(sums.get('market_sync_commit_to_listing_seconds_sum')).toBeCloseTo(
    (2 * RECORDED_MS.reduce((sum, ms) => sum + ms, 0)) / 1000,
    6,
  );
  expect(sums.get('market_sync_commit_to_snapshot_seconds_count')).toBe(0);
  await query(pool, `update market_sync.latency_histogram set minute = minute - interval '2 days'`);
  await query(pool, 'select market_sync.fold_measurements()');
  expect(await read()).toEqual(buckets);
});

test('every bound of a histogram is a bound of the buckets that PostgreSQL keeps', async () => {
  const samples = (await readFamilies()).get('market_sync_commit_to_snapshot_seconds')?.samples ?? [];
  const bounds = samples.flatMap(({ labels: { le } }) =>
    le === undefined || le === '+Inf' ? [] : [Number(le)],
  );
  expect(bounds).toHaveLength(15);
  for (const bound of bounds) {
    const [kept] = await query<{ seconds: number }>(
      api.database.pool,
      `select market_sync.latency_bound(bucket) / 1000 as seconds from generate_series(0, 90) bucket
       order by abs(market_sync.latency_bound(bucket) / 1000 - $1) limit 1`,
      [bound],
    );
    expect(Math.abs((kept?.seconds ?? 0) / bound - 1)).toBeLessThan(1e-5);
  }
});

test('batches, failures and redeliveries are counted as PostgreSQL counted them, in seconds', async () => {
  const { pool } = api.database;
  const names = {
    market_sync_reconcile_duration_seconds_sum: 1.5,
    market_sync_reconcile_duration_seconds_count: 3,
    market_sync_reconcile_batch_bookings_sum: 70,
    market_sync_reconcile_batch_bookings_count: 3,
    market_sync_snapshots_changed_total: 40,
    market_sync_publish_duration_seconds_sum: 0.25,
    market_sync_publish_duration_seconds_count: 2,
    market_sync_publish_batch_listings_sum: 39,
    market_sync_publish_batch_listings_count: 2,
    market_sync_failures_total: 5,
    market_sync_redelivered_transactions_total: 8,
  };
  const before = await scrape();
  await query(
    pool,
    `select market_sync.record_activity('reconcile', 3, 70, 40, 1500), market_sync.record_activity('publish', 2, 39, 0, 250),
       market_sync.record_activity('failure', 3, 3, 0, 0), market_sync.record_activity('refusal', 2, 2, 0, 0), market_sync.record_activity('redelivery', 1, 8, 0, 0)`,
  );
  const after = await scrape();
  for (const [name, grown] of Object.entries(names)) {
    expect([name, (after.get(name) ?? 0) - (before.get(name) ?? 0)]).toEqual([
      name,
      expect.closeTo(grown, 6),
    ]);
  }
});

test('the queue and the slot are divided by their states, each of which is always there', async () => {
  const { pool } = api.database;
  const before = await readSamples('market_sync_queue_depth', 'state');
  expect(Object.keys(before).sort()).toEqual([
    'due_for_refresh',
    'held',
    'in_work',
    'parked',
    'to_publish',
    'waiting_for_retry',
  ]);
  const { bookingId } = await insertSnapshot(pool);
  await query(pool, 'select market_sync.hold(array[$1]::uuid[], $2)', [bookingId, 'a test holds']);
  const after = await readSamples('market_sync_queue_depth', 'state');
  expect(after).toEqual({
    ...before,
    held: (before.held ?? 0) + 1,
    to_publish: (before.to_publish ?? 0) + 1,
  });
  expect((await readSamples('market_sync_queue_oldest_seconds', 'state')).held).toBeGreaterThan(0);
  const slot = await readSamples('market_sync_slot_state', 'state');
  expect(Object.keys(slot).sort()).toEqual(['filling', 'lost', 'missing', 'none', 'ok']);
  expect(Object.values(slot).reduce((sum, value) => sum + value, 0)).toBe(1);
});

test('the metrics say that the pipeline is paused', async () => {
  const { pool } = api.database;
  expect((await scrape()).get('market_sync_paused')).toBe(0);
  await query(pool, `select market_sync.pause('a test pauses')`);
  expect((await scrape()).get('market_sync_paused')).toBe(1);
  await query(pool, 'select market_sync.resume()');
  expect((await scrape()).get('market_sync_paused')).toBe(0);
});

test("requests are counted by their route's pattern, whatever is called", async () => {
  const app = createApi(api.ctx);
  const { bookingId } = await insertSnapshot(api.database.pool);
  const calls: [string, string][] = [
    ['GET', `/storage-guard/snapshots/${bookingId}`],
    ['GET', '/storage-guard/snapshots/not-a-uuid'],
    ['GET', '/storage-guard/snapshots?crop_type=%22%0A%5C'],
    ['PUT', '/storage-guard/snapshots'],
    ['BREW', '/no/such/address'],
    ['GET', '/no/other/"address\\'],
    ['GET', '/healthz'],
  ];
  for (const [method, path] of calls) await app.request(path, { method });
  const families = await readFamilies(app);
  const totals = families.get('market_sync_http_requests_total')?.samples ?? [];
  expect(
    totals.map(({ labels, value }) => `${labels.method} ${labels.route} ${labels.status} ${value}`).sort(),
  ).toEqual([
    'GET /healthz 200 1',
    'GET /storage-guard/snapshots 200 1',
    'GET /storage-guard/snapshots/:booking_id 200 1',
    'GET /storage-guard/snapshots/:booking_id 400 1',
    'GET none 404 1',
    'PUT /storage-guard/snapshots 405 1',
    'other none 404 1',
  ]);
  const durations = families.get('market_sync_http_request_duration_seconds')?.samples ?? [];
  const counts = durations.filter(({ name }) => name.endsWith('_count'));
  expect(counts.reduce((sum, { value }) => sum + value, 0)).toBe(calls.length);
});

test('the event loop is watched, and what blocks it is counted for good', async () => {
  const late = async (): Promise<number> => {
    const buckets = (await readFamilies()).get('nodejs_eventloop_delay_seconds')?.samples ?? [];
    const within = buckets.find(({ labels }) => labels.le === '0.25')?.value ?? 0;
    return (buckets.find(({ labels }) => labels.le === '+Inf')?.value ?? 0) - within;
  };
  const before = await late();
  const until600 = performance.now() + 600;
  while (performance.now() < until600); // nothing else gets a turn
  await until('the delay is counted', async () => (await late()) > before);
  expect(await late()).toBeGreaterThan(before);
});

test('a scrape with 200,000 snapshots reads those that wait, not the others', async () => {
  const database = await createDatabase({ template: 'migrated' });
  try {
    await query(
      database.pool,
      `insert into market_sync.snapshot_state
         (booking_id, epoch, revision, published_epoch, published_revision, next_refresh_at)
       select gen_random_uuid(), 1, 1, 1, case when n <= 30 then 0 else 1 end, now() + interval '1 hour'
       from generate_series(1, 200000) n`,
    );
    await query(database.pool, 'vacuum analyze market_sync.snapshot_state');
    const client = await database.pool.connect();
    try {
      const countRead = async (): Promise<number> => {
        await client.query('select pg_stat_force_next_flush()');
        const [row] = await query<{ read: number }>(
          client,
          `select (t.seq_tup_read + (select sum(i.idx_tup_read) from pg_stat_user_indexes i where i.relid = t.relid))::int as read
           from pg_stat_user_tables t where t.relid = 'market_sync.snapshot_state'::regclass`,
        );
        return row?.read ?? 0;
      };
      const before = await countRead();
      expect((await readMetrics(client)).to_publish).toBe(30);
      expect((await countRead()) - before).toBeLessThan(1_000);
    } finally {
      client.release();
    }
  } finally {
    await database.drop();
  }
});
