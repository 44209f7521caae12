import { randomUUID } from 'node:crypto';
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test } from 'vitest';
import { query } from '../../src/postgres.ts';
import { readMetrics } from '../../src/store/metrics.ts';
import { readStatus } from '../../src/store/status.ts';
import { insertBooking, setQuantity, setStatus } from '../support/application.ts';
import { until } from '../support/pipeline.ts';
import { createDatabase, type TestDatabase } from '../support/postgres.ts';
import { createScene, type Scene } from '../support/scene.ts';

type Row = Record<string, unknown>;

interface Scan {
  type: string;
  relation: string;
  loops: number;
}

/** The nodes of a plan that read a relation. */
function scansOf(node: unknown): Scan[] {
  if (Array.isArray(node)) return node.flatMap(scansOf);
  if (typeof node !== 'object' || node === null) return [];
  const inner = Object.values(node).flatMap(scansOf);
  if (!('Relation Name' in node)) return inner;
  const { 'Node Type': type, 'Relation Name': relation, 'Actual Loops': loops } = node as Row;
  return [...inner, { type: String(type), relation: String(relation), loops: Number(loops) }];
}

describe('without a pipeline', () => {
  let database: TestDatabase;
  beforeEach(async () => {
    database = await createDatabase({ template: 'migrated' });
  });
  afterEach(() => database.drop());

  const sql = (text: string, values: unknown[] = []): Promise<Row[]> =>
    query<Row>(database.pool, text, values);

  test('status has one row, which says that nothing is known before the first start', async () => {
    expect(await sql('select * from market_sync.status')).toMatchObject([
      {
        consumer_state: 'absent',
        slot_state: 'none',
        lag_bytes: null,
        lag_seconds: null,
        publish_lag_seconds: null,
        last_confirmed_at: null,
        snapshots: 0,
        pg_boss_version: expect.any(Number),
      },
    ]);
    const status = await readStatus(database.pool);
    expect(status).toMatchObject({
      consumer: { state: 'absent', holder: null },
      paused: null,
      slot: { state: 'none', active: false },
      resync: null,
    });
    expect(status.queue).toHaveLength(6);
    expect(status.latency).toHaveLength(6);
  });

  test('queue says of each state how many there are, and since when the oldest waits', async () => {
    const state = (columns: Record<string, string>): Promise<Row[]> =>
      sql(
        `insert into market_sync.snapshot_state (booking_id, revision, ${Object.keys(columns).join(', ')})
         values ('${randomUUID()}', 3, ${Object.values(columns).join(', ')})`,
      );
    const ago = (minutes: number): string => `now() - interval '${minutes} minutes'`;
    const ahead = (minutes: number): string => `now() + interval '${minutes} minutes'`;
    await state({ published_revision: '3' }); // Nothing waits for this one.
    await state({ changed_at: ago(5) });
    await state({ changed_at: ago(7), next_attempt_at: ago(1) });
    await state({ changed_at: ago(9), lease_until: ahead(1), claimed_by: `'a publisher'` });
    await state({ changed_at: ago(90), lease_until: ago(1), claimed_by: `'a dead one'` });
    await state({ first_failed_at: ago(11), next_attempt_at: ahead(1), attempts: '2' });
    await state({ first_failed_at: ago(60), parked_at: ago(13) });
    await state({ published_revision: '3', next_refresh_at: ago(15) });
    await state({ published_revision: '3', next_refresh_at: ahead(15) });
    await sql(
      `insert into market_sync.manual_state (booking_id, state, reason, actor, since)
       values (gen_random_uuid(), 'held', 'r', 'a', ${ago(17)}), (gen_random_uuid(), 'withdrawn', 'r', 'a', ${ago(19)})`,
    );
    const rows = await sql(
      `select state, count, round(extract(epoch from oldest_age) / 60) as minutes from market_sync.queue`,
    );
    expect(rows).toEqual([
      { state: 'to_publish', count: 3, minutes: 90 },
      { state: 'in_work', count: 1, minutes: 9 },
      { state: 'waiting_for_retry', count: 1, minutes: 11 },
      { state: 'parked', count: 1, minutes: 13 },
      { state: 'held', count: 0, minutes: null },
      { state: 'due_for_refresh', count: 1, minutes: 15 },
    ]);
    const [status] = await sql('select * from market_sync.status');
    expect(status).toMatchObject({
      snapshots: 9,
      to_publish: 5,
      claims: 1,
      parked: 1,
      held: 0,
      due_for_refresh: 1,
    });
    expect(Math.round(Number(status?.publish_lag_seconds) / 60)).toBe(90);
    expect(await readMetrics(database.pool)).toMatchObject({ parked: 1, to_publish: 5 });
    expect(await sql('select state from market_sync.held order by since')).toEqual([
      { state: 'withdrawn' },
      { state: 'held' },
    ]);
  });

  test('held counts what is held and has not ended since, so that on_market subtracts nothing twice', async () => {
    const [still, ended] = [await insertBooking(database.pool), await insertBooking(database.pool)];
    const all = [still, ended, await insertBooking(database.pool)];
    await sql('select market_sync.reconcile($1)', [all]);
    await sql(`select market_sync.hold($1, 'mould?')`, [[still, ended]]);
    await sql(
      `update market_sync.manual_state set since = now() - interval '17 minutes' where booking_id = $1`,
      [still],
    );
    await setStatus(database.pool, ended, 'completed');
    await sql('select market_sync.reconcile($1)', [all]);
    const { snapshots, queue } = await readStatus(database.pool);
    expect(snapshots).toMatchObject({ total: 3, ended: 1, held: 1, on_market: 1 });
    const held = queue.find(({ state }) => state === 'held');
    expect(held).toMatchObject({ count: 1 });
    expect(Math.round((held?.oldest_seconds ?? 0) / 60)).toBe(17);
  });

  test('of very many that wait 100,001 are counted, in the order in which they are taken', async () => {
    await sql(
      `insert into market_sync.snapshot_state (booking_id, revision, changed_at, next_attempt_at)
       select gen_random_uuid(), 1, now() - interval '1 minute', now() - interval '1 minute' from generate_series(1, 100050)`,
    );
    await sql(
      `insert into market_sync.snapshot_state (booking_id, revision, changed_at, next_attempt_at, lease_until)
       select gen_random_uuid(), 1, now() - interval '9 minutes', now() - interval '2 minutes', lease_until
       from (values (null), (now() + interval '1 minute')) t (lease_until)`,
    );
    const { queue, snapshots } = await readStatus(database.pool);
    expect(queue.slice(0, 3).map(({ state, count }) => [state, count])).toEqual([
      ['to_publish', 100_000],
      ['in_work', 1],
      ['waiting_for_retry', 0],
    ]);
    expect(Math.round((queue[0]?.oldest_seconds ?? 0) / 60)).toBe(9);
    expect(snapshots).toMatchObject({ to_publish: 100_001, total: 100_001 });
    expect((await readMetrics(database.pool)).queue).toEqual(
      queue.map(({ state, count }) => expect.objectContaining({ state, count })),
    );
  });

  test('status still knows how many have ended when their index was built anew', async () => {
    await sql('alter index market_inventory_snapshots_ended_at_idx rename to old_idx');
    await sql(
      'create index market_inventory_snapshots_ended_at_idx on market_inventory_snapshots (ended_at) where ended_at is not null',
    );
    await sql(
      `update pg_class set reltuples = 300000 where relname = 'market_inventory_snapshots_ended_at_idx'`,
    );
    await sql('drop index old_idx');
    expect(await sql('select ended from market_sync.status')).toEqual([{ ended: 300_000 }]);
    await sql('drop index market_inventory_snapshots_ended_at_idx');
    expect(await sql('select ended from market_sync.status')).toEqual([{ ended: 0 }]);
  });

  test('latency names percentiles that are never below the truth, and at most 26 % above', async () => {
    const latencies = Array.from({ length: 1_000 }, (_, index) => 1.5 + index * 0.9);
    await sql(`select market_sync.record_latency('snapshot', $1)`, [latencies]);
    const [minute, quarter] = await sql(
      `select * from market_sync.latency where stage = 'snapshot' order by window_minutes`,
    );
    expect(quarter).toEqual({ ...minute, window_minutes: 15 });
    expect(minute).toMatchObject({ window_minutes: 1, count: 1_000, max_ms: 900.6 });
    for (const [percentile, rank] of [
      ['p50_ms', 500],
      ['p95_ms', 950],
      ['p99_ms', 990],
    ] as const) {
      const truth = latencies[rank - 1] ?? 0;
      expect(Number(minute?.[percentile]), percentile).toBeGreaterThanOrEqual(truth - 0.05);
      expect(Number(minute?.[percentile]), percentile).toBeLessThan(truth * 1.26);
    }
  });

  test('latency counts what lies in the window and nothing else', async () => {
    const at = (minutes: number, count: number): Promise<Row[]> =>
      sql(
        `insert into market_sync.latency_histogram (stage, minute, bucket, count, sum_ms, max_ms)
         select 'listing', date_trunc('minute', clock_timestamp()) - make_interval(mins => $1), 20, $2, 100, 100`,
        [minutes, count],
      );
    await at(3, 5);
    await at(40, 7);
    await at(70, 11);
    await sql(`insert into market_sync.latency_histogram values ('listing', '-infinity', 20, 13, 1, 1)`);
    const rows = await sql(
      'select stage, window_minutes, count, p50_ms from market_sync.latency order by 1, 2',
    );
    expect(rows).toEqual([
      { stage: 'listing', window_minutes: 1, count: 0, p50_ms: null },
      { stage: 'listing', window_minutes: 15, count: 5, p50_ms: 100 },
      { stage: 'listing', window_minutes: 60, count: 12, p50_ms: 100 },
      { stage: 'snapshot', window_minutes: 1, count: 0, p50_ms: null },
      { stage: 'snapshot', window_minutes: 15, count: 0, p50_ms: null },
      { stage: 'snapshot', window_minutes: 60, count: 0, p50_ms: null },
    ]);
  });

  test('throughput has a row for each of the last 60 minutes, also for those in which nothing was done', async () => {
    await sql(
      `insert into market_sync.activity (kind, minute, events, items, changed, busy_ms)
       select kind, date_trunc('minute', clock_timestamp()) - interval '4 minutes', events, items, changed, 1
       from (values ('reconcile', 2, 30, 20), ('publish', 3, 19, 0), ('failure', 1, 1, 0), ('refusal', 1, 2, 0), ('redelivery', 1, 6, 0))
         as t (kind, events, items, changed)`,
    );
    await sql(`insert into market_sync.activity values ('publish', '-infinity', 1, 1000, 0, 0)`);
    const rows = await sql('select * from market_sync.throughput order by minute desc');
    expect(rows).toHaveLength(60);
    const busy = rows.filter((row) => row.published !== 0 || row.batches !== 0);
    expect(busy).toEqual([
      { ...rows[4], batches: 2, recomputed: 30, changed: 20, published: 19, failures: 3, redelivered: 6 },
    ]);
  });

  test('drift shows the last comparison of a kind', async () => {
    await sql(
      `insert into market_sync.drift_check (kind, started_at, compared, found, outcome)
       values ('versions', now() - interval '2 days', 5, 2, 'first'), ('versions', now(), 6, 0, 'second')`,
    );
    expect(await sql('select kind, compared, found, outcome from market_sync.drift')).toEqual([
      { kind: 'versions', compared: 6, found: 0, outcome: 'second' },
    ]);
  });

  test('overrides shows those in force', async () => {
    await sql(
      `insert into market_sync.override (booking_id, grade, reason, actor, expires_at)
       values (gen_random_uuid(), 'A', 'r', 'a', null), (gen_random_uuid(), 'B', 'r', 'a', now() + interval '1 h'),
         (gen_random_uuid(), 'C', 'r', 'a', now() - interval '1 h')`,
    );
    expect(await sql('select grade from market_sync.overrides order by 1')).toEqual([
      { grade: 'A' },
      { grade: 'B' },
    ]);
  });

  test("jobs shows pg-boss's jobs with how long they took, what they did or why they failed", async () => {
    await sql(`select pgboss.create_queue('refresh', '{"policy":"standard"}')`);
    await sql(
      `insert into pgboss.job (name, state, created_on, started_on, completed_on, retry_count, data, output) values
         ('refresh', 'completed', '2026-01-01 10:00', '2026-01-01 10:01', '2026-01-01 10:01:30', 1, '{"in": 1}', '{"changed": 3}'),
         ('refresh', 'failed', '2026-01-01 11:00', '2026-01-01 11:00', '2026-01-01 11:00:01', 2, null, '{"message": "no luck", "stack": "…"}'),
         ('refresh', 'retry', '2026-01-01 12:00', '2026-01-01 12:00', null, 1, null, '{"value": "odd"}'),
         ('refresh', 'active', '2026-01-01 13:00', now() - interval '5 s', null, 0, null, null)`,
    );
    await sql(`insert into pgboss.schedule (name, cron) values ('refresh', '* * * * *')`);
    const jobs = await sql(
      `select queue, state, extract(epoch from duration)::int as seconds, retries, input, output, error
       from market_sync.jobs order by created_at`,
    );
    expect(jobs).toEqual([
      {
        queue: 'refresh',
        state: 'completed',
        seconds: 30,
        retries: 1,
        input: { in: 1 },
        output: { changed: 3 },
        error: null,
      },
      {
        queue: 'refresh',
        state: 'failed',
        seconds: 1,
        retries: 2,
        input: null,
        output: null,
        error: 'no luck',
      },
      {
        queue: 'refresh',
        state: 'retry',
        seconds: null,
        retries: 1,
        input: null,
        output: null,
        error: 'odd',
      },
      { queue: 'refresh', state: 'active', seconds: 5, retries: 0, input: null, output: null, error: null },
    ]);
    expect(await sql('select queue, cron, timezone, last_state from market_sync.schedules')).toEqual([
      { queue: 'refresh', cron: '* * * * *', timezone: 'UTC', last_state: 'active' },
    ]);
  });

  test('status reads no table of snapshots from end to end when there are very many, and estimates their number', async () => {
    await sql(
      `insert into market_sync.snapshot_state (booking_id, revision, published_revision)
       select gen_random_uuid(), 1, 1 from generate_series(1, 120000)`,
    );
    await sql('analyze market_sync.snapshot_state');
    const [plan] = await sql('explain (analyze, format json) select * from market_sync.status');
    const read = scansOf(plan).filter(({ relation }) => relation === 'snapshot_state');
    expect(read.map(({ type }) => type)).toContain('Index Scan');
    expect(read.filter(({ type, loops }) => type === 'Seq Scan' && loops > 0)).toEqual([]);
    expect(await sql('select snapshots from market_sync.status')).toEqual([{ snapshots: 120_000 }]);
  });
});

