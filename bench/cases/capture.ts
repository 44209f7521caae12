import { cpus } from 'node:os';
import { join } from 'node:path';
import pg from 'pg';
import type { TestCluster } from '../../test/support/cluster.ts';
import type { BenchCase, BenchContext } from '../bench-case.ts';
import { findProgram, runProgram } from '../program.ts';
import { type Result, toResult } from '../result.ts';
import { makeDatabase, openCluster } from '../stage.ts';
import { median } from '../statistics.ts';
import { idSql, SENSORS_PER_LOCATION } from '../world.ts';

const LOCATIONS = 100;
const SENSORS = LOCATIONS * SENSORS_PER_LOCATION;
const COLUMNS = 'sensor_readings (sensor_id, reading_value, reading_unit, reading_time)';

interface Load {
  case: string;
  reach: string;
  unit: string;
  /** Statements, or rows, a second. */
  measure(url: string): Promise<number>;
}

interface Side {
  url: string;
  pool: pg.Pool;
}

/** How fast an application writes readings with capture installed, as a share of how fast it does without; the same indexes on both. */
export const capture: BenchCase = {
  name: 'capture',
  run: async (ctx) => {
    const cluster = await openCluster(ctx.scope, { autovacuum: 'off' });
    const open = (name: string, migrated: boolean): Promise<Side> =>
      makeDatabase(ctx.scope, cluster, {
        name,
        size: { locations: LOCATIONS, bookings: LOCATIONS, readings: SENSORS },
        seed: ctx.seed,
        migrated,
      });
    const captured = await open('captured', true);
    const plain = await open('plain', false);
    await copyIndexes(captured, plain);
    const results: Result[] = [];
    for (const load of await makeLoads(ctx, cluster, plain.pool)) {
      ctx.progress(load.case);
      const rates = { captured: [] as number[], plain: [] as number[] };
      const ratios: number[] = [];
      const repetitions = ctx.quick ? 2 : 7;
      for (let round = -1; round < repetitions; round += 1) {
        const measure = async (side: Side): Promise<number> => {
          // Tables of one size and full-page writes already done: as both begin, so does every repetition.
          await side.pool.query('truncate sensor_readings');
          await side.pool.query('checkpoint');
          return load.measure(side.url);
        };
        const [first, second] = round % 2 === 0 ? [captured, plain] : [plain, captured];
        const [a, b] = [await measure(first), await measure(second)];
        if (round < 0) continue;
        const [withCapture, without] = first === captured ? [a, b] : [b, a];
        rates.captured.push(withCapture);
        rates.plain.push(without);
        ratios.push(withCapture / without);
      }
      const shown = (values: number[]): string => Math.round(median(values)).toLocaleString('en');
      results.push(
        toResult({
          name: 'capture',
          case: load.case,
          unit: '× of without',
          samples: ratios,
          reach: load.reach,
          note: `${load.unit}/s: ${shown(rates.captured)} with, ${shown(rates.plain)} without`,
        }),
      );
    }
    return results;
  },
};

/** The index of a sensor's latest reading: what asks for that, the polling system too, has one already, or gets it once. */
async function copyIndexes(from: Side, to: Side): Promise<void> {
  const { rows } = await from.pool.query<{ indexdef: string }>(
    `select indexdef from pg_indexes where tablename = 'sensor_readings' and indexname like 'market_sync%'`,
  );
  for (const { indexdef } of rows) await to.pool.query(indexdef);
}

