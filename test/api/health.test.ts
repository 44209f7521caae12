import { afterAll, beforeAll, expect, test } from 'vitest';
import { z } from 'zod';
import { query } from '../../src/postgres.ts';
import { acquireConsumer, releaseConsumer } from '../../src/store/checkpoint.ts';
import { requestResync } from '../../src/store/resync.ts';
import { createTestApi, type TestApi } from './setup.ts';

let api: TestApi;
beforeAll(async () => {
  api = await createTestApi();
});
afterAll(() => api.drop());

const health = z.strictObject({ ok: z.boolean(), detail: z.string() });
const readiness = z.strictObject({
  status: z.enum(['ready', 'not_ready']),
  checks: z.strictObject({
    postgres: health,
    mongodb: health,
    consumer: health.extend({ alive: z.boolean(), holder: z.string().nullable() }),
    resync: health.extend({ open: z.boolean() }),
  }),
});

async function readyz(): Promise<{ status: number } & z.infer<typeof readiness>['checks']> {
  const response = await api.app.request('/readyz');
  const body = readiness.parse(await response.json());
  expect(body.status).toBe(response.status === 200 ? 'ready' : 'not_ready');
  return { ...body.checks, status: response.status };
}

test('healthz says that the process is alive', async () => {
  const response = await api.app.request('/healthz');
  expect([response.status, await response.json()]).toEqual([200, { status: 'ok' }]);
});

test('readyz is 503 without a living consumer, 200 with one and its name, 503 again while everything is recomputed', async () => {
  const { pool } = api.database;
  expect(await readyz()).toMatchObject({ status: 503, consumer: { ok: false, alive: false, holder: null } });
  const generation = await acquireConsumer(pool, { holder: 'host:1', slotName: 'slot', leaseSeconds: 60 });
  expect(await readyz()).toMatchObject({
    status: 200,
    postgres: { ok: true },
    mongodb: { ok: true },
    consumer: { ok: true, alive: true, holder: 'host:1' },
    resync: { ok: true, open: false },
  });
  await requestResync(pool, 'a test asked');
  expect(await readyz()).toMatchObject({ status: 503, resync: { ok: false, open: true } });
  await query(pool, 'update market_sync.resync set finished_at = now()');
  expect((await readyz()).status).toBe(200);
  await releaseConsumer(pool, generation ?? 0);
  expect((await readyz()).status).toBe(503);
});
