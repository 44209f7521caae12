import { query } from '../../src/postgres.ts';
import { type FaultProxy, startProxy } from '../../test/support/proxy.ts';
import { writeBare } from '../bare-market.ts';
import type { BenchCase } from '../bench-case.ts';
import { countPublished, openLive, settle, until, untilPublished, untilReconciled } from '../live.ts';
import { type Result, toResult } from '../result.ts';
import { toListing } from '../../src/domain/listing.ts';
import type { Snapshot } from '../../src/domain/snapshot.ts';

/** Listings that changed, several times each, while MongoDB was away: how fast they are written once it is back. */
export const backlog: BenchCase = {
  name: 'backlog',
  run: async (ctx) => {
    const locations = ctx.quick ? 400 : 4_000;
    const size = { locations, bookings: locations * 25, readings: locations * 10 };
    let marketProxy: FaultProxy | undefined;
    const live = await openLive(ctx, size, async (url) => {
      marketProxy = ctx.scope.add(await startProxy(url), (proxy) => proxy.stop());
      return marketProxy.url;
    });
    const { pool, market } = live;
    const bookings = live.size.bookings;
    const [rates, ratios, writes]: [number[], number[], number[]] = [[], [], []];
    for (let round = 0; round < (ctx.quick ? 1 : 2); round += 1) {
      ctx.progress(`round ${round + 1}: MongoDB is away`);
      await marketProxy?.refuse();
      const before = await countPublished(pool);
      for (let change = 0; change < 3; change += 1) {
        await query(
          pool,
          `insert into sensor_readings (sensor_id, reading_value, reading_unit, reading_time)
           select id, random() * 30, '°C', clock_timestamp() from iot_sensors where sensor_type = 'temperature'`,
        );
        await untilReconciled(live, 100);
      }
      ctx.progress(`round ${round + 1}: MongoDB is back`);
      await marketProxy?.heal();
      const startedAt = performance.now();
      // From the first write on: how long an outage is waited out is another matter.
      await until('the first is written', async () => (await countPublished(pool)) > before, 5);
      const [firstAt, firstCount] = [performance.now(), await countPublished(pool)];
      await untilPublished(pool, 20);
      const rate = (before + bookings - firstCount) / ((performance.now() - firstAt) / 1000);
      ctx.progress(`the first after ${Math.round(firstAt - startedAt)} ms, ${Math.round(rate)} listings/s`);
      writes.push(((await countPublished(pool)) - before) / bookings);
      await settle(live);
      const documents = (
        await query<Snapshot & Record<string, unknown>>(
          pool,
          'select * from market_inventory_snapshots limit 20000',
        )
      ).map((snapshot) => ({
        listing: toListing(
          snapshot,
          snapshot.published_at instanceof Date ? snapshot.published_at : new Date(0),
        ),
        listingId: snapshot.market_listing_id ?? '',
      }));
      const bareAt = performance.now();
      await writeBare(market, documents);
      const bare = documents.length / ((performance.now() - bareAt) / 1000);
      // So that listings say again what the snapshots say.
      await query(pool, `update market_sync.snapshot_state set published_revision = 0`);
      await query(pool, `select pg_notify('market_sync_publish', '')`);
      await settle(live);
      rates.push(rate);
      ratios.push(rate / (0.85 * bare));
    }
    const result = (what: string, samples: number[], unit: string, reach?: string, note?: string): Result =>
      toResult({
        name: 'backlog',
        case: what,
        samples,
        unit,
        note,
        ...(reach === undefined ? {} : { reach }),
      });
    return [
      result('against what publish is to reach (0.85 of the bare driver)', ratios, '×', '>= 0.8'),
      result('drained', rates, 'listings/s'),
      result('writes per listing', writes, 'writes', '<= 1.001', `${bookings} listings, three changes each`),
    ];
  },
};
