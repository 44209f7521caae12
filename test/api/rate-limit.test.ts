import { afterAll, beforeAll, expect, test } from 'vitest';
import { createApi } from '../../src/api/app.ts';
import { createKey } from '../../src/store/api-keys.ts';
import { until } from '../support/pipeline.ts';
import { createTestApi, expectProblem, type TestApi } from './setup.ts';

const LIST = '/storage-guard/snapshots';
const SETTING = 'correct-horse-battery';

let api: TestApi;
const keys: string[] = [];
beforeAll(async () => {
  api = await createTestApi();
  for (const name of ['one', 'two']) {
    const made = { name, role: 'reader', expiresInSeconds: undefined, createdBy: 'test' } as const;
    keys.push((await createKey(api.database.pool, made)) ?? '');
  }
});
afterAll(() => api.drop());

const build = (limits: Partial<TestApi['ctx']['rateLimits']>, requireKey = true): TestApi['app'] =>
  createApi({
    ...api.ctx,
    apiKey: SETTING,
    requireKey,
    rateLimits: { ...api.ctx.rateLimits, ...limits },
  });

const ask = (app: TestApi['app'], key: string | undefined, from = '192.0.2.1') =>
  app.request(LIST, key === undefined ? {} : { headers: { 'x-api-key': key } }, {
    incoming: { socket: { remoteAddress: from } },
  });

test('each caller has its own calls, and hears how many are left and when there are more', async () => {
  const app = build({ perSecond: 1, burst: 3 });
  const [one = '', two = ''] = keys;
  for (const left of [2, 1, 0]) {
    const { status, headers } = await ask(app, one);
    expect([status, headers.get('ratelimit'), headers.get('ratelimit-policy')]).toEqual([
      200,
      `"caller";r=${left};t=3`,
      '"caller";q=3;w=3',
    ]);
  }
  const refused = await ask(app, one);
  expect(Number(refused.headers.get('retry-after'))).toBeGreaterThan(0);
  expect(refused.headers.get('ratelimit')).toMatch(/^"caller";r=0;t=[123]$/);
  await expectProblem(refused, 'rate_limited');
  expect((await ask(app, two)).status).toBe(200);
  await until('there are calls again', async () => (await ask(app, one)).status === 200);
});

test('a key is one caller wherever it calls from', async () => {
  const app = build({ perSecond: 1, burst: 2 });
  for (const from of ['192.0.2.1', '192.0.2.2']) await ask(app, keys[0], from);
  await expectProblem(await ask(app, keys[0], '192.0.2.3'), 'rate_limited');
});

test('calls without a key, where they are served, are limited together; health and docs are not', async () => {
  const own = await createTestApi({ rateLimits: { perSecond: 1, burst: 2, failuresPerMinute: 5 } });
  try {
    await own.app.request(LIST);
    await own.app.request(LIST);
    await expectProblem(await own.app.request(LIST), 'rate_limited');
    for (const path of ['/healthz', '/docs']) expect((await own.app.request(path)).status).toBe(200);
  } finally {
    await own.drop();
  }
});

test('an address that guesses is refused unlooked at; known callers and other addresses are not', async () => {
  const app = build({ failuresPerMinute: 3 });
  const [known = '', unknown = ''] = keys;
  expect((await ask(app, known)).status).toBe(200);
  const guess = `msaaaaaaaaaa_${'A'.repeat(43)}`;
  for (let at = 0; at < 3; at += 1) await expectProblem(await ask(app, guess), 'key_refused');
  const refused = await ask(app, guess);
  expect(Number(refused.headers.get('retry-after'))).toBeGreaterThan(0);
  // Which tells it from the limit of a caller that is known.
  expect(refused.headers.has('ratelimit')).toBe(false);
  await expectProblem(refused, 'rate_limited');
  // A right one that was not seen lately is not looked at either: it could be the guess that hits.
  await expectProblem(await ask(app, unknown), 'rate_limited');
  expect((await ask(app, known)).status).toBe(200);
  expect((await ask(app, unknown, '192.0.2.99')).status).toBe(200);
});

test('guesses of API_KEY are refused unlooked at too, but where it was sent from before', async () => {
  const app = build({ failuresPerMinute: 2 });
  const [own, guesser] = ['192.0.2.1', '192.0.2.66'];
  expect((await ask(app, SETTING, own)).status).toBe(200);
  for (const from of [own, guesser]) {
    for (let at = 0; at < 2; at += 1) await expectProblem(await ask(app, `guess ${at}`, from), 'key_refused');
  }
  await expectProblem(await ask(app, SETTING, guesser), 'rate_limited');
  expect((await ask(app, SETTING, own)).status).toBe(200);
  await expectProblem(await ask(app, 'another guess', own), 'rate_limited');
  expect((await ask(app, SETTING, '192.0.2.99')).status).toBe(200);
});

test('addresses of one IPv6 network count as one, IPv4 in IPv6 as itself', async () => {
  const app = build({ failuresPerMinute: 1 });
  const guess = 'guess';
  await ask(app, guess, '2001:db8:1:2::1');
  await expectProblem(await ask(app, guess, '2001:db8:1:2:ffff::2'), 'rate_limited');
  await expectProblem(await ask(app, guess, '2001:db8:1:3::1'), 'key_refused');
  await ask(app, guess, '::ffff:192.0.2.7');
  await expectProblem(await ask(app, guess, '::ffff:192.0.2.8'), 'key_refused');
});

test('a call that sends no key is no guess', async () => {
  const app = build({ failuresPerMinute: 1 });
  for (let at = 0; at < 5; at += 1) await expectProblem(await ask(app, undefined), 'key_refused');
  expect((await ask(app, keys[0])).status).toBe(200);
});
