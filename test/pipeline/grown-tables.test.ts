import { afterAll, beforeAll, expect, test } from 'vitest';
import { query } from '../../src/postgres.ts';
import { fill } from '../audit/stage.ts';
import { until } from '../support/pipeline.ts';
import { createScene, type Scene } from '../support/scene.ts';

let scene: Scene;
beforeAll(async () => {
  scene = await createScene();
});
afterAll(() => scene?.stop());

test('tables that new bookings fill are analyzed by the consumer, before autovacuum comes', async () => {
  const { pool } = scene.database;
  for (const table of ['market_inventory_snapshots', 'market_sync.snapshot_state', 'market_sync.revision'])
    await query(pool, `alter table ${table} set (autovacuum_enabled = off)`);
  await scene.start({ checkIntervalMs: 100 });
  await fill(pool, { bookings: 2_000, locations: 10 });
  const startedAt = performance.now();
  await scene.settle();
  console.info(`2,000 new bookings settled after ${Math.round(performance.now() - startedAt)} ms`);
  await until('their number is known', async () => {
    const [row] = await query<{ known: number }>(
      pool,
      `select min(reltuples)::float8 as known from pg_class
       where oid in ('market_inventory_snapshots'::regclass, 'market_sync.snapshot_state'::regclass)`,
    );
    return (row?.known ?? 0) > 1_000;
  });
  const [counts] = await query<{ autovacuumed: number }>(
    pool,
    `select sum(autoanalyze_count)::int as autovacuumed from pg_stat_user_tables where relname in ('market_inventory_snapshots', 'snapshot_state')`,
  );
  expect(counts?.autovacuumed).toBe(0);
});
