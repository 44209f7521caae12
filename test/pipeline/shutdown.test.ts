import pg from 'pg';
import { afterAll, afterEach, beforeAll, beforeEach, expect, test } from 'vitest';
import type { Pipeline } from '../../pipeline/pipeline.ts';
import { insertBooking, setQuantity } from '../support/application.ts';
import { startCluster, type TestCluster } from '../support/cluster.ts';
import { until } from '../support/pipeline.ts';
import { createScene, type Scene } from '../support/scene.ts';

// PostgreSQL goes away, in order and by kill -9, with the pipeline running and without it.

let cluster: TestCluster;
let scene: Scene;
let pipeline: Pipeline;

beforeAll(async () => {
  cluster = await startCluster();
  scene = await createScene({ cluster });
});

beforeEach(async () => {
  pipeline = await scene.start();
});

afterEach(() => pipeline.stop());

afterAll(async () => {
  await scene?.stop();
  await cluster?.stop();
});

/** Back to normal within so long of PostgreSQL's return (issue 3). */
const RETURN_MS_MAX = 10_000;

/** Commits a change, and fails unless it is in MongoDB soon enough after PostgreSQL took connections again. */
async function expectReturn(how: string, startedAt: number): Promise<void> {
  const bookingId = await insertBooking(scene.database.pool);
  await until('the change is in MongoDB', async () => (await scene.listing(bookingId)) !== undefined);
  const returnMs = performance.now() - startedAt;
  console.info(`PostgreSQL ${how}: back to normal ${Math.round(returnMs)} ms after its return`);
  expect(returnMs).toBeLessThan(RETURN_MS_MAX);
}

/** Application sessions that update and insert without pause, and lose their connection with everybody else. */
function startWriters(count: number): { stop(): Promise<number> } {
  let [stopped, commits] = [false, 0];
  const write = async (): Promise<void> => {
    const client = new pg.Client({ connectionString: cluster.url() });
    client.on('error', () => undefined); // Losing the server is what the test is about.
    await client.connect();
    while (!stopped) {
      const bookingId = await insertBooking(client);
      await setQuantity(client, bookingId, 2);
      commits += 2;
    }
    await client.end();
  };
  const writers = Promise.all(Array.from({ length: count }, () => write().catch(() => undefined)));
  return {
    stop: async () => {
      stopped = true;
      await writers;
      return commits;
    },
  };
}

const countSnapshots = async (): Promise<number> =>
  (await scene.database.pool.query('select count(*)::int as count from market_inventory_snapshots')).rows[0]
    .count;

test('a fast shutdown of PostgreSQL ends within 5 s while the consumer is idle, and it comes back by itself', async () => {
  const bookingId = await insertBooking(scene.database.pool, { quantityKg: 1 });
  await scene.settle();
  const startedAt = performance.now();
  await cluster.kill('SIGINT');
  expect(performance.now() - startedAt).toBeLessThan(5_000);

  await cluster.start();
  await expectReturn('shut down while idle', performance.now());
  await setQuantity(scene.database.pool, bookingId, 2);
  await scene.settle();
  expect(await scene.listing(bookingId)).toMatchObject({ quantity_kg: 2 });
});

test.each(['SIGKILL', 'SIGINT'] as const)(
  'row 4: after a %s of PostgreSQL under load everything is back to normal within 10 s, and nothing is lost',
  async (signal) => {
    const before = await countSnapshots();
    const writers = startWriters(3);
    await until('changes flow', async () => (await countSnapshots()) > before + 30);
    await cluster.kill(signal);
    await writers.stop();
    await cluster.start();
    await expectReturn(`ended by ${signal} under load`, performance.now());
    await scene.settle();
    await scene.expectConverged();
    const { rows } = await scene.database.pool.query('select count(*)::int as count from market_sync.resync');
    expect(rows).toEqual([{ count: 1 }]); // The one of the first start: nothing was lost, so nothing was begun anew.
  },
);

test('row 4: after a kill -9 of PostgreSQL under load, a pipeline stopped and started again loses nothing', async () => {
  const before = await countSnapshots();
  const writers = startWriters(3);
  await until('changes flow', async () => (await countSnapshots()) > before + 30);
  await cluster.kill('SIGKILL');
  await writers.stop();
  const stoppedAt = performance.now();
  await pipeline.stop();
  expect(performance.now() - stoppedAt).toBeLessThan(10_000);
  await cluster.start();
  pipeline = await scene.start();
  await scene.settle();
  await scene.expectConverged();
});
