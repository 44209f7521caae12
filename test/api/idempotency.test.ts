import { createRoute, z } from '@hono/zod-openapi';
import { afterAll, beforeAll, beforeEach, expect, test } from 'vitest';
import { createApi } from '../../src/api/app.ts';
import { actorOf } from '../../src/api/caller.ts';
import { ProblemError } from '../../src/api/problem.ts';
import { acceptJsonBody } from '../../src/api/request-input.ts';
import { requireRole } from '../../src/api/role.ts';
import { query } from '../../src/postgres.ts';
import { createKey } from '../../src/store/api-keys.ts';
import { claimKey, deleteOldAnswers } from '../../src/store/idempotency.ts';
import { until } from '../support/pipeline.ts';
import { createTestApi, expectProblem, type TestApi } from './setup.ts';

let api: TestApi;
let app: TestApi['app'];
let reader: string;
beforeAll(async () => {
  api = await createTestApi({ apiKey: 'correct-horse-battery' });
  const made = { name: 'reader', role: 'reader', expiresInSeconds: undefined, createdBy: 'test' } as const;
  reader = (await createKey(api.database.pool, made)) ?? '';
});
afterAll(() => api.drop());

/** What the route below did, and what it is to answer or to wait for. */
let done: { actor: string; key: string | undefined }[];
let answer: () => Promise<{ status: 200 | 201 | 404 | 409; body: object } | ProblemError>;

/** The API with one more call, which counts how often it is done. */
beforeEach(() => {
  done = [];
  answer = async () => ({ status: 200, body: { done: done.length } });
  app = createApi(api.ctx);
  const request = {
    params: z.object({ id: z.string() }),
    body: {
      required: true,
      content: { 'application/json': { schema: z.strictObject({ a: z.int().optional() }) } },
    },
  };
  for (const method of ['post', 'put', 'delete', 'get'] as const) {
    const route = createRoute({
      method,
      path: '/test/{id}/act',
      middleware: [requireRole('operator'), acceptJsonBody] as const,
      request: method === 'get' ? { params: request.params } : request,
      responses: { 200: { description: '' } },
    });
    app.openapi(route, async (c) => {
      const { actor, idempotencyKey } = actorOf(c);
      done.push({ actor, key: idempotencyKey });
      const given = await answer();
      if (given instanceof ProblemError) throw given;
      return c.json(given.body, given.status, { etag: '"7"', location: '/somewhere', 'x-other': 'x' });
    });
  }
});

let last = 0;
const newKey = (): string => {
  last += 1;
  return `key-${last}-!"~`;
};
const credentials = { authorization: 'Bearer correct-horse-battery' };
const send = (key: string | undefined, init: RequestInit & { path?: string } = {}) =>
  app.request(init.path ?? '/test/1/act', {
    method: 'POST',
    ...init,
    headers: {
      ...credentials,
      'content-type': 'application/json',
      ...(key === undefined ? {} : { 'idempotency-key': key }),
      ...init.headers,
    },
  });
const countRows = async (key: string): Promise<number> =>
  (await query(api.database.pool, 'select 1 from market_sync.idempotency where key = $1', [key])).length;

test.each(['POST', 'PUT', 'DELETE'])(
  'a %s that is sent again with its key is answered, not done again',
  async (method) => {
    const key = newKey();
    const first = await send(key, { method, body: '{"a":1}' });
    const second = await send(key, { method, body: '{"a":1}' });
    expect(done).toEqual([{ actor: 'API_KEY', key }]);
    expect([second.status, await second.text()]).toEqual([first.status, await first.text()]);
    for (const name of ['content-type', 'etag', 'location']) {
      expect(second.headers.get(name)).toBe(first.headers.get(name));
      expect(second.headers.get(name)).not.toBeNull();
    }
    expect([first, second].map(({ headers }) => headers.get('idempotency-replayed'))).toEqual([null, 'true']);
    expect(second.headers.get('x-request-id')).not.toBe(first.headers.get('x-request-id'));
  },
);

test('without a key, and for a read with one, a call is done each time', async () => {
  for (const [key, method] of [
    [undefined, 'POST'],
    [newKey(), 'GET'],
  ] as const) {
    done = [];
    for (let at = 0; at < 2; at += 1) expect((await send(key, { method })).status).toBe(200);
    expect(done).toHaveLength(2);
  }
});

test('100 calls at once with one key are done once; each is answered, or told to wait', async () => {
  const key = newKey();
  const answers = await Promise.all(Array.from({ length: 100 }, () => send(key)));
  expect(done).toHaveLength(1);
  for (const response of answers) {
    if (response.status === 409) await expectProblem(response, 'idempotency_in_work');
    else expect(await response.json()).toEqual({ done: 1 });
  }
});

