import { parseArgs } from 'node:util';
import { type Scenario, simulate } from './simulate.ts';

/**
 * `npm run simulate:scaling`: how many publishers what load needs, by simulation, for docs/scaling.md. Costs are flags: take those of an
 * installation of your own from `/metrics` (docs/scaling.md says how).
 */

/** Rounded from what was measured on two cores that others used too, against the stand-in; `databaseShare` is assumed. */
const MEASURED: Scenario = {
  publishers: 1,
  changesPerSecond: 1_000,
  bookings: 50_000,
  seconds: 60,
  batchMax: 200,
  recomputeMax: 250,
  recomputeBatchMs: 5,
  recomputeEachMs: 0.24,
  publishBatchMs: 5,
  publishEachMs: 0.29,
  databaseShare: 0.4,
  cores: 2,
  seed: 1,
};

const FLAGS = {
  publishers: { type: 'string', default: '1,2,4,8' },
  changes: { type: 'string', default: '500,1000,2000,3000' },
  bookings: { type: 'string', default: String(MEASURED.bookings) },
  seconds: { type: 'string', default: String(MEASURED.seconds) },
  cores: { type: 'string', default: String(MEASURED.cores) },
  'database-share': { type: 'string', default: String(MEASURED.databaseShare) },
  'recompute-batch-ms': { type: 'string', default: String(MEASURED.recomputeBatchMs) },
  'recompute-each-ms': { type: 'string', default: String(MEASURED.recomputeEachMs) },
  'publish-batch-ms': { type: 'string', default: String(MEASURED.publishBatchMs) },
  'publish-each-ms': { type: 'string', default: String(MEASURED.publishEachMs) },
} as const;

const { values } = parseArgs({ options: FLAGS });
const numbers = (text: string): number[] => text.split(',').map(Number);

process.stdout.write(
  '| changes/s | publishers | listings/s | p50 ms | p99 ms | wait at the end |\n|---|---|---|---|---|---|\n',
);
for (const changesPerSecond of numbers(values.changes)) {
  for (const publishers of numbers(values.publishers)) {
    const { publishedPerSecond, p50Ms, p99Ms, waiting } = simulate({
      ...MEASURED,
      publishers,
      changesPerSecond,
      bookings: Number(values.bookings),
      seconds: Number(values.seconds),
      cores: Number(values.cores),
      databaseShare: Number(values['database-share']),
      recomputeBatchMs: Number(values['recompute-batch-ms']),
      recomputeEachMs: Number(values['recompute-each-ms']),
      publishBatchMs: Number(values['publish-batch-ms']),
      publishEachMs: Number(values['publish-each-ms']),
    });
    process.stdout.write(
      `| ${changesPerSecond} | ${publishers} | ${publishedPerSecond} | ${p50Ms} | ${p99Ms} | ${waiting} |\n`,
    );
  }
}
