import { OpenAPIHono } from '@hono/zod-openapi';
import type { Context } from 'hono';
import { afterAll, afterEach, beforeAll, expect, test } from 'vitest';
import { answerError } from '../../src/api/answer-error.ts';
import { createApi } from '../../src/api/app.ts';
import type { Caller } from '../../src/api/caller.ts';
import type { ApiEnv, RouteContext } from '../../src/api/context.ts';
import { EventBuffer } from '../../src/api/event-buffer.ts';
import { mountEvents, type StreamLimits } from '../../src/api/events.ts';
import { type ProblemCode, ProblemError } from '../../src/api/problem.ts';
import { startApi } from '../../src/api/server.ts';
import { mountSession } from '../../src/api/session-route.ts';
import { createPool, query } from '../../src/postgres.ts';
import { reconcileBookings } from '../../src/store/reconcile.ts';
import { startTestPipeline, testLog, until } from '../support/pipeline.ts';
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

interface Event {
  event: string;
  data: Record<string, unknown>;
}

const streams: EventStream[] = [];
afterEach(async () => {
  for (const stream of streams.splice(0)) await stream.close();
});

/** Reads a stream of events as a browser does, and keeps what came. */
class EventStream {
  readonly events: Event[] = [];
  text = '';
  ended = false;
  readonly #reader: ReadableStreamDefaultReader<Uint8Array>;

  constructor(response: Response) {
    if (response.body === null) throw new Error('no body');
    this.#reader = response.body.getReader();
    void this.#read();
    streams.push(this);
  }

  of(event: string): Record<string, unknown>[] {
    return this.events.filter((entry) => entry.event === event).map((entry) => entry.data);
  }

  async close(): Promise<void> {
    await this.#reader.cancel().catch(() => undefined);
  }

  async #read(): Promise<void> {
    const decoder = new TextDecoder();
    let rest = '';
    for (;;) {
      const { done, value } = await this.#reader.read().catch(() => ({ done: true, value: undefined }));
      if (done) break;
      const text = decoder.decode(value, { stream: true });
      this.text += text;
      rest += text;
      const blocks = rest.split('\n\n');
      rest = blocks.pop() ?? '';
      for (const block of blocks) {
        const [, event, data] = /^event: (\w+)\ndata: (.*)$/.exec(block) ?? [];
        if (event !== undefined && data !== undefined) {
          this.events.push({ event, data: JSON.parse(data) as Record<string, unknown> });
        }
      }
    }
    this.ended = true;
  }
}

async function open(
  app: { request: TestApi['app']['request'] } = api.app,
  headers: Record<string, string> = {},
) {
  const response = await app.request('/pipeline/events', { headers });
  expect([response.status, response.headers.get('content-type')]).toEqual([200, 'text/event-stream']);
  return new EventStream(response);
}

/** The second is the listening connection's own sign of life. */
const listeners = async (): Promise<number> =>
  (
    await query(
      api.database.pool,
      `select from pg_stat_activity where datname = current_database() and query in ('listen market_sync_publish', 'select')`,
    )
  ).length;

test('a change that is made in SQL is told, and that MongoDB has it, with how long that took', async () => {
  const pipeline = await startTestPipeline();
  try {
    const { pool } = pipeline.database;
    const app = createApi(apiContext({ pool, market: pipeline.market.market }));
    const { bookingId } = await insertBooking(pool, { cropType: 'Okra' });
    await pipeline.settle();
    const stream = await open(app);
    await until('a status', () => stream.of('status').length > 0);
    expect(stream.of('status')[0]).toMatchObject({
      available: true,
      consumer: { state: 'active' },
      snapshots: { total: 1 },
    });
    await query(pool, 'update storage_bookings set quantity_kg = 4321 where id = $1', [bookingId]);
    await until('the change is told', () => stream.of('change').length > 0);
    await until('its publication is told', () => stream.of('published').length > 0);
    expect(stream.of('change')).toEqual([
      {
        booking_id: bookingId,
        crop_type: 'Okra',
        status: expect.stringMatching(/^(ready_to_publish|publishing|published)$/),
        revision: expect.any(Number),
        updated_at: expect.stringMatching(/Z$/),
      },
    ]);
    const [published] = stream.of('published');
    expect(published).toEqual({
      booking_id: bookingId,
      revision: stream.of('change')[0]?.revision,
      latency_ms: expect.any(Number),
    });
    expect(published?.latency_ms).toBeLessThan(10_000);
    expect(stream.text).toContain('retry: 2000\n');
    await stream.close();
  } finally {
    await pipeline.stop();
  }
});

