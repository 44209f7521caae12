import { join } from 'node:path';
import pg from 'pg';
import type { BenchCase } from '../bench-case.ts';
import { COMPILE_CACHE, findProgram, PROGRAM_FLAGS, runProgram } from '../program.ts';
import { type Result, toResult } from '../result.ts';
import { makeDatabase, openCluster } from '../stage.ts';
import { median } from '../statistics.ts';

const PLUGIN_OPTIONS = { proto_version: '1', publication_names: 'market_sync', messages: 'true' };

const TRANSACTIONS = [
  { case: '1-row transactions', rows: 1, reach: '>= 1' },
  { case: '100-row transactions', rows: 100, reach: '>= 1' },
  { case: 'one transaction', rows: undefined, reach: '>= 0.8' },
] as const;

const PEAK_MB_REACH = '<= 120';
const TIMEOUT_MS = 120_000;

/** A stretch of WAL, to be read as often as one likes: a slot stands at its beginning and is copied. */
interface Stretch {
  slot: string;
  startLsn: string;
  endLsn: string;
}

/** The pipeline's own replication and decoding against PostgreSQL's client that throws everything away, on the same WAL. */
export const decode: BenchCase = {
  name: 'decode',
  run: async (ctx) => {
    const rows = ctx.quick ? 50_000 : 500_000;
    const repetitions = ctx.quick ? 3 : 7;
    // Nothing but the two readers is to work while they are measured.
    const cluster = await openCluster(ctx.scope, { autovacuum: 'off' });
    const { url, pool } = await makeDatabase(ctx.scope, cluster, {
      name: 'decode',
      seed: ctx.seed,
      migrated: true,
    });
    const reader = await findReader();
    const results: Result[] = [];
    const peaksMb: number[] = [];
    for (const kind of TRANSACTIONS) {
      ctx.progress(`${rows} rows, ${kind.case}`);
      const stretch = await writeStretch(pool, { rows, rowsPerTransaction: kind.rows ?? rows });
      const ratios: number[] = [];
      const times: { ours: number[]; theirs: number[] } = { ours: [], theirs: [] };
      for (let repetition = -1; repetition < repetitions; repetition += 1) {
        const measure = async (who: 'ours' | 'theirs'): Promise<number> => {
          const slot = await copySlot(pool, stretch.slot);
          try {
            if (who === 'theirs') return await reader.read({ url, slot, stretch });
            const read = await readAsPipeline({ url, slot, stretch, rows });
            if (repetition >= 0) peaksMb.push(read.peakMb);
            return read.elapsedMs;
          } finally {
            await dropSlot(pool, slot);
          }
        };
        // Each begins as often as the other. The first round fills the caches and counts for nothing.
        const order = repetition % 2 === 0 ? (['ours', 'theirs'] as const) : (['theirs', 'ours'] as const);
        const elapsedMs = { ours: 0, theirs: 0 };
        for (const who of order) elapsedMs[who] = await measure(who);
        if (repetition < 0) continue;
        ratios.push(elapsedMs.theirs / elapsedMs.ours);
        times.ours.push(elapsedMs.ours);
        times.theirs.push(elapsedMs.theirs);
      }
      await dropSlot(pool, stretch.slot);
      const rate = (values: number[]): string => `${Math.round(rows / median(values))}k/s`;
      results.push(
        toResult({
          name: 'decode',
          case: kind.case,
          unit: '×',
          samples: ratios,
          reach: kind.reach,
          note: `rows: ours ${rate(times.ours)}, ${reader.name} ${rate(times.theirs)}`,
        }),
      );
    }
    results.push(
      toResult({
        name: 'decode',
        case: 'peak memory',
        unit: 'MB',
        samples: [Math.max(...peaksMb)],
        reach: PEAK_MB_REACH,
      }),
    );
    return results;
  },
};

/** Bookings inserted in transactions of so many rows, and a marker behind them at which readers stop. */
async function writeStretch(
  pool: pg.Pool,
  { rows, rowsPerTransaction }: { rows: number; rowsPerTransaction: number },
): Promise<Stretch> {
  const slot = `bench_${rowsPerTransaction}`;
  const created = await pool.query<{ lsn: string }>(
    `select lsn::text from pg_create_logical_replication_slot($1, 'pgoutput')`,
    [slot],
  );
  const insert = (count: number): string =>
    `insert into storage_bookings (farmer_id, crop_type, quantity_kg, grade, duration_days, start_date, end_date, booking_status)
     select gen_random_uuid(), 'Tomato', 100, 'A', 90, now(), now() + interval '90 days', 'active'
     from generate_series(1, ${count})`;
  await pool.query('truncate storage_bookings cascade');
  await pool.query(`do $$ begin
    set local synchronous_commit = off;
    for i in 1 .. ${rows / rowsPerTransaction} loop
      ${insert(rowsPerTransaction)};
      commit;
      set local synchronous_commit = off;
    end loop;
  end $$`);
  const end = await pool.query<{ lsn: string }>('select pg_current_wal_insert_lsn()::text as lsn');
  await pool.query(insert(1));
  return { slot, startLsn: created.rows[0]?.lsn ?? '', endLsn: end.rows[0]?.lsn ?? '' };
}

