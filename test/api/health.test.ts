import { afterAll, beforeAll, expect, test } from 'vitest';
import { z } from 'zod';
import { query } from '../../src/postgres.ts';
import { acquireConsumer, releaseConsumer } from '../../src/store/checkpoint.ts';
import { pausePipeline, resumePipeline } from '../../src/store/manual-actions.ts';
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
    slot: health,
    capture: health,
    pause: health,
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

/** What a consumer leaves behind that has begun: a slot, and a checkpoint that names it. */
async function makeSlot(): Promise<void> {
  await query(
    api.database.pool,
    `with slot as (select lsn from pg_create_logical_replication_slot(current_database(), 'pgoutput'))
     update market_sync.checkpoint set slot_name = current_database(), commit_lsn = slot.lsn from slot`,
  );
}
const dropSlot = (): Promise<unknown> =>
  query(api.database.pool, 'select pg_drop_replication_slot(current_database())');

test('readyz is 503 without a living consumer, 200 with one and its name, 503 again while everything is recomputed', async () => {
  const { pool } = api.database;
  expect(await readyz()).toMatchObject({
    status: 503,
    consumer: { ok: false, alive: false, holder: null },
    slot: { ok: false, detail: 'no consumer has made it yet' },
  });
  await makeSlot();
  const generation = await acquireConsumer(pool, { holder: 'host:1', slotName: 'slot', leaseSeconds: 60 });
  expect(await readyz()).toMatchObject({
    status: 200,
    postgres: { ok: true },
    mongodb: { ok: true },
    consumer: { ok: true, alive: true, holder: 'host:1' },
    resync: { ok: true, open: false },
    slot: { ok: true },
    capture: { ok: true },
  });
  await requestResync(pool, 'a test asked');
  expect(await readyz()).toMatchObject({ status: 503, resync: { ok: false, open: true } });
  await query(pool, 'update market_sync.resync set finished_at = now()');
  expect((await readyz()).status).toBe(200);
  await pausePipeline(pool, 'a test');
  expect(await readyz()).toMatchObject({
    status: 503,
    pause: { ok: false, detail: 'is paused: changes wait' },
  });
  await resumePipeline(pool);
  expect(await readyz()).toMatchObject({ status: 200, pause: { ok: true } });
  await releaseConsumer(pool, generation ?? 0);
  expect((await readyz()).status).toBe(503);
  await dropSlot();
});

test('row 12: readyz is 503 and says why while the slot, the publication, its table or a trigger is missing', async () => {
  const { pool } = api.database;
  const generation = await acquireConsumer(pool, { holder: 'host:1', slotName: 'slot', leaseSeconds: 60 });
  expect(await readyz()).toMatchObject({
    status: 503,
    slot: { ok: false, detail: expect.stringMatching(/^was dropped/) },
  });
  await makeSlot();
  expect((await readyz()).status).toBe(200);

  const damages: [damage: string, mend: string, detail: RegExp][] = [
    [
      'drop publication market_sync',
      'create publication market_sync for table storage_bookings with (publish_via_partition_root = true)',
      /^missing or disabled: publication market_sync$/,
    ],
    [
      'alter publication market_sync drop table storage_bookings',
      'alter publication market_sync add table storage_bookings',
      /table storage_bookings in publication market_sync/,
    ],
    [
      'alter table sensor_readings disable trigger all',
      ['insert', 'update', 'delete', 'truncate']
        .map((event) => `alter table sensor_readings enable always trigger market_sync_${event}`)
        .join('; '),
      /trigger market_sync_insert on sensor_readings, .* and 1 more$/,
    ],
  ];
  for (const [damage, mend, detail] of damages) {
    await query(pool, damage);
    const { status, capture } = await readyz();
    expect([status, capture.ok, capture.detail]).toEqual([503, false, expect.stringMatching(detail)]);
    await query(pool, mend);
    expect((await readyz()).status).toBe(200);
  }
  await releaseConsumer(pool, generation ?? 0);
  await dropSlot();
});

test('I7: readyz stays 200 with a parked booking', async () => {
  const { pool } = api.database;
  await makeSlot();
  const generation = await acquireConsumer(pool, { holder: 'host:1', slotName: 'slot', leaseSeconds: 60 });
  await query(
    pool,
    `select market_sync.record_failure('00000000-0000-4000-8000-000000000001', 'too large', interval '0', 1)`,
  );
  expect((await readyz()).status).toBe(200);
  await releaseConsumer(pool, generation ?? 0);
  await dropSlot();
});
