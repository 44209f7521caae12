import { setFlagsFromString } from 'node:v8';
import { runInNewContext } from 'node:vm';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { createScene, type Scene } from '../support/scene.ts';
import { audit, auditContext, fill } from './stage.ts';

const BOOKINGS = 6_000;
const CHUNK = 500;
/** All listings together have some 18 MB, half of them 9. */
const GROWTH_BYTES_MAX = 4_000_000;

let scene: Scene;
beforeAll(async () => {
  scene = await createScene();
  // Filled first: a resync has the tables that it fills analyzed, while plans for empty ones made this take half a minute.
  await fill(scene.database.pool, { bookings: BOOKINGS, locations: 30 });
  await scene.start();
  await scene.settle();
  await scene.stopPipelines();
}, 60_000);
afterAll(() => scene?.stop());

/** What JavaScript still reaches, on its heap and in buffers. */
function reachableBytes(collect: () => void): number {
  collect();
  const { heapUsed, arrayBuffers } = process.memoryUsage();
  return heapUsed + arrayBuffers;
}

test('I9: an audit holds no more behind its last bookings than behind its first', async () => {
  setFlagsFromString('--expose-gc');
  const collect = runInNewContext('gc') as () => void;
  const held: number[] = [];
  const { run, counts } = await audit(
    auditContext(
      { pool: scene.database.pool, market: scene.market.market },
      { chunkMax: CHUNK, onProgress: () => held.push(reachableBytes(collect)) },
    ),
    { repair: 'off' },
  );
  expect({ compared: run.compared, listings: run.listings, counts }).toEqual({
    compared: BOOKINGS,
    listings: BOOKINGS,
    counts: [],
  });
  expect(held.length).toBeGreaterThan(BOOKINGS / CHUNK - 1);
  const half = Math.floor(held.length / 2);
  // The least of each half: what is in work at an instant only adds to it, what is kept for good raises it.
  const [first, last] = [Math.min(...held.slice(0, half)), Math.min(...held.slice(half))];
  expect(last - first, held.join(' ')).toBeLessThan(GROWTH_BYTES_MAX);
});