async function copySlot(pool: pg.Pool, slot: string): Promise<string> {
  const copy = `${slot}_copy`;
  await pool.query('select pg_copy_logical_replication_slot($1, $2)', [slot, copy]);
  return copy;
}

/** A reader that has gone may still be on its way out. */
async function dropSlot(pool: pg.Pool, slot: string): Promise<void> {
  await pool.query(
    `select pg_terminate_backend(active_pid, 5000) from pg_replication_slots where slot_name = $1 and active`,
    [slot],
  );
  await pool.query('select pg_drop_replication_slot($1)', [slot]);
}

async function readAsPipeline({
  url,
  slot,
  stretch,
  rows,
}: {
  url: string;
  slot: string;
  stretch: Stretch;
  rows: number;
}): Promise<{ elapsedMs: number; peakMb: number }> {
  const printed = await runProgram(
    process.execPath,
    [...PROGRAM_FLAGS, join(import.meta.dirname, '..', 'decode-reader.ts')],
    {
      timeoutMs: TIMEOUT_MS,
      environment: {
        NODE_COMPILE_CACHE: COMPILE_CACHE,
        BENCH_DATABASE_URL: url,
        BENCH_SLOT: slot,
        BENCH_START_LSN: stretch.startLsn,
        BENCH_END_LSN: stretch.endLsn,
      },
    },
  );
  const read = JSON.parse(printed) as { elapsedMs: number; peakMb: number; keys: number };
  if (read.keys < rows) throw new Error(`decode: ${read.keys} keys of ${rows} rows`);
  return read;
}

interface Reader {
  name: string;
  /** Milliseconds from the beginning of the stream to the stretch's end. */
  read(input: { url: string; slot: string; stretch: Stretch }): Promise<number>;
}

async function findReader(): Promise<Reader> {
  const program = await findProgram('pg_recvlogical');
  if (program === undefined) return { name: 'a bare client', read: readBare };
  const options = Object.entries(PLUGIN_OPTIONS).flatMap(([name, value]) => ['-o', `${name}=${value}`]);
  return {
    name: 'pg_recvlogical',
    read: async ({ url, slot, stretch }) => {
      let startedAt = Number.NaN;
      const args = ['-d', url, '--slot', slot, '--start', '--no-loop', '--endpos', stretch.endLsn];
      await runProgram(program, [...args, ...options, '-f', '/dev/null', '-v'], {
        timeoutMs: TIMEOUT_MS,
        // As ours: connecting does not count.
        onErrorLine: (line) => {
          if (line.includes('streaming initiated')) startedAt = performance.now();
        },
      });
      return performance.now() - startedAt;
    },
  };
}

/** For a machine without that program: a connection that looks at nothing but positions. */
async function readBare({
  url,
  slot,
  stretch,
}: {
  url: string;
  slot: string;
  stretch: Stretch;
}): Promise<number> {
  const client = new pg.Client({ connectionString: url, replication: 'database' } as pg.ClientConfig);
  client.on('error', () => undefined);
  await client.connect();
  const connection = (client as unknown as { connection: NodeJS.EventEmitter }).connection;
  const [high, low] = stretch.endLsn.split('/').map((part) => Number.parseInt(part, 16)) as [number, number];
  let startedAt = 0;
  const done = new Promise<void>((resolve) => {
    connection.once('replicationStart', () => {
      startedAt = performance.now();
    });
    connection.on('copyData', ({ chunk }: { chunk: Buffer }) => {
      const position = chunk.readUInt32BE(1);
      if (position > high || (position === high && chunk.readUInt32BE(5) >= low)) resolve();
    });
  });
  const options = Object.entries(PLUGIN_OPTIONS).map(([name, value]) => `${name} '${value}'`);
  const streaming = client.query(
    `START_REPLICATION SLOT "${slot}" LOGICAL ${stretch.startLsn} (${options.join(', ')})`,
  );
  streaming.catch(() => undefined);
  await Promise.race([done, streaming]);
  const elapsedMs = performance.now() - startedAt;
  void client.end().catch(() => undefined);
  return elapsedMs;
}
