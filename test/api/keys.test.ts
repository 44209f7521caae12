import { createHash } from 'node:crypto';
import { afterAll, beforeAll, expect, onTestFinished, test, vi } from 'vitest';
import { createApi } from '../../src/api/app.ts';
import { createPool, query } from '../../src/postgres.ts';
import { createKey, listKeys, type Role, revokeKey, rotateKey } from '../../src/store/api-keys.ts';
import { testLog, until } from '../support/pipeline.ts';
import { createTestApi, expectProblem, type TestApi } from './setup.ts';

const MINUTE_MS = 60_000;
const LIST = '/storage-guard/snapshots';

let api: TestApi;
/** Needs a key, whether there is one or not. */
let guarded: TestApi['app'];
beforeAll(async () => {
  api = await createTestApi();
  guarded = createApi({ ...api.ctx, requireKey: true });
});
afterAll(() => api.drop());

let made = 0;
async function newKey(role: Role = 'reader', expiresInSeconds?: number): Promise<string> {
  made += 1;
  const key = await createKey(api.database.pool, {
    name: `key ${made}`,
    role,
    expiresInSeconds,
    createdBy: 'test',
  });
  if (key === undefined) throw new Error('no key was made');
  return key;
}

const prefixOf = (key: string): string => key.split('_')[0] ?? '';
const ask = (key: string, { app = guarded, path = LIST } = {}) =>
  app.request(path, { headers: { authorization: `Bearer ${key}` } });
const revoke = (prefix: string, pool = api.database.pool) => revokeKey(pool, { prefix, revokedBy: 'test' });
const change = (set: string, key: string) =>
  query(api.database.pool, `update market_sync.api_key set ${set} where prefix = $1`, [prefixOf(key)]);

test('a key works, and the table has nothing but the hash of its secret', async () => {
  const key = await newKey('operator');
  expect(key).toMatch(/^ms[a-z2-7]{10}_[\w-]{43}$/);
  expect(await (await ask(key, { path: '/session' })).json()).toMatchObject({
    name: `key ${made}`,
    role: 'operator',
    key_required: true,
    expires_at: null,
  });
  const secret = key.slice(key.indexOf('_') + 1);
  const rows = await query<{ row: string; secret_hash: Buffer }>(
    api.database.pool,
    'select k::text as row, secret_hash from market_sync.api_key k where prefix = $1',
    [prefixOf(key)],
  );
  expect(rows[0]?.row).not.toContain(secret);
  expect(rows[0]?.secret_hash).toEqual(createHash('sha256').update(secret).digest());
});

test('a secret may hold _: the prefix ends at the first one', async () => {
  const secret = '_'.repeat(43);
  const key = await newKey();
  await query(api.database.pool, 'update market_sync.api_key set secret_hash = $2 where prefix = $1', [
    prefixOf(key),
    createHash('sha256').update(secret).digest(),
  ]);
  expect((await ask(`${prefixOf(key)}_${secret}`)).status).toBe(200);
  await expectProblem(await ask(key), 'key_refused');
});

test('what is nearly a key is refused: another secret, prefix or form', async () => {
  const [key, other] = [await newKey(), await newKey()];
  const secret = key.slice(key.indexOf('_') + 1);
  const last = secret.endsWith('A') ? 'B' : 'A';
  for (const wrong of [
    `${prefixOf(other)}_${secret}`,
    `msaaaaaaaaaa_${secret}`,
    `${key.slice(0, -1)}${last}`,
    key.slice(0, -1),
    `${key}A`,
    key.toUpperCase(),
    prefixOf(key),
    `${prefixOf(key)}_`,
    secret,
    `_${secret}`,
  ]) {
    await expectProblem(await ask(wrong), 'key_refused');
  }
  expect((await ask(key)).status).toBe(200);
});

