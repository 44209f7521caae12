import type { OpenAPIHono } from '@hono/zod-openapi';
import { afterAll, afterEach, beforeAll, beforeEach, expect, test } from 'vitest';
import { taskJobs } from '../../pipeline/tasks.ts';
import { createApi } from '../../src/api/app.ts';
import type { ApiContext, ApiEnv } from '../../src/api/context.ts';
import { type JobResource, jobSchema } from '../../src/api/job-resource.ts';
import { connectMarket } from '../../src/mongo.ts';
import { inTransaction, query } from '../../src/postgres.ts';
import { findOpenJobs } from '../../src/queue.ts';
import { publishContext } from '../../src/store/publish.ts';
import { reconcileBookings } from '../../src/store/reconcile.ts';
import { beginTask, finishTask, nextUnpublished } from '../../src/store/task-work.ts';
import { requestTask } from '../../src/store/tasks.ts';
import { apiContext } from '../api/setup.ts';
import { testLog, until } from '../support/pipeline.ts';
import { startProxy } from '../support/proxy.ts';
import { createScene, type Scene } from '../support/scene.ts';

const CHUNK = 20;

let scene: Scene;
let ctx: ApiContext;
let app: OpenAPIHono<ApiEnv>;
beforeAll(async () => {
  scene = await createScene({ settings: { BATCH_KEYS_MAX: String(CHUNK) } });
  ctx = apiContext({ pool: scene.database.pool, market: scene.market.market });
  app = createApi(ctx);
});
afterAll(() => scene.stop());
beforeEach(() =>
  query(
    scene.database.pool,
    `truncate storage_bookings, market_inventory_snapshots, market_sync.snapshot_state, market_sync.task, market_sync.manual_action cascade;
     delete from pgboss.job`,
  ),
);
afterEach(async () => {
  await scene.stopPipelines();
  await query(scene.database.pool, 'update market_sync.checkpoint set paused_at = null');
});

/** Bookings that have nothing but themselves; without a snapshot unless it is computed. */
async function insertBookings(count: number, { computed }: { computed: boolean }): Promise<string[]> {
  const { pool } = scene.database;
  const rows = await query<{ id: string }>(
    pool,
    `insert into storage_bookings (farmer_id, crop_type, quantity_kg, booking_status)
     select gen_random_uuid(), 'Rice', n, 'active' from generate_series(1, $1) n returning id`,
    [count],
  );
  const ids = rows.map((row) => row.id);
  if (computed) await reconcileBookings(pool, { bookingIds: ids, now: undefined });
  return ids;
}

async function ask(method: 'GET' | 'POST', path: string): Promise<{ status: number; job: JobResource }> {
  const response = await app.request(path, { method });
  const body = (await response.json()) as { job: unknown };
  return { status: response.status, job: jobSchema.parse(body.job) };
}

const askBackfill = () => ask('POST', '/storage-guard/snapshots/backfill');
const askSync = () => ask('POST', '/storage-guard/snapshots/sync-all');
const look = async (id: string): Promise<JobResource> => (await ask('GET', `/pipeline/jobs/${id}`)).job;

async function untilState(id: string, state: JobResource['state']): Promise<JobResource> {
  await until(`job ${state}`, async () => (await look(id)).state === state);
  return look(id);
}

const audited = async (): Promise<string[]> =>
  (
    await query<{ action: string }>(
      scene.database.pool,
      'select action from market_sync.audit_log order by id',
    )
  ).map((row) => row.action);

/** Its job in this process, without pg-boss; `run` works the task as a pipeline would. */
function jobOf(kind: 'sync-all' | 'backfill', chunkMax = CHUNK, market = scene.market.market) {
  const job = taskJobs({
    pool: scene.database.pool,
    log: testLog(),
    clock: () => undefined,
    publish: publishContext({
      config: scene.config,
      pool: scene.database.pool,
      market,
      log: testLog(),
      random: Math.random,
      role: 'sweep',
    }),
    chunkMax,
  }).find(({ name }) => name === kind);
  if (job === undefined) throw new Error(`no job ${kind}`);
  return job;
}