test('however many watch, one connection listens and one status a second is read, and nothing once they are gone', async () => {
  const all = await Promise.all(Array.from({ length: 5 }, () => open()));
  await until('somebody listens', async () => (await listeners()) === 1);
  await until('all have had two', () => all.every((stream) => stream.of('status').length >= 2));
  const { bookingId } = await insertSnapshot(api.database.pool);
  await until('all are told', () => all.every((stream) => stream.of('change').length === 1));
  expect(all.map((stream) => stream.of('change')[0]?.booking_id)).toEqual(Array(5).fill(bookingId));
  expect(await listeners()).toBe(1);
  for (const stream of all) await stream.close();
  await until('nobody listens', async () => (await listeners()) === 0);
});

test('of very many changes at once some are told, and what anybody notifies by hand is not believed', async () => {
  const { pool } = api.database;
  const stream = await open();
  await until('somebody listens', async () => (await listeners()) === 1);
  for (const payload of [
    '{',
    '{"bookings":1}',
    '{"bookings":["x"]}',
    'null',
    '{"bookings":["00000000-0000-4000-8000-000000000009"]}',
  ]) {
    await query(pool, `select pg_notify('market_sync_publish', $1)`, [payload]);
  }
  const rows = await query<{ id: string }>(
    pool,
    `insert into storage_bookings (farmer_id, crop_type, quantity_kg, booking_status)
     select gen_random_uuid(), 'Rice', n, 'active' from generate_series(1, 180) n returning id`,
  );
  const ids = rows.map((row) => row.id);
  await reconcileBookings(pool, { bookingIds: ids, now: undefined });
  // As many as fit into a notification; recompute() names 20.
  await query(pool, `select pg_notify('market_sync_publish', $1)`, [JSON.stringify({ bookings: ids })]);
  await until('changes are told', () => stream.of('change').length > 0);
  const { bookingId } = await insertSnapshot(pool);
  await until('the next one is told', () =>
    stream.of('change').some((data) => data.booking_id === bookingId),
  );
  expect(stream.of('change').length).toBeLessThan(100);
});

test('while PostgreSQL is slow one status is asked for at a time, and given up there too', async () => {
  const { pool } = api.database;
  const asked = async (): Promise<number> =>
    (
      await query(
        pool,
        `select from pg_stat_activity where datname = current_database() and wait_event_type = 'Lock'
           and query like '%s.consumer_state%' and pid <> pg_backend_pid()`,
      )
    ).length;
  const client = await pool.connect();
  let most = 0;
  try {
    await client.query('begin; lock table market_sync.latency_histogram in access exclusive mode');
    const stream = await open();
    await until('it was away three times', async () => {
      most = Math.max(most, await asked());
      return stream.of('status').filter((data) => data.available === false).length >= 3;
    });
    expect(most).toBe(1);
    await stream.close();
    await until('nothing is asked any more', async () => (await asked()) === 0);
  } finally {
    await client.query('rollback');
    client.release();
  }
});

test('while PostgreSQL is away the status says so, and the stream goes on by itself when it is back', async () => {
  const proxy = await startProxy(api.database.url);
  const pool = createPool({
    url: proxy.url,
    applicationName: 'test',
    sourceSchema: 'public',
    log: testLog(),
  });
  try {
    const stream = await open(createApi(apiContext({ pool, market: api.market.market })));
    await until('a status', () => stream.of('status').some((data) => data.available === true));
    await proxy.refuse();
    await until('it is away', () => stream.of('status').at(-1)?.available === false);
    expect(stream.of('status').at(-1)).toEqual({ available: false });
    await proxy.heal();
    await until('it is back', () => stream.of('status').at(-1)?.available === true);
    const { bookingId } = await insertBooking(api.database.pool);
    await until('changes are told again', async () => {
      await query(
        api.database.pool,
        'update storage_bookings set quantity_kg = quantity_kg + 1 where id = $1',
        [bookingId],
      );
      await reconcileBookings(api.database.pool, { bookingIds: [bookingId], now: undefined });
      return stream.of('change').some((data) => data.booking_id === bookingId);
    });
    await stream.close();
  } finally {
    await proxy.stop();
    await pool.end();
  }
});

