import { afterAll, beforeAll, expect, test } from 'vitest';
import { createTestApi, expectProblem, type TestApi } from './setup.ts';

const BOOKING = '/storage-guard/snapshots/fac6d754-a26c-44cb-a47c-0dc5de58a252';

let api: TestApi;
beforeAll(async () => {
  api = await createTestApi();
});
afterAll(() => api.drop());

test.each([
  ['POST', `${BOOKING}/hold`],
  ['POST', `${BOOKING}/withdraw`],
  ['PUT', `${BOOKING}/override`],
  ['POST', '/pipeline/pause'],
  ['POST', '/pipeline/resync'],
  ['POST', '/pipeline/audits'],
])('%s %s says in plain words that a reason is needed, and how long it may be', async (method, path) => {
  for (const reason of [undefined, '  ', 7, 'x'.repeat(501)]) {
    const headers = { 'content-type': 'application/json' };
    const answer = await api.app.request(path, { method, headers, body: JSON.stringify({ reason }) });
    const { detail } = await expectProblem(answer, 'malformed_request');
    expect(detail).toBe('body: reason is needed: 1 to 500 characters');
  }
});
