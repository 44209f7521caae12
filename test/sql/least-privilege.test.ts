import { randomUUID } from 'node:crypto';
import type { OpenAPIHono } from '@hono/zod-openapi';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { type Pipeline, startPipeline } from '../../pipeline/pipeline.ts';
import { createApi } from '../../src/api/app.ts';
import type { ApiEnv } from '../../src/api/context.ts';
import { requireMigrated } from '../../src/migrate.ts';
import { checkPostgres, query } from '../../src/postgres.ts';
import { createKey } from '../../src/store/api-keys.ts';
import { publishContext } from '../../src/store/publish.ts';
import { apiContext, insertBooking } from '../api/setup.ts';
import { recordLog } from '../support/log-recorder.ts';
import { createMarket, settle, type TestMarket, testConfig, until } from '../support/pipeline.ts';
import { createOwnedDatabase, type Login, type OwnedDatabase, refusalOf } from './logins.ts';

// The whole program on logins that own nothing, against a database that another login has migrated: the pipeline as a
// consumer and publisher, the API as market_sync_api, people as readers, operators and admins.

const INSUFFICIENT_PRIVILEGE = '42501';

let owned: OwnedDatabase;
let market: TestMarket;
let pipelineLogin: Login;
let apiLogin: Login;
let reader: Login;
let operator: Login;
let admin: Login;
let pipeline: Pipeline;
let api: OpenAPIHono<ApiEnv>;
const log = recordLog();

beforeAll(async () => {
  [owned, market] = await Promise.all([createOwnedDatabase(), createMarket()]);
  pipelineLogin = await owned.logins.create(['market_sync_consumer', 'market_sync_publisher'], {
    replication: true,
  });
  apiLogin = await owned.logins.create(['market_sync_api']);
  reader = await owned.logins.create(['market_sync_reader']);
  operator = await owned.logins.create(['market_sync_operator']);
  admin = await owned.logins.create(['market_sync_admin']);

  const config = testConfig({ url: pipelineLogin.url, name: owned.database.name });
  const { pool } = pipelineLogin;
  await checkPostgres(pool, pipelineLogin.url, { logical: true });
  await requireMigrated(pool);
  pipeline = await startPipeline({
    config,
    databaseUrl: pipelineLogin.url,
    pool,
    market: market.market,
    log: log.log,
  });
  await until('the consumer is active', () => pipeline.consumer.state === 'active');
  await requireMigrated(apiLogin.pool);
  api = createApi({
    ...apiContext({ pool: apiLogin.pool, market: market.market, log: log.log }),
    publish: publishContext({
      config,
      pool: apiLogin.pool,
      market: market.market,
      log: log.log,
      random: Math.random,
      role: 'api',
    }),
  });
});

afterAll(async () => {
  await pipeline?.stop();
  await market?.drop();
  await owned?.drop();
});

const settled = (): Promise<void> =>
  settle({ pool: owned.database.pool }, { failed: pipeline.failed, deadlineMs: 20_000 });

const listing = async (bookingId: string): Promise<Record<string, unknown> | undefined> =>
  (await market.market.listings.findOne({ booking_id: bookingId })) ?? undefined;

/** Shown with each call when there is one. */
let key: string | undefined;

async function call(
  method: string,
  path: string,
  body?: object,
): Promise<{ status: number; body: Record<string, unknown> }> {
  const headers: Record<string, string> = {};
  if (body !== undefined) headers['content-type'] = 'application/json';
  if (method !== 'GET') headers['idempotency-key'] = randomUUID();
  if (key !== undefined) headers.authorization = `Bearer ${key}`;
  const response = await api.request(path, {
    method,
    headers,
    ...(body === undefined ? {} : { body: JSON.stringify(body) }),
  });
  return { status: response.status, body: (await response.json()) as Record<string, unknown> };
}

/** Runs a job now and answers what it did, as a reader sees it. */
async function runJob(name: string): Promise<unknown> {
  const asked = new Date();
  await pipeline.queue.trigger(name);
  let done: { state: string; output: unknown; error: string | null } | undefined;
  await until(`${name} has run`, async () => {
    const rows = await query<{ state: string; output: unknown; error: string | null }>(
      reader.pool,
      `select state, output, error from market_sync.jobs
       where queue = $1 and created_at >= $2 and state in ('completed', 'failed', 'retry') order by created_at desc`,
      [name, asked],
    );
    done = rows[0];
    return done !== undefined;
  });
  expect(done).toMatchObject({ state: 'completed', error: null });
  return done?.output;
}