/** The route alone, with limits that a test can reach. */
function mountAlone(
  limits: Partial<StreamLimits>,
  authenticate: (c: Context<ApiEnv>) => Partial<Caller> | undefined = () => undefined,
): OpenAPIHono<ApiEnv> {
  const app = new OpenAPIHono<ApiEnv>();
  app.onError((error, c) => answerError(testLog(), error, c));
  app.use(async (c, next) => {
    c.set('caller', { name: 'test', role: 'reader', via: 'local', expiresAt: undefined, ...authenticate(c) });
    await next();
  });
  mountSession(app);
  const ctx = { ...api.ctx, stopping: new AbortController().signal } as RouteContext;
  mountEvents(app, ctx, {
    streamsMax: 100,
    callerStreamsMax: 100,
    checkEveryMs: 60_000,
    uncheckedMsMax: 60_000,
    stalledMsMax: 60_000,
    ...limits,
  });
  return app;
}

test('HEAD of the events says what there is, and takes no place', async () => {
  const app = mountAlone({ streamsMax: 1 });
  for (let n = 0; n < 3; n += 1) {
    const response = await app.request('/pipeline/events', { method: 'HEAD' });
    expect([response.status, response.headers.get('content-type')]).toEqual([200, 'text/event-stream']);
  }
  await open(app);
});

test('a stream too many is 503 with when to come again, and has its place once another one is gone', async () => {
  const app = mountAlone({ streamsMax: 2 });
  const [first] = [await open(app), await open(app)];
  const refused = await app.request('/pipeline/events');
  expect([refused.status, refused.headers.get('retry-after')]).toEqual([503, '2']);
  await first?.close();
  await until('there is room', async () => {
    const response = await app.request('/pipeline/events');
    if (response.status !== 200) return false;
    new EventStream(response);
    return true;
  });
});

test('one caller has ten streams at most, and the others their places', async () => {
  const app = mountAlone({ callerStreamsMax: 2 }, (c) => ({ name: c.req.header('x-api-key') ?? 'test' }));
  /** Reads what it gets, also a stream that it should not have: none is left open. */
  const ask = async (key: string) => {
    const response = await app.request('/pipeline/events', { headers: { 'x-api-key': key } });
    return { status: response.status, stream: new EventStream(response) };
  };
  const [first] = [await open(app, { 'x-api-key': 'greedy' }), await open(app, { 'x-api-key': 'greedy' })];
  const refused = await ask('greedy');
  expect(refused.status).toBe(503);
  await until('it says why', () => refused.stream.text.includes('too_many_streams'));
  await open(app, { 'x-api-key': 'other' });
  await first?.close();
  await until('the caller has its place back', async () => (await ask('greedy')).status === 200);
  expect((await ask('greedy')).status).toBe(503);

  for (let at = 0; at < 10; at += 1) await open();
  const whole = await api.app.request('/pipeline/events');
  expect((await expectProblem(whole, 'too_many_streams')).detail).toContain(
    '10 event streams of this caller',
  );
});

test('I9: a reader that falls behind is dropped at once, and nothing is kept for it', async () => {
  let drops = 0;
  const buffer = new EventBuffer(() => {
    drops += 1;
  });
  const taken = buffer.take();
  buffer.push('a');
  expect(await taken).toBe('a');
  for (let n = 0; n < 100; n += 1) buffer.push('x'.repeat(1_000));
  expect([drops, buffer.closed]).toEqual([1, true]);
  expect(await buffer.take()).toBeUndefined();
});

/** Changes that are told, of names so long that they fill what is kept for a reader. */
async function changeMuch(): Promise<() => Promise<void>> {
  const { pool } = api.database;
  const rows = await query<{ id: string }>(
    pool,
    `insert into storage_bookings (farmer_id, crop_type, quantity_kg, booking_status)
     select gen_random_uuid(), repeat('🌾', 120), n, 'active' from generate_series(1, 40) n returning id`,
  );
  const ids = rows.map((row) => row.id);
  return async () => {
    await query(pool, 'update storage_bookings set quantity_kg = quantity_kg + 1 where id = any ($1)', [ids]);
    // No notification names more than 20.
    for (const some of [ids.slice(0, 20), ids.slice(20)]) {
      await query(pool, 'select market_sync.reconcile_bookings($1, null)', [some]);
    }
  };
}

