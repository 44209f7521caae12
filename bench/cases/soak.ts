import { setTimeout as delay } from 'node:timers/promises';
import { query } from '../../src/postgres.ts';
import type { BenchCase } from '../bench-case.ts';
import { type Live, openLive, residentBytes, settle } from '../live.ts';
import { toResult } from '../result.ts';
import { median } from '../statistics.ts';
import { allLocations, watchChanges } from '../watch.ts';

const PER_SECOND = 40;

interface Sample {
  memory_bytes: number;
  tables_bytes: number;
  indexes_bytes: number;
  slot_bytes: number;
}

/** Ten minutes of steady work: nothing grows. */
export const soak: BenchCase = {
  name: 'soak',
  run: async (ctx) => {
    const minutes = ctx.quick ? 1 : 10;
    const live = await openLive(ctx, { locations: 400, bookings: 10_000, readings: 20_000 });
    const locations = allLocations(live, ctx.seed);
    // Into the state that it stays in, before anything is compared.
    await watchChanges(live, { perSecond: PER_SECOND, seconds: 30, watchers: 1, seed: ctx.seed, locations });
    await query(live.pool, 'select pg_stat_reset()');
    const samples: Sample[] = [];
    let working = true;
    const watch = async (): Promise<void> => {
      while (working) {
        samples.push(await look(live));
        await delay(2_000);
      }
    };
    const watching = watch();
    for (let minute = 0; minute < minutes; minute += 1) {
      ctx.progress(`minute ${minute + 1}`);
      await watchChanges(live, {
        perSecond: PER_SECOND,
        seconds: 60,
        watchers: 1,
        seed: ctx.seed,
        locations,
      });
    }
    working = false;
    await watching;
    await settle(live);
    const [updates] = await query<{ hot: number; vacuums: number }>(
      live.pool,
      `select n_tup_hot_upd::float8 / nullif(n_tup_upd, 0) as hot, autovacuum_count as vacuums
       from pg_stat_user_tables where relname = 'market_inventory_snapshots'`,
    );
    const growth = (name: keyof Sample): number => {
      const values = samples.map((sample) => sample[name]);
      const third = Math.ceil(values.length / 3);
      return median(values.slice(-third)) / median(values.slice(0, third));
    };
    const name = 'soak';
    const note = `${minutes} minutes at ${PER_SECOND} statements/s, ${PER_SECOND * 25} listings/s, last third against first`;
    return [
      toResult({ name, case: 'memory', unit: '×', samples: [growth('memory_bytes')], reach: '<= 1.1', note }),
      toResult({
        name,
        case: 'tables of the pipeline',
        unit: '×',
        samples: [growth('tables_bytes')],
        reach: '<= 1.1',
        note,
      }),
      toResult({
        name,
        case: 'indexes of the pipeline',
        unit: '×',
        samples: [growth('indexes_bytes')],
        reach: '<= 1.1',
        note,
      }),
      toResult({
        name,
        case: 'HOT updates of snapshots',
        unit: 'of all',
        samples: [updates?.hot ?? 0],
        reach: '>= 0.95',
        note: `${updates?.vacuums ?? 0} autovacuums`,
      }),
      toResult({
        name,
        case: 'WAL kept for the slot at most',
        unit: 'MB',
        samples: [Math.max(...samples.map(({ slot_bytes }) => slot_bytes)) / 1e6],
        reach: '<= 128',
      }),
    ];
  },
};

async function look({ pool, pipeline }: Live): Promise<Sample> {
  const rows = await query<Omit<Sample, 'memory_bytes'>>(
    pool,
    `select sum(pg_table_size(c.oid))::float8 as tables_bytes, sum(pg_indexes_size(c.oid))::float8 as indexes_bytes,
       (select pg_wal_lsn_diff(pg_current_wal_lsn(), restart_lsn)::float8 from pg_replication_slots limit 1) as slot_bytes
     from pg_class c where c.relkind = 'r'
       and (c.relnamespace = 'market_sync'::regnamespace or c.oid = 'market_inventory_snapshots'::regclass)`,
  );
  const row = rows[0];
  if (row === undefined) throw new Error('no sizes');
  return { ...row, memory_bytes: await residentBytes(pipeline.pid) };
}
