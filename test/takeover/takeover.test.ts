import { setTimeout as delay } from 'node:timers/promises';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { loadConfig } from '../../src/config.ts';
import { readMigrations } from '../../src/migrations.ts';
import { query } from '../../src/postgres.ts';
import { compareAll, settleAll, type VerdictContext } from '../chaos/verdict.ts';
import { runProgram, startProgram } from '../cli/program.ts';
import { describeCatalog } from '../support/catalog.ts';
import { type BusyApplication, type PhaseReport, startBusyApplication } from './busy-application.ts';
import { fillOldListings, fillOldSnapshots, fillSource, type OldSystem } from './old-system.ts';
import { createStage, type Stage } from './stage.ts';

// Issue 6's first hour on a database that is already alive, by the commands that a person would type. TAKEOVER=full has the
// size that it names, on a server whose commits wait for the disk, and an application that writes as fast as it can: each of its
// writers waits for one statement and sends the next. It takes eight minutes, and prints what the statements took.
const FULL = process.env.TAKEOVER === 'full';
const SIZE: OldSystem = FULL
  ? { bookings: 50_000, readings: 1_000_000, listings: 10_000 }
  : { bookings: 1_000, readings: 20_000, listings: 300 };
const DEADLINE_MS = FULL ? 560_000 : 60_000;
const WRITERS = Number(process.env.TAKEOVER_WRITERS ?? (FULL ? 16 : 2));
const PACE = process.env.TAKEOVER_STATEMENTS_PER_SECOND ?? (FULL ? '' : '100');
const QUIET_MS = FULL ? 10_000 : 1_000;
/**
 * The p99 of these against `before`. What other tests on the machine put off is not the small size's to judge. Not reached so far on two
 * cores that the application alone fills: 1.2 once migrated, 1.9 beside the backfill, 2.1 beside migrate.
 */
const JUDGED = FULL ? ['migrate', 'migrated', 'backfill'] : [];
const P99_TIMES_MAX = 1.5;

let stage: Stage;
let application: BusyApplication | undefined;
let oldListingIds: Map<string, string>;

beforeAll(async () => {
  stage = await createStage({ durable: FULL });
  await fillSource(stage.pool, SIZE);
  await fillOldSnapshots(stage.pool, SIZE);
  oldListingIds = await fillOldListings(stage.pool, stage.market.market, SIZE);
  if (FULL) await query(stage.pool, 'checkpoint');
}, 300_000);

afterAll(async () => {
  application?.kill();
  await stage?.stop();
});

const marketSync = (...args: string[]) => runProgram(args, stage.settings);

/** Exit code, and the checks that are no longer or not yet well. */
async function doctor(): Promise<{ code: number; troubles: string[]; durationMs: number }> {
  const { code, stdout, stderr } = await marketSync('doctor', '--json');
  expect(stderr).toBe('');
  const report = JSON.parse(stdout) as {
    exit_code: number;
    duration_ms: number;
    checks: { name: string; status: string }[];
  };
  expect(report.exit_code).toBe(code);
  const troubles = report.checks.filter(({ status }) => status === 'warning' || status === 'failure');
  return {
    code,
    troubles: troubles.map(({ name, status }) => `${name} ${status}`),
    durationMs: report.duration_ms,
  };
}

