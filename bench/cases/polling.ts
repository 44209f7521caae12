import { setTimeout as delay } from 'node:timers/promises';
import type pg from 'pg';
import { query } from '../../src/postgres.ts';
import { createRandom } from '../../test/support/random.ts';
import type { BenchCase, BenchContext } from '../bench-case.ts';
import { countPublished, type Live, openLive, settle } from '../live.ts';
import { POLLING_RULES, simulatePolling } from '../polling-simulation.ts';
import { toResult } from '../result.ts';
import { median, total } from '../statistics.ts';
import { idSql, SENSORS_PER_LOCATION } from '../world.ts';

const HOUR_MS = 3_600_000;
const BOOKINGS_PER_LOCATION = 25;

/** Each sensor reports every ten minutes, each booking is edited once a day: at moments of their own. */
const READING_EVERY_MS = 600_000;
const EDIT_EVERY_MS = 86_400_000;

/** The hour is played to the pipeline faster than it happened, twice and more: a thousand listings change a second. */
const CHANGES_PER_SECOND = 40;

/** Only its beginning is played. */
const PLAYED_MAX = 6_000;
const QUICK_PLAYED_MAX = 400;

type Change =
  | { kind: 'reading'; atMs: number; sensor: number; value: number }
  | { kind: 'edit'; atMs: number; booking: number };

/**
 * The same hour of changes under the polling system, simulated, and under this one, for real: how long a listing is
 * stale after a change of it, and how many writes that takes.
 */
export const polling: BenchCase = {
  name: 'polling',
  run: async (ctx) => {
    const locations = ctx.quick ? 400 : 2_000;
    const bookings = locations * BOOKINGS_PER_LOCATION;
    const changes = anHour({ locations, bookings, seed: ctx.seed });
    const polled = simulatePolling({
      listings: bookings,
      changes: changes.flatMap((change) =>
        listingsOf(change, { locations, bookings }).map((listing) => ({ atMs: change.atMs, listing })),
      ),
      untilMs: HOUR_MS,
      rules: POLLING_RULES,
    });
    const live = await openLive(ctx, {
      locations,
      bookings,
      readings: locations * SENSORS_PER_LOCATION * 10,
    });
    const played = changes.slice(0, ctx.quick ? QUICK_PLAYED_MAX : PLAYED_MAX);
    ctx.progress(`playing ${played.length} of the hour's ${changes.length} changes`);
    const ours = await play(ctx, live, played);
    const polledMs = total(polled.stalenessMs) / polled.stalenessMs.length;
    const told = (what: string, unit: string, value: number, note?: string) =>
      toResult({ name: 'polling', case: what, unit, samples: [value], note });
    return [
      toResult({
        name: 'polling',
        case: 'staleness, against ours',
        unit: '×',
        samples: [polledMs / ours.meanMs],
        reach: '>= 1000',
        note: `mean of ${(polledMs / 60_000).toFixed(1)} min against ${ours.meanMs.toFixed(1)} ms (p50 ${ours.p50Ms.toFixed(0)}, max ${ours.maxMs.toFixed(0)}); what the polling system has not shown counts to the end of the hour`,
      }),
      told('polling system: median staleness', 'min', median(polled.stalenessMs) / 60_000),
      told(
        'polling system: changed listings never reached',
        'listings',
        polled.neverReached,
        `of ${bookings.toLocaleString('en')}, in an hour of ${changes.length.toLocaleString('en')} changes`,
      ),
      told('polling system: writes', 'writes', polled.writes),
      told(
        'ours: writes',
        'writes',
        ours.writes,
        `for ${played.length.toLocaleString('en')} changes, ${ours.listings.toLocaleString('en')} changes of a listing`,
      ),
    ];
  },
};

/** Changes in order of time: Poisson arrivals, decided by the seed. */
function anHour({
  locations,
  bookings,
  seed,
}: {
  locations: number;
  bookings: number;
  seed: number;
}): Change[] {
  const random = createRandom(seed);
  const sensors = locations * SENSORS_PER_LOCATION;
  const [readingsPerMs, editsPerMs] = [sensors / READING_EVERY_MS, bookings / EDIT_EVERY_MS];
  const changes: Change[] = [];
  for (let atMs = 0; ; ) {
    atMs += -Math.log(1 - random.next()) / (readingsPerMs + editsPerMs);
    if (atMs >= HOUR_MS) return changes;
    if (random.chance(editsPerMs / (readingsPerMs + editsPerMs))) {
      changes.push({ kind: 'edit', atMs, booking: random.between(1, bookings) });
    } else {
      changes.push({
        kind: 'reading',
        atMs,
        sensor: random.between(1, sensors),
        value: random.between(0, 3_000) / 100,
      });
    }
  }
}

