import { afterAll, beforeAll, expect, test } from 'vitest';
import { readSnapshotRows } from '../support/compare.ts';
import { checkHistories } from '../support/history.ts';
import { createClock, startTestPipeline, type TestPipeline } from '../support/pipeline.ts';

const clock = createClock(new Date('2026-03-01T12:00:00.000Z'));
let running: TestPipeline;

beforeAll(async () => {
  running = await startTestPipeline({ clock });
});

afterAll(async () => {
  await running.stop();
});

/** Minutes on a slow machine: every history settles several times. */
const TIMEOUT_MS = 15 * 60_000;

test('I1, row 17: whatever happens to the source tables, every snapshot and every listing equals the oracle', {
  timeout: TIMEOUT_MS,
  retry: 0,
}, async () => {
  const { database, market, config } = running;
  const report = await checkHistories(
    {
      pool: database.pool,
      settings: {
        pestWindowSeconds: config.pestWindowSeconds,
        sensorStaleSeconds: config.sensorStaleSeconds,
      },
      clock,
      settle: running.settle,
      // Each TRUNCATE recomputes everything: what earlier histories left would only cost time.
      reset: async () => {
        await running.settle();
        await database.pool.query('truncate market_inventory_snapshots, market_sync.snapshot_state');
        await market.market.listings.deleteMany({});
      },
      readSnapshots: (bookingIds) => readSnapshotRows(database.pool, bookingIds),
      readListings: async (bookingIds) =>
        (await market.market.listings
          .find({ booking_id: { $in: [...bookingIds] } })
          .toArray()) as unknown as Awaited<ReturnType<Parameters<typeof checkHistories>[0]['readListings']>>,
    },
    { runs: 300, endOnFailure: true },
  );
  expect(report.compared).toBeGreaterThan(Number(process.env.HISTORY_RUNS ?? 300) * 4);
});
