import type pg from 'pg';
import { startPublisher } from '../../pipeline/publish.ts';
import { toListing } from '../../src/domain/listing.ts';
import type { Snapshot } from '../../src/domain/snapshot.ts';
import type { Market } from '../../src/mongo.ts';
import { query } from '../../src/postgres.ts';
import type { BenchCase } from '../bench-case.ts';
import { untilPublished } from '../live.ts';
import { writeBare } from '../bare-market.ts';
import { toResult } from '../result.ts';
import { log, makeDatabase, openCluster } from '../stage.ts';

/**
 * Changed listings a second, from snapshots that wait to snapshots that are marked, against the bare driver's
 * `bulkWrite` of the same documents, which are in its memory already.
 */
export const publish: BenchCase = {
  name: 'publish',
  run: async (ctx) => {
    const { scope, quick, seed, progress } = ctx;
    const locations = quick ? 200 : 1_000;
    const size = { locations, bookings: locations * 25, readings: locations * 50 };
    const cluster = await openCluster(scope);
    progress(`filling ${size.bookings} bookings`);
    const { pool } = await makeDatabase(scope, cluster, { name: 'world', size, seed, migrated: true });
    const benchMarket = await ctx.market();
    const market = await benchMarket.open(`bench_publish_${process.pid}`);
    const rates: { ours: number[]; bare: number[]; ratio: number[] } = { ours: [], bare: [], ratio: [] };
    for (let round = 0; round < (quick ? 3 : 6); round += 1) {
      progress(`round ${round}`);
      await changeAll(pool);
      const ours = size.bookings / (await timedSeconds(() => drain(pool, market)));
      await changeAll(pool);
      const documents = (
        await query<Snapshot & Record<string, unknown>>(pool, 'select * from market_inventory_snapshots')
      ).map((snapshot) => ({
        listing: toListing(
          snapshot,
          snapshot.published_at instanceof Date ? snapshot.published_at : new Date(0),
        ),
        listingId: snapshot.market_listing_id ?? '',
      }));
      const bare = size.bookings / (await timedSeconds(() => writeBare(market, documents)));
      await drain(pool, market);
      // The first makes the listings.
      if (round === 0) continue;
      rates.ours.push(ours);
      rates.bare.push(bare);
      rates.ratio.push(ours / bare);
    }
    const name = 'publish';
    return [
      toResult({ name, case: 'against the bare driver', unit: '×', samples: rates.ratio, reach: '>= 0.85' }),
      toResult({ name, case: 'publisher', unit: 'listings/s', samples: rates.ours }),
      toResult({ name, case: 'bare driver', unit: 'listings/s', samples: rates.bare }),
    ];
  },
};

async function timedSeconds(work: () => Promise<unknown>): Promise<number> {
  const startedAt = performance.now();
  await work();
  return (performance.now() - startedAt) / 1000;
}

/** A reading at every location, and every snapshot recomputed. */
async function changeAll(pool: pg.Pool): Promise<void> {
  await query(
    pool,
    `insert into sensor_readings (sensor_id, reading_value, reading_unit, reading_time)
     select id, random() * 30, '°C', clock_timestamp() from iot_sensors where sensor_type = 'temperature'`,
  );
  const rows = await query<{ id: string }>(pool, 'select id from storage_bookings order by location_id, id');
  for (let first = 0; first < rows.length; first += 500) {
    const ids = rows.slice(first, first + 500).map(({ id }) => id);
    await query(pool, 'select count(*) from market_sync.reconcile_bookings($1, null, null)', [ids]);
  }
}

async function drain(pool: pg.Pool, market: Market): Promise<void> {
  const publisher = startPublisher(
    { pool, market, log, publisher: 'bench', leaseSeconds: 60, attemptsMax: 5, random: Math.random },
    { batchMax: 200 },
  );
  await untilPublished(pool, 10);
  await publisher.stop();
}
