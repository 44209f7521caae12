import { afterAll, beforeAll, expect, test } from 'vitest';
import { createApi } from '../../src/api/app.ts';
import type { Logger } from '../../src/log.ts';
import { apiContext, createTestApi, expectProblem, insertSnapshot, type TestApi } from './setup.ts';

let api: TestApi;
let bookingId: string;
const BASE = '/storage-guard/snapshots';
beforeAll(async () => {
  api = await createTestApi();
  bookingId = (await insertSnapshot(api.database.pool)).bookingId;
});
afterAll(() => api.drop());

const reconcile = (init: RequestInit) =>
  api.app.request(`${BASE}/${bookingId}/reconcile`, { method: 'POST', ...init });
const json = { 'content-type': 'application/json' };

test.each(['/nothing', `${BASE}/`, `${BASE}/${'0'.repeat(8)}/publish/x`, '/docs/', '/docs/../package.json'])(
  'the unknown address %s is 404',
  async (path) => {
    await expectProblem(await api.app.request(path), 'not_found');
  },
);

test.each(['/docs/swagger-ui.css.map', '/docs/..%2fpackage.json', '/docs/%2e%2e/%2e%2e/package.json'])(
  'of files only those of the docs page are served, not %s',
  async (path) => {
    await expectProblem(await api.app.request(path), 'not_found');
  },
);

test.each([
  ['DELETE', BASE, 'GET, HEAD, OPTIONS'],
  ['GET', `${BASE}/sync-all`, 'POST, OPTIONS'],
  ['PATCH', `${BASE}/sync-all`, 'POST, OPTIONS'],
  ['PUT', `${BASE}/x`, 'GET, HEAD, OPTIONS'],
  ['GET', `${BASE}/x/publish`, 'POST, OPTIONS'],
  ['POST', '/healthz', 'GET, HEAD, OPTIONS'],
  ['POST', '/docs', 'GET, HEAD, OPTIONS'],
])('%s %s is 405 with Allow', async (method, path, allow) => {
  const response = await api.app.request(path, { method });
  expect(response.headers.get('allow')).toBe(allow);
  await expectProblem(response, 'method_not_allowed');
  const options = await api.app.request(path, { method: 'OPTIONS' });
  expect([options.status, options.headers.get('allow')]).toEqual([204, allow]);
});

test('HEAD answers as GET does, without a body', async () => {
  for (const [path, status] of [
    [`${BASE}/${bookingId}`, 200],
    [`${BASE}/x`, 400],
    ['/nothing', 404],
    [`${BASE}/sync-all`, 405],
  ] as const) {
    const response = await api.app.request(path, { method: 'HEAD' });
    expect([response.status, await response.text()]).toEqual([status, '']);
  }
});

test.each(['x', '1', `${'0'.repeat(36)}`, 'null', '__proto__', '%00', '%ff', "'--", '{"$ne":null}'])(
  'the id %s is 400 to read, publish and reconcile',
  async (id) => {
    const path = `${BASE}/${encodeURI(id).replaceAll('%25', '%')}`;
    for (const response of [
      await api.app.request(path),
      await api.app.request(`${path}/publish`, { method: 'POST' }),
      await api.app.request(`${path}/reconcile`, { method: 'POST' }),
    ]) {
      const problem = await expectProblem(response, 'malformed_request');
      expect(problem.errors).toEqual([{ in: 'path', name: 'booking_id', message: 'must be a UUID' }]);
    }
  },
);

test('unknown query parameters are 400 on every route', async () => {
  for (const path of [BASE, `${BASE}/${bookingId}`, '/healthz', '/readyz']) {
    for (const search of ['?x=1', '?__proto__=1', '?constructor=1']) {
      await expectProblem(await api.app.request(path + search), 'malformed_request');
    }
  }
  for (const path of ['sync-all', `${bookingId}/publish`, `${bookingId}/reconcile`]) {
    await expectProblem(
      await api.app.request(`${BASE}/${path}?force=true`, { method: 'POST' }),
      'malformed_request',
    );
  }
});

test.each([undefined, '', '{}', ' { } '])('a post with the body %j passes', async (body) => {
  const init = body === undefined ? {} : { body, headers: json };
  expect((await reconcile(init)).status).toBe(200);
});

test('an empty body passes whatever its content type: HTTP clients like to send one', async () => {
  const headers = { 'content-type': 'application/x-www-form-urlencoded' };
  expect((await reconcile({ headers })).status).toBe(200);
});

test.each([
  '{',
  '"x',
  '{"a":1}',
  '[]',
  'null',
  '1',
  '{"__proto__":{}}',
  '{"$ne":null}',
  '\u0000',
  '['.repeat(60_000),
])('a body that is not an empty object is 400: %.30s', async (body) => {
  await expectProblem(await reconcile({ body, headers: json }), 'malformed_request');
});

test('a body in bad UTF-8 is 400', async () => {
  const body = new Uint8Array([0x7b, 0xff, 0x7d]);
  await expectProblem(await reconcile({ body, headers: json }), 'malformed_request');
});