test('while a call is in work the same one is 409 with Retry-After, and is answered after it', async () => {
  const key = newKey();
  const gate = Promise.withResolvers<void>();
  answer = async () => {
    await gate.promise;
    return { status: 201, body: { slow: true } };
  };
  const first = send(key);
  await until('the call is in work', () => done.length === 1);
  const second = await send(key);
  expect(Number(second.headers.get('retry-after'))).toBeGreaterThan(0);
  await expectProblem(second, 'idempotency_in_work');
  gate.resolve();
  expect((await first).status).toBe(201);
  expect(await (await send(key)).json()).toEqual({ slow: true });
  expect(done).toHaveLength(1);
});

test.each<[string, RequestInit & { path?: string }]>([
  ['body', { body: '{"a":2}' }],
  ['path', { path: '/test/2/act' }],
  ['query', { path: '/test/1/act?x=1' }],
  ['method', { method: 'PUT' }],
  ['If-Match', { headers: { 'if-match': '"3"' } }],
])('a key that comes with another %s is 422, and nothing is done', async (_, other) => {
  const key = newKey();
  const call = { body: '{"a":1}' };
  await send(key, call);
  await expectProblem(await send(key, { ...call, ...other }), 'idempotency_mismatch');
  expect(done).toHaveLength(1);
});

test('two callers may use the same key', async () => {
  const key = newKey();
  const made = { name: 'other', role: 'operator', expiresInSeconds: undefined, createdBy: 'test' } as const;
  const other = (await createKey(api.database.pool, made)) ?? '';
  await send(key);
  expect((await send(key, { headers: { authorization: `Bearer ${other}` } })).status).toBe(200);
  expect(done.map(({ actor }) => actor)).toEqual(['API_KEY', 'other']);
});

test.each([404, 409] as const)('an answer of %i is about the call, and is kept', async (status) => {
  const key = newKey();
  answer = async () => ({ status, body: { at: done.length } });
  for (let at = 0; at < 2; at += 1) {
    const response = await send(key);
    expect([response.status, await response.json()]).toEqual([status, { at: 1 }]);
  }
});

test('a problem is replayed as it was, with the id of the call that had it', async () => {
  const key = newKey();
  answer = async () => new ProblemError('conflict', { detail: 'held already' });
  const first = await (await send(key)).text();
  const second = await send(key);
  expect([await second.text(), second.headers.get('content-type')]).toEqual([
    first,
    'application/problem+json',
  ]);
  expect(done).toHaveLength(1);
});

test.each([
  'database_unavailable',
  'internal_error',
  'rate_limited',
  'body_timeout',
  'role_refused',
  'key_refused',
] as const)('after %s the same call may be made again with its key at once, and no other', async (code) => {
  const key = newKey();
  answer = async () => new ProblemError(code, { detail: 'not now' });
  await expectProblem(await send(key), code);
  await expectProblem(await send(key, { body: '{"another":"call"}' }), 'idempotency_mismatch');
  answer = async () => ({ status: 200, body: { well: true } });
  expect(await (await send(key)).json()).toEqual({ well: true });
  expect(done).toHaveLength(2);
});

test('a caller who may not make the call leaves no trace, and no address makes one', async () => {
  const key = newKey();
  const headers = { authorization: `Bearer ${reader}` };
  await expectProblem(await send(key, { headers }), 'role_refused');
  await expectProblem(await send(key, { headers: { authorization: 'Bearer wrong' } }), 'key_refused');
  await expectProblem(await send(key, { path: '/nothing' }), 'not_found');
  await expectProblem(
    await send(key, { path: '/storage-guard/snapshots', method: 'DELETE' }),
    'method_not_allowed',
  );
  expect(await countRows(key)).toBe(0);
  expect(done).toEqual([]);
});

test('an answer is not replayed to a caller who has lost the role for it', async () => {
  const { pool } = api.database;
  const made = { name: 'demoted', role: 'operator', expiresInSeconds: undefined, createdBy: 'test' } as const;
  const secret = (await createKey(pool, made)) ?? '';
  const [key, headers] = [newKey(), { authorization: `Bearer ${secret}` }];
  expect((await send(key, { headers })).status).toBe(200);
  await query(pool, `update market_sync.api_key set role = 'reader' where name = 'demoted'`);
  await until('the call is refused', async () => (await send(key, { headers })).status === 403);
});

