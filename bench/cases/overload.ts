import { setTimeout as delay } from 'node:timers/promises';
import { query } from '../../src/postgres.ts';
import type { BenchCase } from '../bench-case.ts';
import { type Live, openLive, residentBytes, settle } from '../live.ts';
import { toResult } from '../result.ts';
import { median, percentile } from '../statistics.ts';
import { allLocations, atRate, watchChanges } from '../watch.ts';
import { SENSORS_PER_LOCATION } from '../world.ts';

const OVER = 10;
const IDLE_P99_MAX_MS = 25;

/** Statements at ten times the rate that the pipeline can follow one by one: they merge, and nothing is lost. */
export const overload: BenchCase = {
  name: 'overload',
  run: async (ctx) => {
    const locations = 400;
    const live = await openLive(ctx, { locations, bookings: locations * 25, readings: locations * 50 });
    const capacity = await measureCapacity(live);
    const seconds = ctx.quick ? 5 : 30;
    const perSecond = Math.round(OVER * capacity);
    ctx.progress(`it can take ${Math.round(capacity)} statements/s; ${perSecond} for ${seconds} s`);
    const order = allLocations(live, ctx.seed);
    const [lags, memory]: [number[], number[]] = [[], []];
    let loading = true;
    const sample = async (): Promise<void> => {
      while (loading) {
        await delay(250);
        memory.push(await residentBytes(live.pipeline.pid));
        lags.push(await oldestUnseenMs(live));
      }
    };
    const sampling = sample();
    // In statements of their own within few round trips, as so many applications would send them.
    const GROUP = 50;
    await atRate({ perSecond: perSecond / GROUP, seconds }, (number) =>
      query(
        live.pool,
        Array.from({ length: GROUP }, (_, index) => {
          const location = order[(number * GROUP + index) % order.length] ?? 1;
          return `insert into sensor_readings (sensor_id, reading_value, reading_unit, reading_time)
            values (md5('sensor ${(location - 1) * SENSORS_PER_LOCATION + 2}')::uuid, ${number % 97}, '%', clock_timestamp()); commit;`;
        }).join(' '),
      ),
    );
    const endedAt = performance.now();
    loading = false;
    await sampling;
    const recoveredMs = await untilIdle(live, ctx.seed, endedAt);
    await settle(live);
    const lost = await countBehind(live);
    const early = median(memory.slice(0, Math.ceil(memory.length / 3)));
    const late = median(memory.slice(-Math.ceil(memory.length / 3)));
    const name = 'overload';
    return [
      toResult({
        name,
        case: 'longest lag',
        unit: 's',
        samples: [Math.max(...lags) / 1000],
        reach: '<= 5',
        note: `${perSecond} statements/s against ${Math.round(capacity)}`,
      }),
      toResult({
        name,
        case: 'listings that differ afterwards',
        unit: 'listings',
        samples: [lost],
        reach: '<= 0',
      }),
      toResult({
        name,
        case: 'memory, last third against first',
        unit: '×',
        samples: [late / early],
        reach: '<= 1.2',
      }),
      toResult({
        name,
        case: 'back to idle latency',
        unit: 's',
        samples: [recoveredMs / 1000],
        reach: '<= 5',
      }),
    ];
  },
};

/** Statements a second, each of 25 listings, when every location is dirty once. */
async function measureCapacity(live: Live): Promise<number> {
  const rates: number[] = [];
  for (let round = 0; round < 3; round += 1) {
    const startedAt = performance.now();
    await query(
      live.pool,
      `insert into sensor_readings (sensor_id, reading_value, reading_unit, reading_time)
       select id, random() * 30, '°C', clock_timestamp() from iot_sensors where sensor_type = 'temperature'`,
    );
    await settle(live);
    rates.push(live.size.locations / ((performance.now() - startedAt) / 1000));
    await delay(300);
  }
  return median(rates);
}

/** How long ago the oldest change was committed that its listing does not show, in ms; by PostgreSQL's clock. */
async function oldestUnseenMs({ pool }: Live): Promise<number> {
  const rows = await query<{ ms: number | null }>(
    pool,
    `select extract(epoch from clock_timestamp() - least(
         (select working_since from market_sync.checkpoint),
         (select min(changed_at) from market_sync.snapshot_state
          where (epoch, revision) > (published_epoch, published_revision) and parked_at is null)))::float8 * 1000 as ms`,
  );
  return Math.max(0, rows[0]?.ms ?? 0);
}

/** Milliseconds from `endedAt` until single changes are as quick as when nothing else happens. */
async function untilIdle(live: Live, seed: number, endedAt: number): Promise<number> {
  for (let round = 0; round < 30; round += 1) {
    const from = performance.now();
    const latencies = await watchChanges(live, {
      perSecond: 20,
      seconds: 1,
      watchers: 1,
      seed: seed + round,
    });
    if (percentile(latencies, 90) <= IDLE_P99_MAX_MS) return from - endedAt;
  }
  return performance.now() - endedAt;
}

/** Listings whose humidity is not the last reading there is. */
async function countBehind(live: Live): Promise<number> {
  const rows = await query<{ booking_id: string; value: number }>(
    live.pool,
    `select b.id as booking_id, latest.reading_value as value
     from storage_bookings b join iot_sensors s on s.location_id = b.location_id and s.sensor_type = 'humidity'
     cross join lateral (select reading_value from sensor_readings r where r.sensor_id = s.id
       order by reading_time desc, id desc limit 1) latest`,
  );
  const expected = new Map(rows.map(({ booking_id, value }) => [booking_id, value]));
  let behind = 0;
  for await (const listing of live.market.listings.find({}, { projection: { booking_id: 1, sensors: 1 } })) {
    const value = (listing.sensors as { humidity?: { value?: unknown } }).humidity?.value;
    if (value !== expected.get(listing.booking_id)) behind += 1;
    expected.delete(listing.booking_id);
  }
  return behind + expected.size;
}