async function makeLoads(ctx: BenchContext, cluster: TestCluster, pool: pg.Pool): Promise<Load[]> {
  const seconds = ctx.quick ? 1 : 3;
  const write = await findWriter(seconds);
  // A sensor of somebody's, whose id the writer knows: found by an index, as the foreign key finds it again.
  const single = `insert into ${COLUMNS} values (${idSql('sensor', ':n')}, 21.5, '°C', clock_timestamp())`;
  const thousand = `insert into ${COLUMNS}
    select ${idSql('sensor', `:n / ${SENSORS_PER_LOCATION} * ${SENSORS_PER_LOCATION} % ${SENSORS} + i % ${SENSORS_PER_LOCATION} + 1`)},
      21.5, '°C', clock_timestamp() from generate_series(1, 1000) i`;
  const copied = ctx.quick ? 20_000 : 200_000;
  const file = join(cluster.dataDir, 'bench-readings.copy');
  await pool.query(
    `copy (select ${idSql('sensor', `i % ${SENSORS} + 1`)}, 21.5, '°C', now() from generate_series(1, ${copied}) i) to '${file}'`,
  );
  const withSync = (url: string, mode: 'on' | 'off'): string =>
    `${url}?options=${encodeURIComponent(`-c synchronous_commit=${mode}`)}`;
  return [
    {
      case: 'single rows, 4 clients, synchronous_commit on',
      reach: '>= 0.92',
      unit: 'rows',
      measure: (url) => write(withSync(url, 'on'), { sql: single, clients: 4 }),
    },
    {
      case: 'single rows, 4 clients, synchronous_commit off',
      reach: '>= 0.75',
      unit: 'rows',
      measure: (url) => write(withSync(url, 'off'), { sql: single, clients: 4 }),
    },
    {
      case: '1,000-row inserts',
      reach: '>= 0.9',
      unit: 'inserts',
      measure: (url) => write(withSync(url, 'on'), { sql: thousand, clients: 1 }),
    },
    {
      case: `COPY of ${copied.toLocaleString('en')}`,
      reach: '>= 0.97',
      unit: 'rows',
      measure: (url) => copyFrom(url, { file, rows: copied }),
    },
  ];
}

type Writer = (url: string, load: { sql: string; clients: number }) => Promise<number>;

/** Runs a statement over and over, `:n` being the number of a sensor; answers how often a second. */
async function findWriter(seconds: number): Promise<Writer> {
  const pgbench = await findProgram('pgbench');
  if (pgbench === undefined) return (url, load) => writeWithOwnClients(url, { ...load, seconds });
  return async (url, { sql, clients }) => {
    const script = `\\set n random(1, ${SENSORS})\n${sql.replaceAll('\n', ' ')};\n`;
    const printed = await runProgram(
      pgbench,
      [
        ...['-n', '-M', 'prepared', '-f', '-', '-T', String(seconds), '-c', String(clients)],
        ...['-j', String(Math.min(clients, cpus().length)), url],
      ],
      { timeoutMs: (seconds + 60) * 1_000, input: script },
    );
    const tps = /^tps = ([\d.]+)/m.exec(printed);
    if (tps === null) throw new Error(`pgbench said no tps: ${printed}`);
    return Number(tps[1]);
  };
}

async function writeWithOwnClients(
  url: string,
  { sql, clients, seconds }: { sql: string; clients: number; seconds: number },
): Promise<number> {
  const pool = new pg.Pool({ connectionString: url, max: clients });
  const statement = { name: 'write', text: sql.replaceAll(':n', '$1::int') };
  try {
    let count = 0;
    const startedAt = performance.now();
    const work = async (client: number): Promise<void> => {
      for (let n = client; performance.now() - startedAt < seconds * 1_000; n += 7) {
        await pool.query({ ...statement, values: [(n % SENSORS) + 1] });
        count += 1;
      }
    };
    await Promise.all(Array.from({ length: clients }, (_, client) => work(client)));
    return (count * 1_000) / (performance.now() - startedAt);
  } finally {
    await pool.end();
  }
}

/** From a file of the server's: nothing but the server works. */
async function copyFrom(url: string, { file, rows }: { file: string; rows: number }): Promise<number> {
  const client = new pg.Client({ connectionString: url });
  await client.connect();
  try {
    const startedAt = performance.now();
    await client.query(`copy ${COLUMNS} from '${file}'`);
    return (rows * 1_000) / (performance.now() - startedAt);
  } finally {
    await client.end();
  }
}