describe('beside a pipeline', () => {
  let scene: Scene;
  beforeAll(async () => {
    scene = await createScene();
  });
  afterAll(() => scene?.stop());

  const lag = async (): Promise<{ seconds: number; bytes: number }> => {
    const { checkpoint } = await readStatus(scene.database.pool);
    return { seconds: checkpoint.lag_seconds ?? Number.NaN, bytes: checkpoint.lag_bytes ?? Number.NaN };
  };

  test('lag_seconds is 0 while nothing waits, grows while no consumer works, and is 0 again', async () => {
    const bookingId = await insertBooking(scene.database.pool);
    const pipeline = await scene.start();
    await scene.settle();
    await setQuantity(scene.database.pool, bookingId, 2);
    await scene.settle();
    await until('nothing waits', async () => (await lag()).seconds === 0);
    const [latency] = await query<{ count: number }>(
      scene.database.pool,
      `select count from market_sync.latency where stage = 'listing' and window_minutes = 1`,
    );
    expect(latency?.count).toBeGreaterThan(0);

    await pipeline.stop();
    await setQuantity(scene.database.pool, bookingId, 3);
    const stoppedAt = performance.now();
    await until('it grows', async () => (await lag()).seconds > 2);
    expect((await lag()).bytes).toBeGreaterThan(0);
    expect((await lag()).seconds).toBeGreaterThan((performance.now() - stoppedAt) / 1_000);
    expect((await readStatus(scene.database.pool)).consumer).toEqual({ state: 'absent', holder: null });

    await scene.start();
    await scene.settle();
    await until('nothing waits any more', async () => (await lag()).seconds === 0);
    expect((await readStatus(scene.database.pool)).publisher).toMatchObject({
      claims: 0,
      behind_seconds: null,
    });
  });

  test('lag_seconds is the age of what a consumer that streams has in its hands', async () => {
    const { pool } = scene.database;
    const renew = `select market_sync.renew_consumer(generation, interval '5 s', $1::timestamptz) from market_sync.checkpoint`;
    const seen: number[] = [];
    // The consumer's own signs of life say that it has nothing: they may come between the two.
    await until('it is seen', async () => {
      await query(pool, renew, [new Date(Date.now() - 40_000)]);
      seen.push((await lag()).seconds);
      return (seen.at(-1) ?? 0) >= 40;
    });
    expect(seen.at(-1)).toBeLessThan(60);
    await query(pool, renew, [null]);
    expect((await lag()).seconds).toBeLessThan(1);
  });

  test('lag_seconds counts from the pause, and status says who paused and why', async () => {
    const { pool } = scene.database;
    await query(pool, `select market_sync.pause('a test of lag')`);
    await setQuantity(pool, await insertBooking(pool), 4);
    await until('it grows while paused', async () => (await lag()).seconds > 1);
    const { paused, consumer } = await readStatus(pool);
    expect(consumer.state).toBe('active');
    expect(paused).toEqual({
      at: expect.stringMatching(/^2\d{3}-.*Z$/),
      by: 'postgres',
      reason: 'a test of lag',
    });
    await query(pool, 'select market_sync.resume()');
    await scene.settle();
    await until('it is over', async () => (await lag()).seconds === 0);
    expect((await readStatus(pool)).paused).toBeNull();
  });

  test('advanced_at moves with the checkpoint and with nothing else', async () => {
    const { pool } = scene.database;
    const read = async (): Promise<Row | undefined> =>
      (await query<Row>(pool, 'select commit_lsn, advanced_at::text from market_sync.checkpoint'))[0];
    await scene.stopPipelines();
    const before = await read();
    await query(
      pool,
      "select market_sync.renew_consumer(generation, interval '1 s') from market_sync.checkpoint",
    );
    await query(pool, 'update market_sync.checkpoint set commit_lsn = commit_lsn, malformed_messages = 1');
    expect(await read()).toEqual(before);
    await query(pool, `update market_sync.checkpoint set commit_lsn = commit_lsn + 1`);
    expect((await read())?.advanced_at).not.toBe(before?.advanced_at);
  });
});