test('a backfill that is asked for while no pipeline runs waits, and starts within a second of its notification in one that does', async () => {
  await insertBookings(50, { computed: false });
  const { status, job } = await askBackfill();
  expect([status, job.state, job.requested_by, job.total]).toEqual([202, 'queued', 'local', null]);
  await scene.start();
  const first = await untilState(job.id, 'done');
  expect(first).toMatchObject({ total: 50, done: 50, failed: 0, error: null });
  // This one finds a pipeline that waits.
  const askedAt = performance.now();
  const again = await askBackfill();
  await until('it has started', async () => (await look(again.job.id)).started_at !== null);
  expect(performance.now() - askedAt).toBeLessThan(1_000);
  await untilState(again.job.id, 'done');
  const jobs = await query(
    scene.database.pool,
    `select queue, state, input, output from market_sync.jobs where id = $1`,
    [job.id],
  );
  expect(jobs).toEqual([
    {
      queue: 'backfill',
      state: 'completed',
      input: { task_id: job.id, requested_by: 'local' },
      output: { state: 'done', total: 50, done: 50, failed: 0 },
    },
  ]);
  expect(await audited()).toEqual(['backfill', 'backfill']);
});

test('of many who ask for a backfill at once all get the same one, and it is audited once', async () => {
  const answers = await Promise.all(Array.from({ length: 8 }, askBackfill));
  expect(new Set(answers.map((answer) => answer.job.id)).size).toBe(1);
  expect(answers.map((answer) => answer.status)).toEqual(Array(8).fill(202));
  expect(await audited()).toEqual(['backfill']);
  const jobs = await query(scene.database.pool, `select from pgboss.job where name = 'backfill'`);
  expect(jobs.length).toBe(1);
});

test('a task whose transaction is rolled back has no job either', async () => {
  const { pool } = scene.database;
  let id = '';
  await expect(
    inTransaction(pool, async (client) => {
      id = (await requestTask(client, { kind: 'backfill', requestedBy: 'x' })).task.id;
      expect((await findOpenJobs(client, [id])).size).toBe(1);
      throw new Error('changed my mind');
    }),
  ).rejects.toThrow('changed my mind');
  expect((await findOpenJobs(pool, [id])).size).toBe(0);
  expect(await query(pool, 'select from market_sync.task')).toEqual([]);
});

test('row 24: a backfill that is interrupted between chunks goes on behind its last chunk', async () => {
  const { pool } = scene.database;
  const ids = await insertBookings(100, { computed: false });
  const { job } = await askBackfill();
  const stop = new AbortController();
  const watching = until('two chunks are done', async () => (await look(job.id)).done >= 2 * CHUNK).then(() =>
    stop.abort(),
  );
  await expect(jobOf('backfill').run(job.id, stop.signal)).rejects.toThrow('the process stops');
  await watching;
  const interrupted = await look(job.id);
  expect(interrupted.state).toBe('running');
  expect(interrupted.done).toBeLessThan(100);
  // What it has done is not done again: a recompute would repair this.
  const before = ids.toSorted().slice(0, interrupted.done);
  await query(
    pool,
    `update market_inventory_snapshots set grade = 'Z', own_hash = 0 where booking_id = any ($1)`,
    [before],
  );
  await jobOf('backfill').run(job.id, new AbortController().signal);
  expect(await look(job.id)).toMatchObject({ state: 'done', total: 100, done: 100, failed: 0 });
  const untouched = await query(pool, `select from market_inventory_snapshots where grade = 'Z'`);
  expect(untouched.length).toBe(interrupted.done);
  expect((await query(pool, 'select from market_inventory_snapshots')).length).toBe(100);
});

test('row 24: a backfill that is killed inside a chunk repeats that chunk and no other', async () => {
  const { pool } = scene.database;
  await insertBookings(60, { computed: false });
  const { job } = await askBackfill();
  // A chunk waits for this lock, in its transaction, and is killed there.
  const holder = await pool.connect();
  let failed: Promise<unknown> = Promise.resolve();
  try {
    await holder.query('begin');
    const running = jobOf('backfill').run(job.id, new AbortController().signal);
    failed = running.then(
      () => undefined,
      (error: unknown) => error,
    );
    // Behind the chunk in work, before the next: nothing rests between them while nobody else works.
    await holder.query('select pg_advisory_xact_lock(5501, 1)');
    await until('a chunk waits', async () => (await waiting()).length > 0);
    await query(pool, 'select pg_terminate_backend($1)', [(await waiting())[0]?.pid]);
    expect(await failed).toBeInstanceOf(Error);
  } finally {
    await holder.query('rollback');
    holder.release();
  }
  const { done } = await look(job.id);
  expect(done % CHUNK).toBe(0);
  expect(done).toBeLessThan(60);
  await jobOf('backfill').run(job.id, new AbortController().signal);
  const finished = await look(job.id);
  expect(finished).toMatchObject({ state: 'done', total: 60, done: 60, error: null });
  expect(new Set(finished.results?.map((result) => result.booking_id)).size).toBe(60);
  expect(finished.results?.length).toBe(60);
});

