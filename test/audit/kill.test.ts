import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { join } from 'node:path';
import { afterAll, afterEach, beforeAll, expect, test } from 'vitest';
import { query } from '../../src/postgres.ts';
import { until } from '../support/pipeline.ts';
import { createRandom } from '../support/random.ts';
import { createScene, type Scene } from '../support/scene.ts';
import { audit, auditContext, fill } from './stage.ts';

const MAIN = join(import.meta.dirname, '..', '..', 'src', 'main.ts');
const KILLS = 10;
const BOOKINGS = 1_200;
/** `auditSettings`: twenty batches of BATCH_KEYS_MAX. */
const CHUNK = 20;

let scene: Scene;
const running = new Set<ChildProcess>();
beforeAll(async () => {
  scene = await createScene();
  await scene.start();
  await fill(scene.database.pool, { bookings: BOOKINGS, locations: 30 });
  await scene.settle();
  await scene.stopPipelines();
  // As if they were long gone.
  await query(scene.database.pool, 'update market_sync.checkpoint set holder = null, lease_until = null');
}, 60_000);
afterEach(() => {
  for (const child of running) child.kill('SIGKILL');
});
afterAll(() => scene?.stop());

interface Command {
  child: ChildProcess;
  stdout(): string;
  stderr(): string;
  ended: Promise<number | null>;
}

/** `market-sync audit --repair` into a pipe, in one process that can be killed. */
function startAudit(): Command {
  const child = spawn(process.execPath, [MAIN, 'audit', '--repair'], {
    env: {
      PATH: process.env.PATH,
      DATABASE_URL: scene.database.url,
      MONGODB_URL: scene.market.url,
      MONGODB_DATABASE: scene.market.market.listings.dbName,
      BATCH_KEYS_MAX: '1',
      PUBLISH_LEASE_SECONDS: '5',
      LOG_LEVEL: 'error',
    },
    stdio: ['ignore', 'pipe', 'pipe'],
  });
  running.add(child);
  let [stdout, stderr] = ['', ''];
  child.stdout.setEncoding('utf8').on('data', (text: string) => {
    stdout += text;
  });
  child.stderr.setEncoding('utf8').on('data', (text: string) => {
    stderr += text;
  });
  const ended = once(child, 'close').then(([code]) => {
    running.delete(child);
    return code as number | null;
  });
  return { child, stdout: () => stdout, stderr: () => stderr, ended };
}

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

  // A sequence remembers what was rolled back: every chunk that came as far as its cursor counts.
  await query(
    pool,
    `create sequence chunk_attempts;
     create table chunk_done (after uuid, upto uuid);
     create function count_chunk() returns trigger language plpgsql as $$
     begin
       perform nextval('chunk_attempts');
       insert into chunk_done values (old.after_booking_id, new.after_booking_id);
       perform pg_sleep(0.02);
       return null;
     end $$;
     create trigger count_chunk after update of after_booking_id on market_sync.audit_run for each row
       when (old.after_booking_id is distinct from new.after_booking_id) execute function count_chunk()`,
  );
  const comparedSoFar = async (): Promise<number> =>
    (await query<{ compared: number }>(pool, 'select compared from market_sync.audit_run'))[0]?.compared ?? 0;
  const random = createRandom(2_424);
  for (let kill = 0; kill < KILLS; kill += 1) {
    const command = startAudit();
    // Somewhere on its way, but never so far that nothing is left for the kills that follow.
    const target = (await comparedSoFar()) + 1 + random.below(BOOKINGS / KILLS / 3);
    await until('it has come that far', async () => {
      if (command.child.exitCode !== null) throw new Error(`it ended: ${command.stderr()}`);
      return (await comparedSoFar()) >= target;
    });
    command.child.kill('SIGKILL');
    await command.ended;
    expect(await comparedSoFar()).toBeLessThan(BOOKINGS);
  }
  const last = startAudit();
  expect(await last.ended, last.stderr()).toBe(1);
  expect(JSON.parse(last.stdout().trim().split('\n').at(-1) ?? '')).toMatchObject({
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

  const chunks = await query<{ after: string | null; upto: string }>(pool, 'select * from chunk_done');
  expect(chunks.length).toBeGreaterThanOrEqual(BOOKINGS / CHUNK - 1);
  // Each committed chunk begins where another ended, so none was done twice.
  expect(new Set(chunks.map((chunk) => chunk.after)).size).toBe(chunks.length);
  expect(new Set(chunks.map((chunk) => chunk.upto)).size).toBe(chunks.length);
  const [attempts] = await query<{ count: number }>(pool, 'select last_value as count from chunk_attempts');
  expect(attempts?.count).toBeLessThanOrEqual(chunks.length + KILLS);
  await query(pool, 'drop trigger count_chunk on market_sync.audit_run');

  // What the last kill left claimed is the pipeline's to publish.
  await scene.start();
  await scene.settle();
  const again = await audit(auditContext({ pool, market: scene.market.market }), { repair: 'off' });
  expect(again.run.compared).toBe(BOOKINGS);
  expect(again.run.in_flight).toBe(0);
  expect(again.counts).toEqual([]);
  await scene.expectConverged(broken);
});