test('changes become listings, by a pipeline that owns nothing', async () => {
  const { bookingId } = await insertBooking(owned.owner.pool);
  await settled();
  expect(await listing(bookingId)).toMatchObject({ status: 'published', quantity_kg: 1200 });
  await query(owned.owner.pool, 'update storage_bookings set quantity_kg = 7 where id = $1', [bookingId]);
  await settled();
  expect(await listing(bookingId)).toMatchObject({ status: 'published', quantity_kg: 7 });
});

test('what the pipeline runs by schedule runs: sweep, refresh and cleanup, which deletes', async () => {
  const [kept, gone, stale] = [
    await insertBooking(owned.owner.pool),
    await insertBooking(owned.owner.pool),
    await insertBooking(owned.owner.pool),
  ];
  await settled();
  await query(owned.owner.pool, `update storage_bookings set booking_status = 'completed' where id = $1`, [
    gone.bookingId,
  ]);
  await settled();
  await query(
    owned.owner.pool,
    `update market_inventory_snapshots set ended_at = now() - interval '1 year' where booking_id = $1`,
    [gone.bookingId],
  );
  await query(
    owned.owner.pool,
    `update market_sync.snapshot_state set next_refresh_at = now() - interval '1 minute' where booking_id = $1`,
    [stale.bookingId],
  );
  expect(await runJob('publish-sweep')).toMatchObject({ failed: 0 });
  expect(await runJob('refresh')).toMatchObject({ refreshed: 1 });
  expect(await runJob('cleanup')).toMatchObject({ deleted: 1 });
  expect(await listing(gone.bookingId)).toBeUndefined();
  expect(await listing(kept.bookingId)).toMatchObject({ status: 'published' });
});

test('a resync that an admin asks for is worked off, and history is checked after a start of PostgreSQL', async () => {
  await query(admin.pool, `select market_sync.resync('a check of roles')`);
  await until('nothing is being recomputed', async () => {
    const rows = await query<{ resync_id: number | null }>(
      reader.pool,
      'select resync_id from market_sync.status',
    );
    return rows[0]?.resync_id === null;
  });
  await until('listings were compared', async () => {
    const rows = await query(reader.pool, `select from market_sync.drift where kind = 'versions'`);
    return rows.length === 1;
  });
  await query(owned.owner.pool, 'update market_sync.checkpoint set history_checked_for = null');
  await until('it was compared again', async () => {
    const rows = await query(
      owned.owner.pool,
      'select from market_sync.checkpoint where history_checked_for is not null',
    );
    return rows.length === 1;
  });
});

test('a snapshot that MongoDB refuses is parked, seen by a reader and released by an operator', async () => {
  const [first, second] = [await insertBooking(owned.owner.pool), await insertBooking(owned.owner.pool)];
  await settled();
  // Poison: with the id of another booking's listing, this one's can never be written.
  const taken = await listing(first.bookingId);
  await market.market.listings.deleteOne({ booking_id: second.bookingId });
  await query(
    owned.owner.pool,
    'update market_inventory_snapshots set market_listing_id = $2, published_at = null where booking_id = $1',
    [second.bookingId, String(taken?._id)],
  );
  await query(owned.owner.pool, 'update storage_bookings set quantity_kg = 8 where id = $1', [
    second.bookingId,
  ]);
  const parked = (): Promise<{ booking_id: string }[]> =>
    query(reader.pool, 'select booking_id from market_sync.parked');
  await until('it is parked', async () => (await parked()).length === 1);
  expect(await parked()).toEqual([{ booking_id: second.bookingId }]);
  await query(
    owned.owner.pool,
    'update market_inventory_snapshots set market_listing_id = null where booking_id = $1',
    [second.bookingId],
  );
  expect(await query(operator.pool, 'select market_sync.retry_parked() as released')).toEqual([
    { released: 1 },
  ]);
  await settled();
  expect(await listing(second.bookingId)).toMatchObject({ quantity_kg: 8 });
});

interface OpenApi {
  paths: Record<string, Record<string, unknown>>;
}