const waiting = () =>
  query<{ pid: number }>(
    scene.database.pool,
    `select pid from pg_stat_activity where datname = current_database() and wait_event = 'advisory'
       and query like '%pg_advisory_xact_lock(5501, 1)%'`,
  );

test('a backfill says which bookings changed and which cannot be processed, and withdraws snapshots without a booking', async () => {
  const { pool } = scene.database;
  const ids = await insertBookings(5, { computed: true });
  const [same, changed, poison, ghost] = ids.toSorted();
  await query(pool, 'update storage_bookings set quantity_kg = 777 where id = any ($1)', [[changed, poison]]);
  await query(pool, 'delete from storage_bookings where id = $1', [ghost]);
  await query(
    pool,
    `create function refuse_poison() returns trigger language plpgsql as
     $$ begin raise exception 'no such quantity' using errcode = '22003'; end $$;
     create trigger refuse_poison before update on market_inventory_snapshots for each row
       when (old.booking_id = '${poison}') execute function refuse_poison()`,
  );
  try {
    const { job } = await askBackfill();
    await jobOf('backfill').run(job.id, new AbortController().signal);
    const done = await look(job.id);
    expect(done).toMatchObject({ state: 'done', total: 5, done: 4, failed: 1 });
    expect(done.results?.map((result) => [result.booking_id, result.status, result.error])).toEqual([
      [poison, 'parked', '22003 no such quantity'],
      [changed, 'changed', undefined],
      [ghost, 'changed', undefined],
    ]);
    expect(same).not.toBe(changed);
  } finally {
    await query(
      pool,
      'drop trigger refuse_poison on market_inventory_snapshots; drop function refuse_poison',
    );
  }
});

test('a sync-all of more than 1,000 snapshots is a job that publishes them all, and says how far it is', async () => {
  await insertBookings(1_001, { computed: true });
  const { status, job } = await askSync();
  expect([status, job.kind, job.state]).toEqual([202, 'sync_all', 'queued']);
  const progress: number[] = [];
  const running = jobOf('sync-all', 200).run(job.id, new AbortController().signal);
  await until('it is done', async () => {
    const { done, state } = await look(job.id);
    if (progress.at(-1) !== done) progress.push(done);
    return state === 'done';
  });
  await running;
  expect(progress.length).toBeGreaterThan(2);
  const done = await look(job.id);
  expect(done).toMatchObject({ total: 1_001, done: 1_001, failed: 0 });
  expect(done.results?.length).toBe(1_000);
  expect(done.results?.[0]).toMatchObject({ status: 'published', listing_id: expect.any(String) });
  expect(await scene.market.market.listings.countDocuments({ status: 'published' })).toBeGreaterThan(1_000);
  expect(await audited()).toEqual(['sync_all']);
});

test('a sync-all that is asked for while one is in work starts over, and finds what came since behind its back', async () => {
  const { pool } = scene.database;
  const ids = await insertBookings(1_001, { computed: true });
  const { job } = await askSync();
  const running = jobOf('sync-all', 200).run(job.id, new AbortController().signal);
  await until('it has begun', async () => (await look(job.id)).done >= 200);
  // The first one, behind the cursor by now; and so many that the call makes a job of it.
  const [early = ''] = ids.toSorted();
  await query(pool, 'update storage_bookings set quantity_kg = 778 where id = $1', [early]);
  await reconcileBookings(pool, { bookingIds: [early], now: undefined });
  const again = await inTransaction(pool, (client) =>
    requestTask(client, { kind: 'sync_all', requestedBy: 'x' }),
  );
  expect([again.task.id, again.isNew]).toEqual([job.id, false]);
  await running;
  expect(await scene.listing(early)).toMatchObject({ quantity_kg: 778 });
  expect((await look(job.id)).state).toBe('done');
});