/** Listings that a change changes, as numbers from 0; as `fillWorld` places bookings. */
function listingsOf(
  change: Change,
  { locations, bookings }: { locations: number; bookings: number },
): number[] {
  if (change.kind === 'edit') return [change.booking % bookings];
  const location = Math.floor((change.sensor - 1) / SENSORS_PER_LOCATION);
  return Array.from({ length: bookings / locations }, (_, index) => index * locations + location);
}

interface Played {
  meanMs: number;
  p50Ms: number;
  maxMs: number;
  writes: number;
  /** Changes times the listings they are of. */
  listings: number;
}

/** Applies the changes as an application would, and reads from the pipeline's own account when MongoDB had each. */
async function play(ctx: BenchContext, live: Live, changes: readonly Change[]): Promise<Played> {
  const { pool, size } = live;
  const writesBefore = await countPublished(pool);
  const before = await readLatencies(pool);
  const startedAt = performance.now();
  const under: Promise<unknown>[] = [];
  const first = changes[0]?.atMs ?? 0;
  const perMs = changes.length / ((changes.at(-1)?.atMs ?? 0) - first);
  const faster = CHANGES_PER_SECOND / 1_000 / perMs;
  for (const [index, change] of changes.entries()) {
    const dueMs = (change.atMs - first) / faster;
    while (performance.now() - startedAt < dueMs) await delay(1);
    under.push(apply(pool, change));
    if (index % 5_000 === 4_999) ctx.progress(`${index + 1} changes`);
  }
  await Promise.all(under);
  await settle(live);
  const buckets = (await readLatencies(pool)).map((bucket, index) => ({
    ...bucket,
    count: bucket.count - (before[index]?.count ?? 0),
    sumMs: bucket.sumMs - (before[index]?.sumMs ?? 0),
  }));
  const counted = total(buckets.map(({ count }) => count));
  const upTo = (index: number): number => total(buckets.slice(0, index + 1).map(({ count }) => count));
  const p50Ms = buckets.find((_, index) => upTo(index) >= counted / 2)?.boundMs ?? Number.NaN;
  const maxMs = buckets.findLast(({ count }) => count > 0)?.boundMs ?? Number.NaN;
  return {
    meanMs: total(buckets.map(({ sumMs }) => sumMs)) / counted,
    p50Ms,
    maxMs,
    writes: (await countPublished(pool)) - writesBefore,
    listings: total(changes.map((change) => listingsOf(change, size).length)),
  };
}

function apply(pool: pg.Pool, change: Change): Promise<unknown> {
  if (change.kind === 'edit') {
    return query(
      pool,
      `update storage_bookings set quantity_kg = quantity_kg + 1 where id = ${idSql('booking', '$1::int')}`,
      [change.booking],
    );
  }
  return query(
    pool,
    `insert into sensor_readings (sensor_id, reading_value, reading_unit, reading_time)
     values (${idSql('sensor', '$1::int')}, $2, '°C', clock_timestamp())`,
    [change.sensor, change.value],
  );
}

interface LatencyBucket {
  boundMs: number;
  count: number;
  sumMs: number;
}

/** From commit to confirmed by MongoDB, of every listing written so far: all buckets, ascending. */
const readLatencies = (pool: pg.Pool): Promise<LatencyBucket[]> =>
  query<LatencyBucket & Record<string, unknown>>(
    pool,
    `select market_sync.latency_bound(b.bucket) as "boundMs", coalesce(sum(l.count), 0)::int as count,
       coalesce(sum(l.sum_ms), 0)::float8 as "sumMs"
     from generate_series(0, 90) b (bucket)
     left join market_sync.latency_histogram l on l.bucket = b.bucket and l.stage = 'listing'
     group by b.bucket order by b.bucket`,
  );
