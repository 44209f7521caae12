import { afterAll, afterEach, beforeAll, beforeEach, expect, test } from 'vitest';
import { query } from '../../src/postgres.ts';
import {
  type Command,
  expectChunksOnce,
  killAtRandom,
  noteChunks,
  startCommand,
} from '../support/killed-command.ts';
import { until } from '../support/pipeline.ts';
import { createScene, type Scene } from '../support/scene.ts';

const KILLS = 10;
const BOOKINGS = 4_000;
const CHUNK = 20;

let scene: Scene;
beforeAll(async () => {
  scene = await createScene({ settings: { BATCH_KEYS_MAX: String(CHUNK) } });
});
afterAll(() => scene?.stop());
beforeEach(() =>
  query(
    scene.database.pool,
    `truncate storage_bookings, market_inventory_snapshots, market_sync.snapshot_state, market_sync.task cascade;
     delete from pgboss.job`,
  ),
);
afterEach(async () => {
  await query(scene.database.pool, 'drop trigger if exists slow_down on market_sync.task');
  await scene.stopPipelines();
});

const insertBookings = (count: number): Promise<unknown> =>
  query(
    scene.database.pool,
    `insert into storage_bookings (farmer_id, crop_type, quantity_kg, booking_status)
     select gen_random_uuid(), 'Rice', n, 'active' from generate_series(1, $1) n`,
    [count],
  );

/** Makes every chunk take a while: what a test does meanwhile, it does in time. */
const slowDown = (): Promise<unknown> =>
  query(
    scene.database.pool,
    `create or replace function slow_down() returns trigger language plpgsql as
       $$ begin perform pg_sleep(0.02); return null; end $$;
     create trigger slow_down after update of after_booking_id on market_sync.task for each row execute function slow_down()`,
  );

interface Line {
  id: string;
  state: string;
  total: number | null;
  done: number;
  rate_per_second: number | null;
  eta_seconds: number | null;
}

/** `market-sync backfill` into a pipe, in one process that can be killed. */
const startBackfill = (...options: string[]): Command =>
  startCommand(['backfill', ...options], {
    DATABASE_URL: scene.database.url,
    BATCH_KEYS_MAX: String(CHUNK),
  });

const doneSoFar = async (): Promise<number> =>
  (await query<{ done: number }>(scene.database.pool, 'select done from market_sync.backfills'))[0]?.done ??
  0;

test('row 24: killed at random ten times, with no pipeline about, it goes on where it was and does no chunk more than once again', {
  timeout: 120_000,
}, async () => {
  const { pool } = scene.database;
  await insertBookings(BOOKINGS);
  await noteChunks(pool, 'market_sync.task');
  await killAtRandom({
    start: startBackfill,
    doneSoFar,
    kills: KILLS,
    // Never so far that nothing is left for the kills that follow.
    stepMax: BOOKINGS / KILLS / 2,
    seed: 4_242,
  });
  expect(await doneSoFar()).toBeLessThan(BOOKINGS);
  const last = startBackfill();
  expect(await last.ended).toBe(0);
  expect(last.stderr()).toContain('this command does the work itself');
  expect(last.lines<Line>().at(-1)).toMatchObject({ state: 'done', total: BOOKINGS, done: BOOKINGS });

  await expectChunksOnce(pool, { table: 'market_sync.task', kills: KILLS, chunksMin: BOOKINGS / CHUNK - 1 });
  expect((await query(pool, 'select from market_inventory_snapshots where revision = 1')).length).toBe(
    BOOKINGS,
  );
  expect((await query(pool, 'select from market_sync.task')).length).toBe(1);
});

test('beside a pipeline it shows that one at work, as lines of JSON, and ends with 0', async () => {
  await insertBookings(200);
  await scene.start();
  const command = startBackfill('--reason', 'a test of it');
  expect(await command.ended, command.stderr()).toBe(0);
  expect(command.stderr()).toBe('');
  const last = command.lines<Line>().at(-1);
  expect(last).toMatchObject({ state: 'done', total: 200, done: 200, failed: 0, error: null, paused: false });
  expect(new Set(command.lines<Line>().map((line) => line.id)).size).toBe(1);
  const [audited] = await query<{ reason: string }>(
    scene.database.pool,
    `select reason from market_sync.audit_log where action = 'backfill' and details ->> 'job_id' = $1`,
    [last?.id],
  );
  expect(audited?.reason).toBe('a test of it');
});

test('Ctrl-C leaves it to the pipeline and says how to watch and cancel it; --cancel ends it, and who waits for it ends with 1', async () => {
  const { pool } = scene.database;
  await insertBookings(200);
  await scene.start();
  await query(pool, `select market_sync.pause('held up by a test')`);
  try {
    const left = startBackfill();
    await until('it waits', () => left.lines<Line>().length > 0);
    expect(left.lines<Line>()[0]).toMatchObject({ state: 'queued', done: 0, paused: true });
    left.child.kill('SIGINT');
    expect(await left.ended).toBe(130);
    expect(left.stderr()).toContain('goes on without this command. Watch it: market-sync backfill');

    const detached = startBackfill('--detach');
    expect(await detached.ended).toBe(0);
    expect(detached.stdout()).toBe(`${left.lines<Line>()[0]?.id}\n`);

    const waiting = startBackfill();
    await until('another waits', () => waiting.lines<Line>().length > 0);
    const cancelling = startBackfill('--cancel');
    expect(await cancelling.ended).toBe(0);
    expect(cancelling.stdout()).toContain('cancelled');
    expect(await waiting.ended).toBe(1);
    expect(waiting.lines<Line>().at(-1)).toMatchObject({ state: 'cancelled' });
    const nothing = startBackfill('--cancel');
    expect(await nothing.ended).toBe(0);
    expect(nothing.stdout()).toBe('no backfill is open\n');
  } finally {
    await query(pool, 'update market_sync.checkpoint set paused_at = null');
  }
});

test('worked by the command itself, Ctrl-C stops it behind a whole chunk, and says how to go on', async () => {
  const { pool } = scene.database;
  // As if the pipelines of the tests before were long gone.
  await query(pool, 'update market_sync.checkpoint set holder = null, lease_until = null');
  await insertBookings(BOOKINGS);
  await slowDown();
  const command = startBackfill();
  await until('it works', async () => (await doneSoFar()) > 0);
  command.child.kill('SIGINT');
  expect(await command.ended).toBe(130);
  expect(command.stderr()).toContain('Go on where it stopped: market-sync backfill');
  const done = await doneSoFar();
  expect(done % CHUNK).toBe(0);
  expect(done).toBeLessThan(BOOKINGS);
});
