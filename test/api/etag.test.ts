import { OpenAPIHono } from '@hono/zod-openapi';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { createApi } from '../../src/api/app.ts';
import type { ApiEnv } from '../../src/api/context.ts';
import { parseIfMatch, versionTag } from '../../src/api/etag.ts';
import { ProblemError } from '../../src/api/problem.ts';
import { requireRole } from '../../src/api/role.ts';
import { query } from '../../src/postgres.ts';
import { createTestApi, insertSnapshot, setBookingStatus, type TestApi } from './setup.ts';

const BASE = '/storage-guard/snapshots';

let api: TestApi;
let path: string;
let bookingId: string;
beforeAll(async () => {
  api = await createTestApi();
  ({ bookingId } = await insertSnapshot(api.database.pool));
  path = `${BASE}/${bookingId}`;
});
afterAll(() => api.drop());

const get = (headers: Record<string, string> = {}, method = 'GET') =>
  api.app.request(path, { method, headers });
const tagOf = async (): Promise<string> => (await get()).headers.get('etag') ?? '';

test('a read has an ETag that stays while it says the same, and is asked about again each time', async () => {
  const tag = await tagOf();
  expect(tag).toMatch(/^"[\w-]{27}"$/);
  expect(await tagOf()).toBe(tag);
  const { headers } = await get({}, 'HEAD');
  expect([headers.get('etag'), headers.get('cache-control')]).toEqual([tag, 'private, no-cache']);
});

test('who has the answer already gets 304, without a body', async () => {
  const tag = await tagOf();
  for (const known of [tag, `W/${tag}`, '*', `"other", ${tag}`, `"a,b" , W/${tag}`]) {
    for (const method of ['GET', 'HEAD']) {
      const answer = await get({ 'if-none-match': known }, method);
      expect([answer.status, await answer.text(), answer.headers.get('etag')]).toEqual([304, '', tag]);
      expect(answer.headers.get('content-type')).toBeNull();
      expect(answer.headers.get('cache-control')).toBe('private, no-cache');
      expect(answer.headers.get('content-security-policy')).toContain("default-src 'none'");
    }
  }
  for (const other of ['"other"', tag.slice(1, -1), '', 'W/', '"', tag.toUpperCase()]) {
    expect((await get({ 'if-none-match': other })).status).toBe(200);
  }
});

test('after a change the old ETag gets the new answer', async () => {
  const tag = await tagOf();
  await query(api.database.pool, 'update storage_bookings set quantity_kg = quantity_kg + 1 where id = $1', [
    bookingId,
  ]);
  await setBookingStatus(api.database.pool, bookingId, 'active');
  const answer = await get({ 'if-none-match': tag });
  expect(answer.status).toBe(200);
  expect(answer.headers.get('etag')).not.toBe(tag);
});

test('what is no whole JSON answer has no ETag: errors, metrics, streams, and what anybody may read', async () => {
  const app = createApi(api.ctx);
  app.get('/test/stream', requireRole('reader'), (c) =>
    // Never ends: whoever waited for all of it would never answer.
    c.body(new ReadableStream({ start: (controller) => controller.enqueue(new Uint8Array([58])) }), 200, {
      'content-type': 'text/event-stream',
    }),
  );
  for (const [address, status] of [
    [`${BASE}/x`, 400],
    ['/metrics', 200],
    ['/healthz', 200],
    ['/test/stream', 200],
  ] as const) {
    const answer = await app.request(address, { headers: { 'if-none-match': '*' } });
    expect([address, answer.status, answer.headers.get('etag')]).toEqual([address, status, null]);
    await answer.body?.cancel();
  }
});

test('a route may give its answer a tag of its own', async () => {
  const app = createApi(api.ctx);
  app.get('/test/version', requireRole('reader'), (c) => c.json({}, 200, { etag: versionTag(12) }));
  const ask = (known: string) => app.request('/test/version', { headers: { 'if-none-match': known } });
  expect((await ask('"11"')).headers.get('etag')).toBe('"12"');
  expect((await ask('"12"')).status).toBe(304);
});

/** What a route that takes If-Match makes of this header. */
async function readIfMatch(header: string | undefined): Promise<unknown> {
  let found: unknown;
  const app = new OpenAPIHono<ApiEnv>();
  app.onError((error, c) => c.text(error instanceof ProblemError ? error.code : 'other'));
  app.put('/', (c) => {
    found = parseIfMatch(c);
    return c.text('parsed');
  });
  const answer = await app.request('/', {
    method: 'PUT',
    ...(header === undefined ? {} : { headers: { 'if-match': header } }),
  });
  const text = await answer.text();
  return text === 'parsed' ? found : text;
}

test.each([
  [undefined, undefined],
  ['*', '*'],
  [' "12" ', 12],
  ['"0"', 0],
  [versionTag(999_999_999_999), 999_999_999_999],
  // Strong tags only may match, and versions only exist.
  ['W/"12"', 'version_mismatch'],
  ['"abc"', 'version_mismatch'],
  ['""', 'version_mismatch'],
  ['"-1"', 'version_mismatch'],
  ['"1e3"', 'version_mismatch'],
  [`"${'9'.repeat(40)}"`, 'version_mismatch'],
  ['12', 'malformed_request'],
  ['"12', 'malformed_request'],
  ['"1", "2"', 'malformed_request'],
  ['', 'malformed_request'],
  ['* "1"', 'malformed_request'],
])('If-Match: %j is read as %j', async (header, expected) => {
  expect(await readIfMatch(header)).toBe(expected);
});