test('a revoked key and an expired one are refused', async () => {
  const [revoked, expired] = [await newKey(), await newKey()];
  expect(await revoke(prefixOf(revoked))).toBe('revoked');
  expect(await revoke(prefixOf(revoked))).toBe('was_revoked');
  await change(`expires_at = clock_timestamp() - interval '1 ms'`, expired);
  for (const key of [revoked, expired]) await expectProblem(await ask(key), 'key_refused');
});

test('a key that was just used and is revoked ends within seconds', async () => {
  const key = await newKey();
  expect((await ask(key)).status).toBe(200);
  await revoke(prefixOf(key));
  await until('the key is refused', async () => (await ask(key)).status === 401);
});

test('a key that expires says when, and ends then although it was just looked up', async () => {
  const key = await newKey('reader', 1);
  const session = (await (await ask(key, { path: '/session' })).json()) as { expires_at: string };
  expect(Math.abs(Date.parse(session.expires_at) - Date.now())).toBeLessThan(60_000);
  const startedAt = performance.now();
  await until('the key is refused', async () => (await ask(key)).status === 401);
  // Sooner than the cache would forget it.
  expect(performance.now() - startedAt).toBeLessThan(3_000);
});

test('when a key was used is noted, once a minute at most', async () => {
  const key = await newKey();
  const lastUsed = async () =>
    (
      await query<{ at: Date | null }>(
        api.database.pool,
        'select last_used_at as at from market_sync.api_key where prefix = $1',
        [prefixOf(key)],
      )
    )[0]?.at ?? undefined;
  await ask(key);
  await until('the use is noted', async () => (await lastUsed()) !== undefined);
  const first = await lastUsed();
  // Other processes note it too.
  const another = createApi({ ...api.ctx, requireKey: true });
  await ask(key, { app: another });
  await change(`last_used_at = clock_timestamp() - interval '61 s'`, key);
  await ask(key, { app: createApi({ ...api.ctx, requireKey: true }) });
  await until(
    'the use is noted again',
    async () => ((await lastUsed())?.getTime() ?? 0) > Date.now() - 60_000,
  );
  expect((await lastUsed())?.getTime()).toBeGreaterThan((first?.getTime() ?? 0) - 1);
});

test('a call succeeds although its use cannot be noted', async () => {
  const key = await newKey();
  const holder = await api.database.pool.connect();
  try {
    await holder.query('begin; lock table market_sync.api_key in share mode');
    expect((await ask(key)).status).toBe(200);
  } finally {
    await holder.query('rollback');
    holder.release();
  }
});

test('from the first key on, calls without one are refused, also after the last one was revoked', async () => {
  const own = await createTestApi();
  try {
    expect((await own.app.request(LIST)).status).toBe(200);
    const key = await createKey(own.database.pool, {
      name: 'first',
      role: 'admin',
      expiresInSeconds: undefined,
      createdBy: 'test',
    });
    await until('a call without a key is refused', async () => (await own.app.request(LIST)).status === 401);
    expect((await own.app.request('/healthz')).status).toBe(200);
    expect((await ask(key ?? '', { app: own.app })).status).toBe(200);
    await revoke(prefixOf(key ?? ''), own.database.pool);
    await until('the key is refused', async () => (await ask(key ?? '', { app: own.app })).status === 401);
    await expectProblem(await own.app.request(LIST), 'key_refused');
  } finally {
    await own.drop();
  }
});