test.each(['text/plain', 'application/xml', 'multipart/form-data; boundary=x', ''])(
  'a body of type %j is 415',
  async (type) => {
    const headers = { 'content-type': type };
    await expectProblem(await reconcile({ body: '{}', headers }), 'unsupported_media_type');
  },
);

test('a compressed body is 415', async () => {
  const headers = { ...json, 'content-encoding': 'gzip' };
  await expectProblem(await reconcile({ body: '{}', headers }), 'unsupported_media_type');
});

test('a body over 64 KiB is 413, announced or streamed', async () => {
  const body = ' '.repeat(64 * 1024 + 1);
  await expectProblem(await reconcile({ body, headers: json }), 'body_too_large');
  const endless = new ReadableStream<Uint8Array>({
    pull: (controller) => controller.enqueue(new Uint8Array(10_000)),
  });
  const streamed = { body: endless, headers: json, duplex: 'half' } as RequestInit;
  await expectProblem(await reconcile(streamed), 'body_too_large');
});

test('a request id is echoed when it is one, and made otherwise', async () => {
  for (const sent of ['abc-123', 'a'.repeat(255)]) {
    const response = await api.app.request('/healthz', { headers: { 'x-request-id': sent } });
    expect(response.headers.get('x-request-id')).toBe(sent);
  }
  for (const sent of ['a b', '<script>', 'a'.repeat(256), '']) {
    const response = await api.app.request('/healthz', { headers: { 'x-request-id': sent } });
    expect(response.headers.get('x-request-id')).toMatch(/^[0-9a-f-]{36}$/);
  }
});

test('answers and errors alike carry headers that keep browsers strict', async () => {
  for (const path of [BASE, '/nothing', `${BASE}/x`]) {
    const { headers } = await api.app.request(path);
    expect(headers.get('content-security-policy')).toContain("default-src 'none'");
    expect(headers.get('x-content-type-options')).toBe('nosniff');
    expect(headers.get('x-frame-options')).toBe('DENY');
    // What has an ETag may be kept by who asked for it, and must be asked about again each time.
    expect(headers.get('cache-control')).toBe(path === BASE ? 'private, no-cache' : 'no-store');
    expect(headers.get('access-control-allow-origin')).toBeNull();
  }
});

function recordLog(): { lines: Record<string, unknown>[]; log: Logger } {
  const lines: Record<string, unknown>[] = [];
  const record = (level: string) => (fields: object, message: string) =>
    lines.push({ level, message, ...fields });
  const log = { debug: record('debug'), info: record('info'), warn: record('warn'), error: record('error') };
  return { lines, log: log as unknown as Logger };
}

test('a request is one log line with the route, never with what was in its place or in the query', async () => {
  const { lines, log } = recordLog();
  const app = createApi({ ...api.ctx, log });
  await app.request(`${BASE}/${bookingId}`, { headers: { 'x-request-id': 'one' } });
  await app.request(`${BASE}?crop_type=Secret`, { headers: { 'x-request-id': 'two' } });
  await app.request('/nothing/secret', { headers: { 'x-request-id': 'three' } });
  await app.request(`${BASE}/secret/publish`, { method: 'GET', headers: { 'x-request-id': 'four' } });
  await app.request('/healthz', { headers: { 'x-request-id': 'five' } });
  const message = 'request answered';
  const ms = expect.any(Number);
  expect(lines).toEqual([
    {
      level: 'debug',
      message,
      request_id: 'one',
      method: 'GET',
      route: `${BASE}/:booking_id`,
      status: 200,
      ms,
    },
    { level: 'debug', message, request_id: 'two', method: 'GET', route: BASE, status: 200, ms },
    { level: 'info', message, request_id: 'three', method: 'GET', route: 'none', status: 404, ms },
    {
      level: 'info',
      message,
      request_id: 'four',
      method: 'GET',
      route: `${BASE}/:booking_id/publish`,
      status: 405,
      ms,
    },
    { level: 'debug', message, request_id: 'five', method: 'GET', route: '/healthz', status: 200, ms },
  ]);
});

test('an unforeseen error is 500 without its internals; the log has it under the request id', async () => {
  const { lines, log } = recordLog();
  const context = apiContext({ pool: api.database.pool, market: api.market.market, log });
  await api.database.pool.query('alter table market_inventory_snapshots rename column crop_type to crop');
  try {
    const response = await createApi(context).request(`${BASE}?crop_type=x`, {
      headers: { 'x-request-id': 'broken' },
    });
    const problem = await expectProblem(response, 'internal_error');
    expect(JSON.stringify(problem)).not.toMatch(/crop|column|select/);
    expect(lines).toContainEqual({
      level: 'error',
      message: 'request failed',
      request_id: 'broken',
      error: expect.stringContaining('crop_type'),
    });
  } finally {
    await api.database.pool.query('alter table market_inventory_snapshots rename column crop to crop_type');
  }
});
