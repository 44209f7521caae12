import { createRoute, z } from '@hono/zod-openapi';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { acceptJsonBody } from '../../src/api/request-input.ts';
import { requireRole } from '../../src/api/role.ts';
import { createTestApi, expectProblem, type TestApi } from './setup.ts';

const schema = z.strictObject({
  reason: z.string().min(1).max(500),
  nested: z.strictObject({ score: z.number().max(100) }).optional(),
});

let api: TestApi;
/** The bodies that reached the route. */
let taken: unknown[] = [];
beforeAll(async () => {
  api = await createTestApi();
  const route = createRoute({
    method: 'put',
    path: '/test/body',
    middleware: [requireRole('admin'), acceptJsonBody] as const,
    request: { body: { required: true, content: { 'application/json': { schema } } } },
    responses: { 200: { description: '' } },
  });
  api.app.openapi(route, (c) => {
    taken.push(c.req.valid('json'));
    return c.json({}, 200);
  });
});
afterAll(() => api.drop());

async function put(
  body: string | ReadableStream<Uint8Array> | undefined,
  headers: Record<string, string> = { 'content-type': 'application/json' },
): Promise<Response> {
  taken = [];
  const init = { method: 'PUT', headers, duplex: 'half', ...(body === undefined ? {} : { body }) };
  return api.app.request('/test/body', init as RequestInit);
}

/** What the answer finds wrong; nothing may have reached the route. */
async function errorsOf(body: string | undefined, headers?: Record<string, string>) {
  const { errors } = await expectProblem(await put(body, headers), 'malformed_request');
  expect(taken).toEqual([]);
  return errors?.map((error) => [error.in, error.name, error.message]);
}

test('a body reaches its route as its schema has it', async () => {
  const body = { reason: 'spoiled — ümlaut 💣', nested: { score: 99.5 } };
  for (const type of ['application/json', 'Application/JSON; charset=utf-8']) {
    expect((await put(JSON.stringify(body), { 'content-type': type })).status).toBe(200);
    expect(taken).toEqual([body]);
  }
});

test('a body is also read when the call carries an Idempotency-Key, which has read it before', async () => {
  const headers = { 'content-type': 'application/json', 'idempotency-key': 'a-body' };
  expect((await put('{"reason":"x"}', headers)).status).toBe(200);
  expect(taken).toEqual([{ reason: 'x' }]);
});

test.each([
  [undefined, {}],
  [undefined, { 'content-type': 'application/json' }],
  ['', { 'content-type': 'application/json' }],
  ['{}', { 'content-type': 'application/json' }],
] as const)('without a body the schema says what is missing: %j %j', async (body, headers) => {
  expect(await errorsOf(body, headers)).toEqual([
    ['body', 'reason', expect.stringContaining('expected string')],
  ]);
});

test('each thing that is wrong is named, with its place', async () => {
  expect(await errorsOf('{"reason":"","nested":{"score":101,"x":1},"more":true}')).toEqual([
    ['body', 'reason', expect.stringContaining('>=1')],
    ['body', 'nested.score', expect.stringContaining('<=100')],
    ['body', 'x', 'is not known here'],
    ['body', 'more', 'is not known here'],
  ]);
});

test.each(['{"__proto__":{"polluted":1},"reason":"x"}', '{"reason":"x","nested":{"constructor":{}}}'])(
  'a name that reaches a prototype is refused, at any depth: %s',
  async (body) => {
    expect(await errorsOf(body)).toEqual([
      ['body', expect.stringMatching(/^(__proto__|constructor)$/), 'is not allowed'],
    ]);
    expect(({} as Record<string, unknown>).polluted).toBeUndefined();
  },
);

test.each([`{"reason":"a\\u0000b"}`, `{"reason":"\\ud800"}`])(
  'text that PostgreSQL could not keep as it is is refused: %s',
  async (body) => {
    expect(await errorsOf(body)).toEqual([
      ['body', 'reason', 'must be text without NUL and lone surrogates'],
    ]);
  },
);

test.each(['{', '[]', '[{"reason":"x"}]', 'null', '"reason"', '7', `${'['.repeat(30_000)}`, '\u0000'])(
  'a body that is no JSON object is 400, not: %.20s',
  async (body) => {
    expect(await errorsOf(body)).toBeUndefined();
  },
);

test.each([
  { 'content-type': 'text/plain' },
  { 'content-type': 'application/x-www-form-urlencoded' },
  { 'content-type': 'application/merge-patch+json' },
  { 'content-type': 'application/json', 'content-encoding': 'gzip' },
])('a body as %j is 415', async (headers) => {
  await expectProblem(await put('{"reason":"x"}', headers), 'unsupported_media_type');
  expect(taken).toEqual([]);
});

test('a body for a schema is bounded too, announced or streamed', async () => {
  await expectProblem(await put(`{"reason":"${'x'.repeat(70_000)}"}`), 'body_too_large');
  const endless = new ReadableStream<Uint8Array>({
    pull: (controller) => controller.enqueue(new Uint8Array(10_000).fill(32)),
  });
  await expectProblem(await put(endless), 'body_too_large');
  expect(taken).toEqual([]);
});