test('while PostgreSQL is away a key that was used goes on, one that was not is 503, and API_KEY needs nobody', async () => {
  const setting = 'correct-horse-battery';
  const [used, unused] = [await newKey(), await newKey()];
  const pool = createPool({
    url: api.database.url,
    applicationName: 'going away',
    sourceSchema: 'public',
    log: testLog(),
  });
  const app = createApi({ ...api.ctx, pool, apiKey: setting, requireKey: true });
  expect((await ask(used, { app })).status).toBe(200);
  await pool.end();
  // Longer than a key is taken without being looked up.
  vi.useFakeTimers({ toFake: ['performance'] });
  onTestFinished(() => void vi.useRealTimers());
  vi.advanceTimersByTime(4 * MINUTE_MS);
  for (const key of [used, setting]) {
    const metrics = await ask(key, { app, path: '/metrics' });
    expect([metrics.status, /^market_sync_postgres_up (\d)$/m.exec(await metrics.text())?.[1]]).toEqual([
      200,
      '0',
    ]);
    await expectProblem(await ask(key, { app }), 'database_unavailable');
  }
  await expectProblem(await ask(unused, { app, path: '/metrics' }), 'database_unavailable');
  // Another secret is no better for the prefix being known.
  await expectProblem(await ask(`${prefixOf(used)}_${'A'.repeat(43)}`, { app }), 'key_refused');
  vi.advanceTimersByTime(2 * MINUTE_MS);
  await expectProblem(await ask(used, { app, path: '/metrics' }), 'database_unavailable');
});

test('API_KEY is an admin by that name, whatever the table holds', async () => {
  const setting = 'correct-horse-battery';
  const app = createApi({ ...api.ctx, apiKey: setting, requireKey: true });
  expect(await (await ask(setting, { app, path: '/session' })).json()).toMatchObject({
    name: 'API_KEY',
    role: 'admin',
    key_required: true,
  });
});

test('two different keys in one call are refused although both are right', async () => {
  const [one, two] = [await newKey(), await newKey()];
  const headers = { authorization: `Bearer ${one}`, 'x-api-key': two };
  await expectProblem(await guarded.request(LIST, { headers }), 'key_refused');
  expect((await guarded.request(LIST, { headers: { ...headers, 'x-api-key': one } })).status).toBe(200);
});

test('whoever makes, rotates or revokes a key is audited once, and nobody who changes nothing', async () => {
  const { pool } = api.database;
  await query(pool, 'truncate market_sync.manual_action');
  const named = { name: 'audited', role: 'reader', expiresInSeconds: undefined, createdBy: 'ann' } as const;
  const first = prefixOf((await createKey(pool, named)) ?? '');
  await createKey(pool, named);
  const rotate = (prefix: string) => rotateKey(pool, { prefix, overlapSeconds: 60, createdBy: 'ben' });
  const rotated = await rotate(first);
  if (rotated.outcome !== 'rotated') throw new Error(rotated.outcome);
  const second = prefixOf(rotated.key);
  for (const prefix of [first, 'msunknown']) await rotate(prefix);
  for (const prefix of [second, second, 'msunknown']) await revokeKey(pool, { prefix, revokedBy: 'cid' });
  await rotate(second);
  const common = { name: 'audited', role: 'reader' };
  const entries: unknown[] = await query(
    pool,
    `select action, via, actor = session_user as by_login, booking_ids, details from market_sync.manual_action order by id`,
  );
  expect(entries).toEqual(
    [
      ['create_key', { ...common, prefix: first, by: 'ann' }],
      ['rotate_key', { ...common, prefix: second, replaces: first, by: 'ben' }],
      ['revoke_key', { ...common, prefix: second, by: 'cid' }],
    ].map(([action, details]) => ({ action, via: 'sql', by_login: true, booking_ids: null, details })),
  );
});

test('a key that cannot be audited is not made', async () => {
  const { pool } = api.database;
  const key = await newKey();
  const forbid = (how: string) =>
    query(
      pool,
      `alter table market_sync.manual_action ${how} constraint nothing ${how === 'add' ? 'check (false) not valid' : ''}`,
    );
  const before = await listKeys(pool);
  await forbid('add');
  try {
    const prefix = prefixOf(key);
    await expect(newKey()).rejects.toThrow('nothing');
    await expect(rotateKey(pool, { prefix, overlapSeconds: 0, createdBy: 'x' })).rejects.toThrow('nothing');
    await expect(revoke(prefix)).rejects.toThrow('nothing');
  } finally {
    await forbid('drop');
  }
  expect(await listKeys(pool)).toEqual(before);
});