test.each(['', 'with space', 'ümlaut', 'x'.repeat(256), 'tab\there'])('the key %j is 400', async (key) => {
  const problem = await expectProblem(await send(key), 'malformed_request');
  expect(problem.errors).toEqual([
    { in: 'header', name: 'idempotency-key', message: 'must be 1 to 255 visible ASCII characters' },
  ]);
  expect(done).toEqual([]);
  expect((await send('x'.repeat(255))).status).toBe(200);
});

test('a body that is too large is refused before anything is claimed', async () => {
  const key = newKey();
  await expectProblem(await send(key, { body: ' '.repeat(70_000) }), 'body_too_large');
  expect(await countRows(key)).toBe(0);
});

test('a claim whose process died is taken over once its lease has ended, by the same call only', async () => {
  const { pool } = api.database;
  const call = { caller: 'dead', key: newKey(), requestHash: Buffer.alloc(32, 1), owner: 'first' };
  expect(await claimKey(pool, call)).toEqual({ outcome: 'claimed' });
  const again = { ...call, owner: 'second' };
  expect(await claimKey(pool, again)).toMatchObject({ outcome: 'in_work' });
  await query(pool, `update market_sync.idempotency set lease_until = clock_timestamp() where key = $1`, [
    call.key,
  ]);
  expect(await claimKey(pool, { ...again, requestHash: Buffer.alloc(32, 2) })).toEqual({
    outcome: 'mismatch',
  });
  const racers = ['third', 'fourth', 'fifth'].map((owner) => claimKey(pool, { ...call, owner }));
  const outcomes = (await Promise.all(racers)).map(({ outcome }) => outcome);
  expect(outcomes.toSorted()).toEqual(['claimed', 'in_work', 'in_work']);
});

test('one who lost its claim does not overwrite the answer of who took it over', async () => {
  const key = newKey();
  const gates = [Promise.withResolvers<void>(), Promise.withResolvers<void>()];
  answer = async () => {
    const at = done.length;
    await gates[at - 1]?.promise;
    return { status: 200, body: { by: at } };
  };
  const slow = send(key);
  await until('the first is in work', () => done.length === 1);
  await query(
    api.database.pool,
    `update market_sync.idempotency set lease_until = clock_timestamp() where key = $1`,
    [key],
  );
  const fast = send(key);
  await until('the second took over', () => done.length === 2);
  gates[0]?.resolve();
  expect(await (await slow).json()).toEqual({ by: 1 });
  await expectProblem(await send(key), 'idempotency_in_work');
  gates[1]?.resolve();
  expect(await (await fast).json()).toEqual({ by: 2 });
  expect(await (await send(key)).json()).toEqual({ by: 2 });
});

test('what was done is answered although the answer cannot be kept', async () => {
  const key = newKey();
  answer = async () => {
    await query(api.database.pool, 'alter table market_sync.idempotency rename to gone');
    return { status: 200, body: { done: true } };
  };
  try {
    expect((await send(key)).status).toBe(200);
  } finally {
    await query(api.database.pool, 'alter table market_sync.gone rename to idempotency');
  }
});

test('a call whose key cannot be claimed in time is 503, and nothing is done', async () => {
  const holder = await api.database.pool.connect();
  try {
    await holder.query('begin; lock table market_sync.idempotency in access exclusive mode');
    const startedAt = performance.now();
    await expectProblem(await send(newKey()), 'database_unavailable');
    // Before PostgreSQL itself gives up waiting for the lock.
    expect(performance.now() - startedAt).toBeLessThan(20_000);
    expect(done).toEqual([]);
  } finally {
    await holder.query('rollback');
    holder.release();
  }
});

test('old answers are deleted, up to a limit, and what is in work stays', async () => {
  const { pool } = api.database;
  await query(pool, 'delete from market_sync.idempotency');
  await query(
    pool,
    `insert into market_sync.idempotency (caller, key, request_hash, state, owner, lease_until, created_at)
     select 'old', 'old ' || n, '\\x00'::bytea, 'done', 'x', '-infinity', clock_timestamp() - interval '25 hours'
     from generate_series(1, 5) n
     union all select 'old', 'working', '\\x00'::bytea, 'in_work', 'x', clock_timestamp() + interval '1 minute',
       clock_timestamp() - interval '25 hours'
     union all select 'old', 'young', '\\x00'::bytea, 'done', 'x', '-infinity', clock_timestamp() - interval '23 hours'`,
  );
  const old = { olderThanSeconds: 86_400 };
  expect(await deleteOldAnswers(pool, { ...old, limit: 3 })).toBe(3);
  expect(await deleteOldAnswers(pool, { ...old, limit: 100 })).toBe(2);
  const left = await query(pool, `select key from market_sync.idempotency order by key`);
  expect(left).toEqual([{ key: 'working' }, { key: 'young' }]);
});
