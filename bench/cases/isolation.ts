import { query } from '../../src/postgres.ts';
import type { BenchCase } from '../bench-case.ts';
import { openLive, settle } from '../live.ts';
import { toResult } from '../result.ts';
import { percentile } from '../statistics.ts';
import { allLocations, atRate, watchChanges } from '../watch.ts';
import { idSql } from '../world.ts';

const HOT_PER_SECOND = 10_000;
const STATEMENTS_PER_SECOND = 100;

/** Latency of other bookings while one location has 10,000 readings a second, in statements of a hundred. */
export const isolation: BenchCase = {
  name: 'isolation',
  run: async (ctx) => {
    const locations = ctx.quick ? 200 : 1_000;
    const live = await openLive(ctx, { locations, bookings: locations * 25, readings: locations * 50 });
    const others = allLocations(live, ctx.seed).filter((location) => location !== 1);
    const seconds = ctx.quick ? 3 : 20;
    const watch = (seed: number): Promise<number[]> =>
      watchChanges(live, { perSecond: 20, seconds, watchers: 1, seed, locations: others });
    await watch(0);
    const p99: { alone: number[]; beside: number[]; ratio: number[] } = { alone: [], beside: [], ratio: [] };
    for (let round = 0; round < (ctx.quick ? 2 : 5); round += 1) {
      ctx.progress(`round ${round + 1}`);
      const alone = percentile(await watch(round), 99);
      const hot = atRate({ perSecond: STATEMENTS_PER_SECOND, seconds }, () =>
        query(
          live.pool,
          `insert into sensor_readings (sensor_id, reading_value, reading_unit, reading_time)
           select ${idSql('sensor', '2')}, random() * 100, '%', clock_timestamp() from generate_series(1, $1::int)`,
          [HOT_PER_SECOND / STATEMENTS_PER_SECOND],
        ),
      );
      const beside = percentile(await watch(round), 99);
      await hot;
      await settle(live);
      p99.alone.push(alone);
      p99.beside.push(beside);
      p99.ratio.push(beside / alone);
    }
    const name = 'isolation';
    return [
      toResult({
        name,
        case: 'p99 of others, with against without',
        unit: '×',
        samples: p99.ratio,
        reach: '<= 2',
      }),
      toResult({ name, case: 'p99 of others, without', unit: 'ms', samples: p99.alone }),
      toResult({ name, case: 'p99 of others, with', unit: 'ms', samples: p99.beside }),
    ];
  },
};
