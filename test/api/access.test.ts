import { OpenAPIHono } from '@hono/zod-openapi';
import type { Context } from 'hono';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { createApi, requireRoles } from '../../src/api/app.ts';
import type { ApiEnv } from '../../src/api/context.ts';
import { requireRole } from '../../src/api/role.ts';
import { createTestApi, expectProblem, insertSnapshot, type TestApi } from './setup.ts';

const KEY = 'correct-horse-battery';
const LIST = '/storage-guard/snapshots';
const OPEN = ['/healthz', '/readyz', '/openapi.json', '/docs', '/docs/start.js', '/'];

/** `app` needs no key, `guarded` does; both know the same one. */
let api: TestApi;
let guarded: TestApi['app'];
beforeAll(async () => {
  api = await createTestApi({ apiKey: KEY });
  guarded = createApi({ ...api.ctx, requireKey: true });
});
afterAll(() => api.drop());

const withKey: [string, Record<string, string>][] = [
  ['Authorization: Bearer', { authorization: `Bearer ${KEY}` }],
  ['authorization in lower case', { authorization: `bearer ${KEY}` }],
  ['X-API-Key', { 'x-api-key': KEY }],
];
const wrongKey: [string, Record<string, string>][] = [
  ['another key', { 'x-api-key': 'correct-horse-batterx' }],
  ['a beginning of the key', { 'x-api-key': KEY.slice(0, -1) }],
  ['an empty key', { 'x-api-key': '' }],
  ['the key under another scheme', { authorization: `Basic ${KEY}` }],
  ['no scheme', { authorization: KEY }],
  ['one right and one wrong', { authorization: `Bearer ${KEY}`, 'x-api-key': 'x' }],
];

test.each(withKey)('the key as %s is accepted', async (_, headers) => {
  expect((await guarded.request(LIST, { headers })).status).toBe(200);
});

test.each(wrongKey)('%s is 401, where a key is needed and where none is', async (_, headers) => {
  for (const app of [api.app, guarded]) {
    const response = await app.request(LIST, { headers });
    expect(response.headers.get('www-authenticate')).toBe('Bearer realm="market-sync"');
    await expectProblem(response, 'key_refused');
  }
});

test('without a key everything is 401 where one is needed, also what does not exist; health and docs are open', async () => {
  for (const path of [LIST, `${LIST}/x`, '/nothing', '/docsx', '/healthz/']) {
    await expectProblem(await guarded.request(path), 'key_refused');
  }
  for (const path of OPEN) expect([200, 302, 503]).toContain((await guarded.request(path)).status);
});

test('where no key is configured, a call with one is refused', async () => {
  const app = createApi({ ...api.ctx, apiKey: undefined });
  expect((await app.request(LIST)).status).toBe(200);
  await expectProblem(await app.request(LIST, { headers: { 'x-api-key': KEY } }), 'key_refused');
});

test('deny by default: an API with a route that does not say who may call it is never built', () => {
  const app = new OpenAPIHono<ApiEnv>();
  const answer = (c: Context<ApiEnv>) => c.json({});
  app.get('/docs/more.css', answer);
  app.get('/healthz', answer);
  app.get('/declared', requireRole('reader'), answer);
  expect(() => requireRoles(app, 0)).not.toThrow();
  const before = app.routes.length;
  app.get('/later', answer, requireRole('reader'));
  expect(() => requireRoles(app, before)).toThrow('GET /later does not say who may call it');
  const open = app.routes.length;
  app.post('/docsx', answer);
  expect(() => requireRoles(app, open)).toThrow('POST /docsx');
});

test.each([
  'http://evil.example/',
  'http://localhost.evil.example/',
  'http://10.0.0.1:3000/',
  'http://[::2]/',
])(
  'without a key a page whose name %s was pointed at this machine reads nothing, not even docs',
  async (origin) => {
    for (const path of [LIST, ...OPEN]) {
      await expectProblem(await api.app.request(new URL(path, origin).href), 'wrong_host');
    }
    const headers = { 'x-api-key': KEY };
    expect((await guarded.request(new URL(LIST, origin).href, { headers })).status).toBe(200);
  },
);

test.each(['http://localhost:3000', 'http://127.0.0.1', 'http://127.8.9.1', 'http://[::1]:3000'])(
  '%s is a loopback name',
  async (origin) => {
    expect((await api.app.request(`${origin}${LIST}`)).status).toBe(200);
  },
);

const foreign: [string, Record<string, string>][] = [
  ['Sec-Fetch-Site: cross-site', { 'sec-fetch-site': 'cross-site' }],
  ['Sec-Fetch-Site: same-site', { 'sec-fetch-site': 'same-site' }],
  ['another Origin', { origin: 'http://evil.example' }],
  ['another port in Origin', { origin: 'http://localhost:81' }],
  ['Origin: null', { origin: 'null' }],
];
test.each(foreign)('without a key a post with %s is refused and does nothing', async (_, headers) => {
  const { bookingId } = await insertSnapshot(api.database.pool);
  for (const path of ['sync-all', `${bookingId}/publish`, `${bookingId}/reconcile`]) {
    await expectProblem(await api.app.request(`${LIST}/${path}`, { method: 'POST', headers }), 'cross_site');
  }
  expect(await api.market.market.listings.findOne({ booking_id: bookingId })).toBeNull();
  expect((await api.app.request(`${LIST}/${bookingId}`, { headers })).status).toBe(200);
});

test('a post from the own docs page, or from a program, passes', async () => {
  const { bookingId } = await insertSnapshot(api.database.pool);
  const own = { 'sec-fetch-site': 'same-origin', origin: 'http://localhost' };
  for (const headers of [own, {}]) {
    const response = await api.app.request(`${LIST}/${bookingId}/publish`, { method: 'POST', headers });
    expect(response.status).toBe(200);
  }
});
