import { afterEach, beforeEach, expect, test } from 'vitest';
import { connectMarket } from '../../src/mongo.ts';
import { insertBooking, setQuantity } from '../support/application.ts';
import { until } from '../support/pipeline.ts';
import { startProxy } from '../support/proxy.ts';
import { createScene, type Scene } from '../support/scene.ts';

// A stop in order, as after SIGTERM, while MongoDB does not answer. Under load: restart.test.ts.

const STOP_MS_MAX = 10_000;

let scene: Scene;

beforeEach(async () => {
  scene = await createScene();
});

afterEach(() => scene?.stop());

async function timed(work: Promise<unknown>): Promise<number> {
  const startedAt = performance.now();
  await work;
  return performance.now() - startedAt;
}

test('row 27: stops within 10 s while MongoDB hangs, and publishes after the next start', async () => {
  const { pool } = scene.database;
  const proxy = await startProxy(scene.market.url);
  const market = await connectMarket({ url: proxy.url, database: scene.market.database, timeoutMs: 2_000 });
  try {
    const pipeline = await scene.start({ market });
    const bookingId = await insertBooking(pool, { quantityKg: 1 });
    await scene.settle();
    proxy.hang();
    await setQuantity(pool, bookingId, 2);
    await until('the listing is claimed', async () => {
      const { rowCount } = await pool.query(
        'select from market_sync.snapshot_state where claimed_by is not null',
      );
      return rowCount === 1;
    });
    expect(await timed(pipeline.stop())).toBeLessThan(STOP_MS_MAX);
    await proxy.heal();
    await scene.start({ market });
    await scene.settle();
    await scene.expectConverged([bookingId]);
  } finally {
    await market.close();
    await proxy.stop();
  }
});