test('whoever asks for a task waits for nobody with an advisory lock of the application', async () => {
  const { pool } = scene.database;
  // Numbers of one key are the application's: of two keys classid is the first one, and objsubid 2.
  const locks: unknown[] = await inTransaction(pool, async (client) => {
    for (const kind of ['sync_all', 'backfill'] as const)
      await requestTask(client, { kind, requestedBy: 'x' });
    return query(
      client,
      `select classid::int, objid::int, objsubid from pg_locks
       where locktype = 'advisory' and pid = pg_backend_pid() order by objid`,
    );
  });
  expect(locks).toEqual([
    { classid: 5503, objid: 1, objsubid: 2 },
    { classid: 5503, objid: 2, objsubid: 2 },
  ]);
});

test('a sync-all that is asked for just as one comes to its end is not lost', async () => {
  const { pool } = scene.database;
  await insertBookings(1_001, { computed: true });
  const { job } = await askSync();
  await beginTask(pool, job.id);
  const end = 'ffffffff-ffff-ffff-ffff-ffffffffffff';
  await query(pool, 'update market_sync.task set after_booking_id = $1', [end]);
  expect(await nextUnpublished(pool, { id: job.id, limit: 1 })).toMatchObject({ after: end, bookingIds: [] });
  await askSync();
  expect(await finishTask(pool, { id: job.id, after: end })).toBeUndefined();
  expect((await look(job.id)).state).toBe('running');
});

test('row 5: a sync-all that cannot reach MongoDB says so, and goes on once it can', async () => {
  await insertBookings(1_001, { computed: true });
  const { job } = await askSync();
  const proxy = await startProxy(scene.market.url);
  const market = await connectMarket({ url: proxy.url, database: scene.market.database, timeoutMs: 300 });
  try {
    await proxy.refuse();
    const work = jobOf('sync-all', 500, market);
    await expect(work.run(job.id, new AbortController().signal)).rejects.toThrow('MongoDB cannot be written');
    expect(await look(job.id)).toMatchObject({
      state: 'running',
      done: 0,
      error: expect.stringContaining('MongoDB cannot be written'),
    });
    await proxy.heal();
    await work.run(job.id, new AbortController().signal);
    expect(await look(job.id)).toMatchObject({ state: 'done', done: 1_001, error: null });
  } finally {
    await proxy.stop();
    await market.close();
  }
});

test('a job that is cancelled stops after its chunk, keeps what it has done, and is not tried again', async () => {
  await insertBookings(200, { computed: false });
  const { job } = await askBackfill();
  const running = jobOf('backfill').run(job.id, new AbortController().signal);
  await until('it has begun', async () => (await look(job.id)).done > 0);
  const cancel = await ask('POST', `/pipeline/jobs/${job.id}/cancel`);
  expect([cancel.status, cancel.job.state]).toEqual([200, 'cancelled']);
  expect(await running).toMatchObject({ failed: false, output: { state: 'cancelled' } });
  const cancelled = await look(job.id);
  expect(cancelled.done).toBeLessThan(200);
  expect(cancelled.done).toBeGreaterThan(0);
  const again = await app.request(`/pipeline/jobs/${job.id}/cancel`, { method: 'POST' });
  expect([again.status, ((await again.json()) as { code: string }).code]).toEqual([409, 'conflict']);
  expect(await audited()).toEqual(['backfill', 'cancel']);
  // Another one may be asked for.
  expect((await askBackfill()).job.id).not.toBe(job.id);
});

test('a paused pipeline leaves a job queued, and takes it up when it is resumed', async () => {
  await insertBookings(30, { computed: false });
  await scene.start();
  await query(scene.database.pool, `select market_sync.pause('maintenance')`);
  const { job } = await askBackfill();
  await until('its job is in work', async () => {
    const rows = await query(
      scene.database.pool,
      `select from pgboss.job where id = $1 and state = 'active'`,
      [job.id],
    );
    return rows.length === 1;
  });
  expect((await look(job.id)).state).toBe('queued');
  await query(scene.database.pool, 'select market_sync.resume()');
  expect(await untilState(job.id, 'done')).toMatchObject({ done: 30 });
});