test('an active key has its name for itself, until it ends', async () => {
  const { pool } = api.database;
  const named = { name: 'the same', role: 'reader', expiresInSeconds: undefined, createdBy: 'test' } as const;
  const key = await createKey(pool, named);
  expect(key).toBeDefined();
  expect(await createKey(pool, named)).toBeUndefined();
  await revoke(prefixOf(key ?? ''));
  expect(await createKey(pool, named)).toBeDefined();
});

test('whoever makes a key waits for who is making one, and sees its name', async () => {
  const { pool } = api.database;
  const holder = await pool.connect();
  let settled = false;
  try {
    await holder.query(
      `begin; insert into market_sync.api_key (prefix, secret_hash, name, role, created_by)
       values ('msbeingmade', sha256('x'), 'being made', 'reader', 'test')`,
    );
    const second = createKey(pool, {
      name: 'being made',
      role: 'admin',
      expiresInSeconds: undefined,
      createdBy: 'test',
    }).finally(() => {
      settled = true;
    });
    await until('the second one waits', async () => {
      const waiting = `select from pg_stat_activity where wait_event_type = 'Lock' and datname = current_database()`;
      return settled || (await pool.query(waiting)).rowCount === 1;
    });
    await holder.query('commit');
    expect(await second).toBeUndefined();
  } finally {
    holder.release();
  }
});

test('a rotated key and its successor both work until the overlap ends, and are one name and role', async () => {
  const { pool } = api.database;
  const old = await newKey('operator', 1_000);
  const rotated = await rotateKey(pool, { prefix: prefixOf(old), overlapSeconds: 60, createdBy: 'rotator' });
  if (rotated.outcome !== 'rotated') throw new Error(rotated.outcome);
  for (const key of [old, rotated.key]) {
    expect(await (await ask(key, { path: '/session' })).json()).toMatchObject({
      name: `key ${made}`,
      role: 'operator',
    });
  }
  const keys = (await listKeys(pool)).filter(({ name }) => name === `key ${made}`);
  const secondsLeft = keys.map(({ expires_at }) => ((expires_at?.getTime() ?? 0) - Date.now()) / 1_000);
  expect(keys.map(({ created_by, state }) => [created_by, state])).toEqual([
    ['rotator', 'active'],
    ['test', 'active'],
  ]);
  expect(secondsLeft[0]).toBeGreaterThan(900);
  expect(secondsLeft[1]).toBeLessThan(120);
});

test('of two who rotate a key at once one makes the new one, and what has ended is not rotated', async () => {
  const { pool } = api.database;
  const key = await newKey();
  const rotate = () => rotateKey(pool, { prefix: prefixOf(key), overlapSeconds: 60, createdBy: 'test' });
  const outcomes = (await Promise.all([rotate(), rotate()])).map(({ outcome }) => outcome);
  expect(outcomes.toSorted()).toEqual(['replaced', 'rotated']);
  expect((await listKeys(pool)).filter(({ name }) => name === `key ${made}`)).toHaveLength(2);
  const ended = await newKey();
  await revoke(prefixOf(ended));
  expect(await rotateKey(pool, { prefix: prefixOf(ended), overlapSeconds: 0, createdBy: 'test' })).toEqual({
    outcome: 'not_active',
  });
  expect(await rotateKey(pool, { prefix: 'msunknown', overlapSeconds: 0, createdBy: 'test' })).toEqual({
    outcome: 'unknown',
  });
});

test('an overlap never makes a key last longer than it would have', async () => {
  const { pool } = api.database;
  const key = await newKey('reader', 60);
  const rotated = await rotateKey(pool, { prefix: prefixOf(key), overlapSeconds: 3_600, createdBy: 'test' });
  if (rotated.outcome !== 'rotated') throw new Error(rotated.outcome);
  expect(rotated.oldExpiresAt.getTime() - Date.now()).toBeLessThan(120_000);
});
