import { readFile } from 'node:fs/promises';
import { setTimeout as delay } from 'node:timers/promises';
import type pg from 'pg';
import type { Market } from '../src/mongo.ts';
import { query } from '../src/postgres.ts';
import type { TestCluster } from '../test/support/cluster.ts';
import { type Service, startService } from '../test/support/service.ts';
import type { BenchContext } from './bench-case.ts';
import { makeDatabase, openBenchPool, openCluster } from './stage.ts';
import { idSql, SENSORS_PER_LOCATION, type WorldSize } from './world.ts';

/** A market of some size with `market-sync pipeline` in a process of its own, everything published. */
export interface Live {
  cluster: TestCluster;
  /** The application's connections. */
  pool: pg.Pool;
  market: Market;
  /** Where the pipeline reaches it. */
  marketUrl: string;
  pipeline: Service;
  size: WorldSize;
}

const SETTLE_MAX_MS = 600_000;

/** @param routeToMarket answers where the pipeline, and nobody else, is to reach the market at this address */
export async function openLive(
  ctx: BenchContext,
  size: WorldSize,
  routeToMarket: (url: string) => Promise<string> = async (url) => url,
): Promise<Live> {
  const { scope } = ctx;
  const benchMarket = await ctx.market();
  // So that the instant of a commit is PostgreSQL's own word.
  const cluster = await openCluster(scope, { track_commit_timestamp: 'on' });
  ctx.progress(`filling ${size.bookings} bookings, ${size.readings} readings`);
  const { url } = await makeDatabase(scope, cluster, { name: 'world', size, seed: ctx.seed, migrated: true });
  const pool = openBenchPool(scope, url, { connectionsMax: 24, applicationName: 'application' });
  const name = `bench_${process.pid}_${Math.floor(performance.now())}`;
  const market = await benchMarket.open(name);
  const marketUrl = await routeToMarket(benchMarket.url);
  ctx.progress('publishing all of it');
  const pipeline = scope.add(
    startService('pipeline', {
      DATABASE_URL: url,
      MONGODB_URL: marketUrl,
      MONGODB_DATABASE: name,
      LOG_LEVEL: 'warn',
      // Nothing of its own accord while it is measured.
      PUBLISH_SWEEP_CRON: '0 0 1 1 *',
      REFRESH_CRON: '0 0 1 1 *',
    }),
    (service) => service.end('SIGTERM'),
  );
  await pipeline.printed(/pipeline running/);
  const live: Live = { cluster, pool, market, marketUrl, pipeline, size };
  await until('the first recompute of everything', async () => {
    const [row] = await query<{ done: boolean }>(
      pool,
      'select exists (select from market_sync.resync where finished_at is not null) as done',
    );
    return row?.done === true;
  });
  await settle(live);
  await query(pool, 'vacuum analyze');
  await query(pool, 'checkpoint');
  return live;
}

export async function until(what: string, condition: () => Promise<boolean>, pollMs = 50): Promise<void> {
  const deadline = performance.now() + SETTLE_MAX_MS;
  while (!(await condition())) {
    if (performance.now() > deadline) throw new Error(`not within ${SETTLE_MAX_MS / 1000} s: ${what}`);
    await delay(pollMs);
  }
}

/** Resolves when everything committed so far is published. */
export async function settle(live: Live, pollMs = 20): Promise<void> {
  await untilReconciled(live, pollMs);
  await untilPublished(live.pool, pollMs);
}

/** Resolves when everything committed so far is in the snapshots. */
export async function untilReconciled({ pool }: Live, pollMs = 20): Promise<void> {
  const mark = `select pg_logical_emit_message(true, 'market_sync', '{"v":1,"booking":["00000000-0000-0000-0000-000000000000"]}')::text as lsn`;
  await query(pool, mark);
  const [row] = await query<{ lsn: string }>(pool, mark);
  await until(
    'the checkpoint passes the mark',
    async () =>
      (
        await query<{ passed: boolean }>(
          pool,
          'select commit_lsn >= $1::pg_lsn as passed from market_sync.checkpoint',
          [row?.lsn],
        )
      )[0]?.passed === true,
    pollMs,
  );
}

export const untilPublished = (pool: pg.Pool, pollMs = 20): Promise<void> =>
  until(
    'everything is published',
    async () =>
      (
        await query<{ left: boolean }>(
          pool,
          `select exists (select from market_sync.snapshot_state
             where (epoch, revision) > (published_epoch, published_revision) and parked_at is null) as left`,
        )
      )[0]?.left === false,
    pollMs,
  );

/** One reading of a location's first sensor (its temperature): changes every listing of the location. */
export const INSERT_READING = `insert into sensor_readings (sensor_id, reading_value, reading_unit, reading_time)
  select ${idSql('sensor', `($1::int - 1) * ${SENSORS_PER_LOCATION} + 1`)}, $2, '°C', clock_timestamp()
  returning reading_time::text, pg_current_xact_id()::text as xid`;

/** What a process holds in memory, in bytes. */
export async function residentBytes(pid: number): Promise<number> {
  const status = await readFile(`/proc/${pid}/status`, 'utf8');
  return Number(/^VmRSS:\s+(\d+) kB$/m.exec(status)?.[1]) * 1024;
}

/** Listings that MongoDB has confirmed so far, every write counted. */
export async function countPublished(pool: pg.Pool): Promise<number> {
  const rows = await query<{ items: number }>(
    pool,
    `select coalesce(sum(items), 0) as items from market_sync.activity where kind = 'publish'`,
  );
  return rows[0]?.items ?? 0;
}