test('row 27: a pipeline that is stopped hands its backfill over, and the next one goes on with it', async () => {
  await insertBookings(600, { computed: false });
  const first = await scene.start();
  const { job } = await askBackfill();
  await until('it is in work', async () => (await look(job.id)).done > 0);
  const stoppedAt = performance.now();
  await first.stop();
  expect(performance.now() - stoppedAt).toBeLessThan(5_000);
  const { done, state } = await look(job.id);
  expect([state, done < 600]).toEqual(['running', true]);
  // It is handed over at once; nobody waits until it shows no sign of life.
  const jobs = await query(scene.database.pool, 'select state::text, output from pgboss.job where id = $1', [
    job.id,
  ]);
  expect(jobs).toEqual([
    { state: 'retry', output: { message: 'the process stops: another run goes on with it' } },
  ]);
  await scene.start();
  expect(await untilState(job.id, 'done')).toMatchObject({ total: 600, done: 600, error: null });
});

test('row 24: a backfill whose process was killed is taken up by another pipeline once it shows no sign of life', async () => {
  await insertBookings(30, { computed: false });
  const { job } = await askBackfill();
  // As a killed process leaves it.
  await query(
    scene.database.pool,
    `update pgboss.job set state = 'active', started_on = now() - interval '1 minute', heartbeat_on = now() - interval '1 minute'
     where id = $1`,
    [job.id],
  );
  await query(scene.database.pool, `update market_sync.task set state = 'running'`);
  await scene.start();
  expect(await untilState(job.id, 'done')).toMatchObject({ done: 30 });
}, 60_000);

test('a job that nobody will ever work, because a DBA has cancelled it in pg-boss, does not stand in the way of the next', async () => {
  const { pool } = scene.database;
  const { job } = await askBackfill();
  await query(pool, `update pgboss.job set state = 'cancelled' where id = $1`, [job.id]);
  const next = await askBackfill();
  expect(next.job.id).not.toBe(job.id);
  expect(await look(job.id)).toMatchObject({
    state: 'failed',
    error: expect.stringContaining('its job ended without it'),
  });
});

test('the daily cleanup deletes what nobody asks for any more, also while the pipeline is paused', async () => {
  const { pool } = scene.database;
  await query(
    pool,
    `insert into market_sync.task (kind, state, requested_by, finished_at)
     select 'backfill', 'done', name, now() - age
     from (values ('old', interval '31 days'), ('young', interval '29 days')) t (name, age);
     insert into market_sync.idempotency (caller, key, request_hash, state, owner, lease_until, created_at)
     select 'x', name, '', 'done', 'x', now() - age, now() - age
     from (values ('old', interval '25 hours'), ('young', interval '23 hours')) t (name, age);
     insert into market_sync.activity (kind, minute, events, items, changed, busy_ms)
     values ('publish', date_trunc('minute', now() - interval '2 days'), 1, 2, 3, 4);
     select market_sync.pause('maintenance')`,
  );
  const pipeline = await scene.start();
  await pipeline.queue.trigger('cleanup');
  await until('the cleanup has run', async () => {
    const rows = await query(pool, `select from pgboss.job where name = 'cleanup' and state = 'completed'`);
    return rows.length > 0;
  });
  const left = await query(
    pool,
    `select requested_by as name from market_sync.task union all select key from market_sync.idempotency
     union all select minute::text from market_sync.activity where minute < now() - interval '1 day'`,
  );
  expect(left.map((row) => row.name)).toEqual(['young', 'young', '-infinity']);
  await query(pool, 'truncate market_sync.idempotency, market_sync.activity');
});

test('jobs are listed, the last asked for first, page by page; what is no job is 404', async () => {
  const ids: string[] = [];
  for (let n = 0; n < 3; n += 1) {
    const { job } = await askBackfill();
    ids.unshift(job.id);
    await ask('POST', `/pipeline/jobs/${job.id}/cancel`);
  }
  const page = async (search: string) =>
    (await (await app.request(`/pipeline/jobs${search}`)).json()) as {
      jobs: JobResource[];
      next_cursor: string | null;
    };
  const first = await page('?limit=2');
  expect(first.jobs.map((job) => job.id)).toEqual(ids.slice(0, 2));
  expect(first.jobs[0]).not.toHaveProperty('results');
  const second = await page(`?limit=2&cursor=${first.next_cursor}`);
  expect([second.jobs.map((job) => job.id), second.next_cursor]).toEqual([ids.slice(2), null]);
  expect((await app.request('/pipeline/jobs/00000000-0000-4000-8000-000000000009')).status).toBe(404);
});
