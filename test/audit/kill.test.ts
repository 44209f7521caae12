import { afterAll, beforeAll, expect, test } from 'vitest';
import { query } from '../../src/postgres.ts';
import {
  type Command,
  expectChunksOnce,
  killAtRandom,
  noteChunks,
  startCommand,
} from '../support/killed-command.ts';
import { createScene, type Scene } from '../support/scene.ts';
import { audit, auditContext, fill } from './stage.ts';

const KILLS = 10;
const BOOKINGS = 2_400;
/** `auditSettings`: forty batches of BATCH_KEYS_MAX. */
const CHUNK = 40;

let scene: Scene;
beforeAll(async () => {
  scene = await createScene();
  await scene.start();
  await fill(scene.database.pool, { bookings: BOOKINGS, locations: 30 });
  await scene.settle();
  await scene.stopPipelines();
  // As if they were long gone.
  await query(scene.database.pool, 'update market_sync.checkpoint set holder = null, lease_until = null');
}, 60_000);
afterAll(() => scene?.stop());

/** `market-sync audit --repair` into a pipe, in one process that can be killed. */
const startAudit = (): Command =>
  startCommand(['audit', '--repair'], {
    DATABASE_URL: scene.database.url,
    MONGODB_URL: scene.market.url,
    MONGODB_DATABASE: scene.market.market.listings.dbName,
    BATCH_KEYS_MAX: '1',
    PUBLISH_LEASE_SECONDS: '5',
  });

test('row 24: killed at random ten times, an audit goes on where it was, does no chunk more than once again, and mends all there is', {
  timeout: 120_000,
}, async () => {
  const { pool } = scene.database;
  const { listings } = scene.market.market;
  const broken = (
    await query<{ id: string }>(
      pool,
      // In every eighth chunk: mending takes a while.
      `select id from (select id, row_number() over (order by id) - 1 as n from storage_bookings) b
       where n / ${CHUNK} % 8 = 1 and n % 4 = 0`,
    )
  ).map(({ id }) => id);
  const [edited, gone] = [broken.filter((_, n) => n % 2 === 0), broken.filter((_, n) => n % 2 === 1)];
  await listings.updateMany({ booking_id: { $in: edited } }, { $set: { quantity_kg: -1 } });
  await query(pool, `update market_inventory_snapshots set grade = 'Z' where booking_id = any ($1)`, [gone]);

  await noteChunks(pool, 'market_sync.audit_run');
  const comparedSoFar = async (): Promise<number> =>
    (await query<{ compared: number }>(pool, 'select compared from market_sync.audit_run'))[0]?.compared ?? 0;
  await killAtRandom({
    start: startAudit,
    doneSoFar: comparedSoFar,
    kills: KILLS,
    // Never so far that nothing is left for the kills that follow.
    stepMax: BOOKINGS / KILLS / 3,
    seed: 2_424,
  });
  expect(await comparedSoFar()).toBeLessThan(BOOKINGS);
  const last = startAudit();
  expect(await last.ended, last.stderr()).toBe(1);
  expect(last.lines().at(-1)).toMatchObject({
    event: 'done',
    state: 'done',
    compared: BOOKINGS,
    found: broken.length,
    repaired: broken.length,
  });
  expect(await query(pool, 'select kind, found, repaired from market_sync.finding_count order by 1')).toEqual(
    [
      { kind: 'listing_differs', found: edited.length, repaired: edited.length },
      { kind: 'snapshot_differs', found: gone.length, repaired: gone.length },
    ],
  );

  await expectChunksOnce(pool, {
    table: 'market_sync.audit_run',
    kills: KILLS,
    chunksMin: BOOKINGS / CHUNK - 1,
  });

  // What the last kill left claimed is the pipeline's to publish.
  await scene.start();
  await scene.settle();
  const again = await audit(auditContext({ pool, market: scene.market.market }), { repair: 'off' });
  expect(again.run.compared).toBe(BOOKINGS);
  expect(again.run.in_flight).toBe(0);
  expect(again.counts).toEqual([]);
  await scene.expectConverged(broken);
});