test('a living database is taken over under its application: doctor, plan, migrate, backfill, pipeline; nothing it does fails, and every listing is right under its old id', {
  timeout: 2 * DEADLINE_MS,
}, async ({ annotate }) => {
  const { pool, market } = stage;
  application = await startBusyApplication({
    url: stage.url,
    connections: WRITERS,
    statementsPerSecond: PACE === '' ? undefined : Number(PACE),
  });
  await delay(QUIET_MS / 2);
  application.enter('before');
  // Long enough for what the server does by itself: it vacuums every minute.
  await delay(3 * QUIET_MS);

  application.enter('doctor and plan');
  const catalog = await describeCatalog(pool);
  const found = await doctor();
  expect(found.code).toBe(1);
  expect(found.troubles).toContain('listing_guards warning');
  const plan = await marketSync('migrate', '--plan');
  expect(plan).toMatchObject({ code: 0, stderr: '' });
  for (const { name } of readMigrations()) expect(plan.stdout).toContain(`-- ${name}\n`);
  expect(await describeCatalog(pool)).toEqual(catalog);

  application.enter('migrate');
  expect(await marketSync('migrate')).toMatchObject({ code: 0, stderr: '' });
  application.enter('plan again');
  expect((await marketSync('migrate', '--plan')).stdout).not.toMatch(/^-- \d{3}_/m);
  application.enter('migrated');
  await delay(QUIET_MS);

  application.enter('backfill');
  const startedAt = performance.now();
  const backfill = await marketSync('backfill', '--reason', 'taking over');
  const seconds = (performance.now() - startedAt) / 1_000;
  expect(backfill.code, backfill.stderr).toBe(0);
  const done = JSON.parse(backfill.stdout.trimEnd().split('\n').at(-1) ?? '') as Record<string, number>;
  expect(done).toMatchObject({ state: 'done', failed: 0 });
  expect(done.done).toBeGreaterThanOrEqual(SIZE.bookings);

  application.enter('live');
  const pipeline = startProgram(['pipeline'], stage.settings);
  await pipeline.printed(/^pipeline running$/m);
  await delay(QUIET_MS);
  const { phases, errors, failed } = await application.stop();
  application = undefined;
  await annotate(`backfill beside the application: ${done.done} bookings in ${seconds.toFixed(1)} s`);
  for (const phase of phases) await annotate(JSON.stringify(phase));
  if (FULL) report(phases);
  expect({ failed, errors }).toEqual({ failed: 0, errors: [] });

  await expectEveryBookingRight();
  const looked = await doctor();
  expect(looked.code).toBeLessThan(2);
  expect(looked.troubles).not.toContain('listing_guards warning');
  expect(await countWrongIds()).toBe(0);
  expect(await market.market.listings.countDocuments({ epoch: { $exists: false } })).toBe(0);
  expect(await pipeline.end('SIGTERM')).toMatchObject({ code: 0 });

  const before = phases.find(({ phase }) => phase === 'before')?.p99Ms ?? 0;
  for (const { phase, p99Ms } of phases) {
    if (JUDGED.includes(phase)) expect.soft(p99Ms / before, phase).toBeLessThan(P99_TIMES_MAX);
  }
});

function report(phases: PhaseReport[]): void {
  const before = phases.find(({ phase }) => phase === 'before')?.p99Ms ?? Number.NaN;
  for (const { phase, seconds, statements, p50Ms, p99Ms, maxMs } of phases) {
    process.stdout.write(
      `${phase}: ${Math.round(statements / seconds)} statements/s for ${Math.round(seconds)} s, ` +
        `p50 ${p50Ms} ms, p99 ${p99Ms} ms (${(p99Ms / before).toFixed(2)} times before), at most ${maxMs} ms\n`,
    );
  }
}

/** The oracle on every booking there is, live or ended, and every listing. */
async function expectEveryBookingRight(): Promise<void> {
  const violations: string[] = [];
  const verdict: VerdictContext = {
    pool: stage.pool,
    market: stage.market.market,
    observations: { violation: (name, what) => void violations.push(`${name}: ${what}`) },
    settings: loadConfig(stage.settings),
  };
  await settleAll(verdict);
  const rows = await query<{ id: string }>(
    stage.pool,
    'select id from storage_bookings order by location_id, id',
  );
  await compareAll(
    verdict,
    rows.map((row) => row.id),
  );
  expect(violations.slice(0, 20)).toEqual([]);
}

/** Old listings that are gone, or whose id the snapshot does not say. */
async function countWrongIds(): Promise<number> {
  const rows = await query<{ booking_id: string; listing_id: string | null }>(
    stage.pool,
    'select booking_id, market_listing_id as listing_id from market_inventory_snapshots',
  );
  const told = new Map(rows.map((row) => [row.booking_id, row.listing_id]));
  const documents = await stage.market.market.listings.find().project({ _id: 1, booking_id: 1 }).toArray();
  const stored = new Map(documents.map((document) => [document.booking_id, String(document._id)]));
  return [...oldListingIds].filter(([booking, id]) => told.get(booking) !== id || stored.get(booking) !== id)
    .length;
}
