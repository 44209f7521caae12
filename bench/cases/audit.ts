import { loadConfig } from '../../src/config.ts';
import { auditSettings, workAudit } from '../../src/store/drift-audit.ts';
import { publishContext } from '../../src/store/publish.ts';
import type { BenchCase } from '../bench-case.ts';
import { openLive } from '../live.ts';
import { toResult } from '../result.ts';
import { SENSORS_PER_LOCATION } from '../world.ts';
import { log } from '../stage.ts';

const BOOKINGS_PER_LOCATION = 25;
const READINGS_PER_SENSOR = 2;

/** How fast everything is compared, source rows with snapshots and snapshots with listings, when nothing else runs. */
export const audit: BenchCase = {
  name: 'audit',
  run: async (ctx) => {
    const bookings = ctx.quick ? 10_000 : 50_000;
    const locations = bookings / BOOKINGS_PER_LOCATION;
    const readings = locations * SENSORS_PER_LOCATION * READINGS_PER_SENSOR;
    const { pool, market, pipeline, cluster } = await openLive(ctx, { locations, bookings, readings });
    await pipeline.end('SIGTERM');
    const config = loadConfig({ DATABASE_URL: cluster.url() });
    const rounds = ctx.quick ? 2 : 5;
    const samples: number[] = [];
    for (let round = -1; round < rounds; round += 1) {
      ctx.progress(`round ${round + 1} of ${rounds}`);
      const startedAt = performance.now();
      const run = await workAudit(
        {
          pool,
          market,
          log,
          clock: () => undefined,
          publish: publishContext({ config, pool, market, log, random: Math.random, role: 'pipeline' }),
          signal: new AbortController().signal,
          ...auditSettings(config),
        },
        { reason: 'bench', requestedBy: 'bench', repair: 'off', worker: 'command' },
      );
      const rate = (1_000 * bookings) / (performance.now() - startedAt);
      if (
        typeof run !== 'object' ||
        run.compared !== bookings ||
        run.listings !== bookings ||
        run.in_flight > 0
      ) {
        throw new Error(`the audit has not compared everything: ${JSON.stringify(run)}`);
      }
      // The first one plans and compiles.
      if (round >= 0) samples.push(rate);
    }
    const note = `${bookings} bookings`;
    return [
      toResult({
        name: 'audit',
        case: 'everything compared',
        samples,
        unit: 'bookings/s',
        reach: '>= 10000',
        note,
      }),
    ];
  },
};