test('the API answers every read on a login of its own', async () => {
  const { bookingId } = await insertBooking(owned.owner.pool);
  await settled();
  await call('PUT', `/storage-guard/snapshots/${bookingId}/override`, { grade: 'B', reason: 'to be read' });
  const started = await call('POST', '/storage-guard/snapshots/backfill');
  const { id: jobId } = started.body.job as { id: string };
  const asked = await call('POST', '/pipeline/audits', { reason: 'to be read' });
  const { id: auditId } = asked.body.audit as { id: number };
  const { paths } = (await (await api.request('/openapi.json')).json()) as OpenApi;
  const reads = Object.keys(paths).filter((path) => paths[path]?.get !== undefined);
  expect(reads.length).toBeGreaterThan(12);
  for (const path of reads) {
    const abort = new AbortController();
    const address = path
      .replace('{booking_id}', bookingId)
      .replace('{job_id}', jobId)
      .replace('{audit_id}', String(auditId));
    const response = await api.request(address, { signal: abort.signal });
    expect(response.status, `${address}: ${response.status === 200 ? '' : await response.text()}`).toBe(200);
    if (path !== '/pipeline/events') continue;
    const reading = response.body?.getReader();
    expect((await reading?.read())?.done).toBe(false);
    await reading?.cancel();
  }
});

test('the API acts on a login of its own, and the audit names its caller', async () => {
  await createKey(owned.owner.pool, {
    name: 'the shop',
    role: 'admin',
    expiresInSeconds: undefined,
    createdBy: 'a test',
  }).then((made) => {
    key = made;
  });
  const { bookingId } = await insertBooking(owned.owner.pool);
  await settled();
  const path = `/storage-guard/snapshots/${bookingId}`;
  const reason = 'a test of rights';
  const actions: [action: string, method: string, path: string, body?: object][] = [
    ['publish_now', 'POST', `${path}/publish`],
    ['reconcile', 'POST', `${path}/reconcile`],
    ['hold', 'POST', `${path}/hold`, { reason }],
    ['release', 'POST', `${path}/release`, { reason }],
    ['withdraw', 'POST', `${path}/withdraw`, { reason }],
    ['release', 'POST', `${path}/release`, {}],
    ['set_override', 'PUT', `${path}/override`, { grade: 'A', reason }],
    ['end_override', 'DELETE', `${path}/override`],
    ['pause', 'POST', '/pipeline/pause', { reason }],
    ['resume', 'POST', '/pipeline/resume'],
    ['resync', 'POST', '/pipeline/resync', { reason }],
    ['backfill', 'POST', '/storage-guard/snapshots/backfill'],
    ['audit', 'POST', '/pipeline/audits', { reason }],
  ];
  const [before] = await query<{ id: number }>(
    reader.pool,
    'select coalesce(max(id), 0) as id from market_sync.audit_log',
  );
  for (const [action, method, address, body] of actions) {
    const { status, body: answer } = await call(method, address, body);
    expect([200, 202], `${action}: ${JSON.stringify(answer)}`).toContain(status);
  }
  const audited = await query<{ action: string; actor: string; via: string; db_user: string }>(
    reader.pool,
    'select action, actor, via, db_user from market_sync.audit_log where id > $1 order by id',
    [before?.id],
  );
  expect(audited).toEqual(
    actions.map(([action]) => ({ action, actor: 'the shop', via: 'http', db_user: apiLogin.name })),
  );
  // Audited only if the pipeline has left it something to publish.
  expect((await call('POST', '/storage-guard/snapshots/sync-all')).status).toBe(200);
  key = undefined;
});

test('a backfill that the API asks for is worked by the pipeline', async () => {
  const { status, body } = await call('POST', '/storage-guard/snapshots/backfill');
  expect(status).toBe(202);
  const { id } = body.job as { id: string };
  const job = async (): Promise<Record<string, unknown>> =>
    (await call('GET', `/pipeline/jobs/${id}`)).body.job as Record<string, unknown>;
  await until('it has ended', async () => (await job()).finished_at !== null);
  expect(await job()).toMatchObject({ state: 'done', failed: 0, error: null });
  expect(Number((await job()).done)).toBeGreaterThan(4);
});

test('an actor that a login merely claims counts for nothing', async () => {
  const { bookingId } = await insertBooking(owned.owner.pool);
  await settled();
  const client = await operator.pool.connect();
  try {
    await client.query(`select set_config('market_sync.actor', 'somebody else', false)`);
    await client.query(`select market_sync.hold(array['${bookingId}']::uuid[], 'checks who it was')`);
  } finally {
    client.release(true);
  }
  const [row] = await query(
    reader.pool,
    `select actor, via, db_user from market_sync.audit_log where action = 'hold' and booking_ids = array[$1::uuid]`,
    [bookingId],
  );
  expect(row).toEqual({ actor: operator.name, via: 'sql', db_user: operator.name });
});