test('I9: a client that stops reading is disconnected once it is too far behind, while others read on', async () => {
  const app = mountAlone({});
  const other = await open(app);
  let destroyed = false;
  const outgoing = {
    destroy: () => {
      destroyed = true;
    },
  };
  const stuck = await app.request('/pipeline/events', {}, { outgoing });
  const change = await changeMuch();
  await until('it is disconnected', async () => {
    await change();
    return destroyed;
  });
  const told = other.of('change').length;
  await change();
  await until('the other one is told', () => other.of('change').length > told);
  expect(other.ended).toBe(false);
  await other.close();
  await until('nobody listens', async () => (await listeners()) === 0);
  await stuck.body?.cancel();
});

test('a client that takes nothing for too long is disconnected, however little there is to tell', async () => {
  const app = mountAlone({ stalledMsMax: 300 });
  let destroyed = false;
  const outgoing = {
    destroy: () => {
      destroyed = true;
    },
  };
  const stuck = await app.request('/pipeline/events', {}, { outgoing });
  await until('it is disconnected', () => destroyed);
  await until('nobody listens', async () => (await listeners()) === 0);
  await stuck.body?.cancel();
});

test('a stream ends once its key is refused, and goes on while nobody can say', async () => {
  let answer: ProblemCode | undefined;
  let asked = 0;
  const app = mountAlone({ checkEveryMs: 50 }, () => {
    asked += 1;
    if (answer !== undefined) throw new ProblemError(answer, { detail: 'x' });
    return undefined;
  });
  const stream = await open(app, { authorization: 'Bearer x' });
  answer = 'database_unavailable';
  const before = asked;
  await until('it was asked again', () => asked > before + 2);
  expect(stream.ended).toBe(false);
  answer = 'key_refused';
  await until('it has ended', () => stream.ended);
});

test('a stream ends when nobody could check its key for too long', async () => {
  let away = false;
  const app = mountAlone({ checkEveryMs: 20, uncheckedMsMax: 400 }, () => {
    if (away) throw new ProblemError('identity_unavailable', { detail: 'x' });
    return undefined;
  });
  const stream = await open(app);
  const openedAt = performance.now();
  await until('it has lasted longer than that', () => performance.now() - openedAt > 600);
  expect(stream.ended).toBe(false);
  away = true;
  const awayAt = performance.now();
  await until('it has ended', () => stream.ended);
  expect(performance.now() - awayAt).toBeGreaterThan(300);
});

test('a stream ends when its key expires, asked about or not', async () => {
  let expiresAt: Date | undefined = new Date(Date.now() + 300);
  const app = mountAlone({}, () => ({ expiresAt }));
  const expiring = await open(app);
  // Further away than a timer can be set to.
  expiresAt = new Date(Date.now() + 100 * 86_400_000);
  const lasting = await open(app);
  await until('it has ended', () => expiring.ended);
  expect(lasting.ended).toBe(false);
});

test('a stream outlasts the limit of its own caller, not that of wrong keys', async () => {
  let limited: 'caller' | 'address' | undefined;
  let asked = 0;
  const app = mountAlone({ checkEveryMs: 20 }, (c) => {
    asked += 1;
    if (limited === 'caller') c.header('ratelimit', '"caller";r=0;t=3');
    if (limited !== undefined) throw new ProblemError('rate_limited', { detail: 'x' });
    return undefined;
  });
  const stream = await open(app);
  limited = 'caller';
  const before = asked;
  await until('it was asked again', () => asked > before + 2);
  expect(stream.ended).toBe(false);
  limited = 'address';
  await until('it has ended', () => stream.ended);
});

test('the streams of a server that stops end', async () => {
  const server = await startApi(api.ctx, { host: '127.0.0.1', port: 0 });
  const stream = new EventStream(await fetch(`${server.url}/pipeline/events`));
  await until('a status', () => stream.of('status').length > 0);
  const stoppedAt = performance.now();
  await server.stop();
  expect(performance.now() - stoppedAt).toBeLessThan(2_000);
  await until('the stream has ended', () => stream.ended);
  await until('nobody listens', async () => (await listeners()) === 0);
});

test('what is no reader does not watch', async () => {
  const app = createApi({ ...api.ctx, apiKey: 'correct-horse-battery', requireKey: true });
  await expectProblem(await app.request('/pipeline/events'), 'key_refused');
});