test.each([
  ['reader', `select market_sync.hold(array[gen_random_uuid()], 'no')`, () => reader],
  ['reader', `select market_sync.retry_parked()`, () => reader],
  ['reader', 'select * from storage_bookings', () => reader],
  ['reader', 'select * from market_sync.api_key', () => reader],
  ['reader', 'select * from market_sync.checkpoint', () => reader],
  ['reader', 'select * from pgboss.job', () => reader],
  ['reader', 'delete from market_inventory_snapshots', () => reader],
  ['operator', `select market_sync.pause('no')`, () => operator],
  ['operator', 'select market_sync.resume()', () => operator],
  ['operator', `select market_sync.resync('no')`, () => operator],
  ['operator', `select market_sync.record_action('hold', null, null, null)`, () => operator],
  ['operator', `select market_sync.take_off_market('hold', array[gen_random_uuid()], 'no')`, () => operator],
  ['operator', 'select market_sync.reconcile_bookings(array[gen_random_uuid()], null)', () => operator],
  ['operator', 'delete from market_sync.manual_state', () => operator],
  ['operator', 'delete from market_sync.manual_action', () => operator],
  ['admin', `select market_sync.cut_history('no')`, () => admin],
  ['admin', 'update market_sync.checkpoint set epoch = 7', () => admin],
  ['admin', 'select * from market_sync.api_key', () => admin],
  ['api', 'select * from users', () => apiLogin],
  ['api', 'select * from vendors', () => apiLogin],
  ['api', `update storage_bookings set quantity_kg = 0`, () => apiLogin],
  ['api', `insert into market_sync.api_key (prefix) values ('abcd')`, () => apiLogin],
  ['api', `update market_sync.api_key set role = 'admin'`, () => apiLogin],
  ['api', `insert into market_sync.manual_action (action) values ('none')`, () => apiLogin],
  ['api', 'delete from market_sync.manual_action', () => apiLogin],
  ['api', 'delete from pgboss.job', () => apiLogin],
  ['api', `select market_sync.acquire_consumer('no', 'no', interval '1 s')`, () => apiLogin],
  ['pipeline', 'select * from storage_bookings', () => pipelineLogin],
  ['pipeline', 'select * from users', () => pipelineLogin],
  ['pipeline', 'select * from market_sync.api_key', () => pipelineLogin],
  ['pipeline', 'select body from market_sync.idempotency', () => pipelineLogin],
  ['pipeline', `select market_sync.pause('no')`, () => pipelineLogin],
  ['pipeline', `select market_sync.hold(array[gen_random_uuid()], 'no')`, () => pipelineLogin],
  ['pipeline', 'update market_inventory_snapshots set revision = 9', () => pipelineLogin],
  ['pipeline', 'update market_sync.checkpoint set commit_lsn = null', () => pipelineLogin],
  ['pipeline', 'create table market_sync.mine ()', () => pipelineLogin],
] as [string, string, () => Login][])('the role %s may not: %s', async (_, statement, login) => {
  expect(await refusalOf(login().pool, statement)).toBe(INSUFFICIENT_PRIVILEGE);
});

test('a login without any of the roles sees and calls nothing', async () => {
  const nobody = await owned.logins.create([]);
  for (const statement of [
    'select * from market_sync.status',
    'select * from market_inventory_snapshots',
    `select market_sync.hold(array[gen_random_uuid()], 'no')`,
    `select market_sync.latency_bound(1)`,
  ]) {
    expect(await refusalOf(nobody.pool, statement), statement).toBe(INSUFFICIENT_PRIVILEGE);
  }
});

test('the application needs no right to any of it', async () => {
  const application = await owned.logins.create([]);
  await query(
    owned.owner.pool,
    `grant select, insert, update, delete on vendors, storage_locations, crop_inspections, storage_bookings, iot_sensors,
       sensor_readings, pest_detections, compliance_certificates, storage_certificates to ${application.name}`,
  );
  const { bookingId } = await insertBooking(application.pool);
  await settled();
  expect(await listing(bookingId)).toMatchObject({ status: 'published' });
});

test('nothing in the log says that a right is missing', () => {
  expect(log.count('queue error'), JSON.stringify(log.last('queue error'))).toBe(0);
  expect(log.count('job failed'), JSON.stringify(log.last('job failed'))).toBe(0);
});
