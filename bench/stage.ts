import { spawn } from 'node:child_process';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import pg from 'pg';
import { applyStorageGuardTables } from '../src/embedded/storage-guard.ts';
import { createLogger, type Logger } from '../src/log.ts';
import { migrate } from '../src/migrate.ts';
import { connectMarket, ensureListingIndexes, type Market } from '../src/mongo.ts';
import { createPool } from '../src/postgres.ts';
import { startCluster, type TestCluster } from '../test/support/cluster.ts';
import { fillWorld, type WorldSize } from './world.ts';

/** What is started is stopped in the opposite order, whatever happens. */
export class Scope {
  readonly #stops: (() => Promise<unknown>)[] = [];

  add<Resource>(resource: Resource, stop: (resource: Resource) => Promise<unknown>): Resource {
    this.#stops.push(() => stop(resource));
    return resource;
  }

  async end(): Promise<void> {
    for (const stop of this.#stops.splice(0).reverse()) {
      await stop().catch((error: unknown) =>
        process.stderr.write(`bench: does not stop: ${String(error)}\n`),
      );
    }
  }
}

/** What a server of some use is set to; the rest is PostgreSQL's default, `fsync` and `synchronous_commit` on included. */
const PARAMETERS = {
  shared_buffers: '1GB',
  // Written segments are used again, as on a server that has run for a while: zeroing new ones would be a tenth of a recompute.
  min_wal_size: '4GB',
  max_wal_size: '8GB',
  checkpoint_timeout: '30min',
  work_mem: '16MB',
  maintenance_work_mem: '256MB',
  autovacuum_naptime: '10s',
};

export const log: Logger = createLogger((process.env.BENCH_LOG ?? 'silent') as 'silent');

/** A PostgreSQL of its own, with disk writes as in production. */
export async function openCluster(
  scope: Scope,
  parameters: Record<string, string> = {},
): Promise<TestCluster> {
  return scope.add(
    await startCluster({ fsync: true, parameters: { ...PARAMETERS, ...parameters } }),
    (cluster) => cluster.stop(),
  );
}

export function openBenchPool(
  scope: Scope,
  url: string,
  options: { connectionsMax?: number; applicationName?: string } = {},
): pg.Pool {
  return scope.add(
    createPool({
      url,
      applicationName: options.applicationName ?? 'bench',
      sourceSchema: 'public',
      log,
      statementTimeoutMs: 600_000,
      ...(options.connectionsMax === undefined ? {} : { connectionsMax: options.connectionsMax }),
    }),
    (pool) => pool.end(),
  );
}

/** A database with Storage Guard's tables, filled, and with everything this project adds where `migrated`. */
export async function makeDatabase(
  scope: Scope,
  cluster: TestCluster,
  options: { name: string; size?: WorldSize; seed: number; migrated: boolean },
): Promise<{ url: string; pool: pg.Pool }> {
  const admin = new pg.Client({ connectionString: cluster.url() });
  await admin.connect();
  await admin.query(`create database ${pg.escapeIdentifier(options.name)}`);
  await admin.end();
  const url = cluster.url(options.name);
  const pool = openBenchPool(scope, url);
  await applyStorageGuardTables({ pool, sourceSchema: 'public' });
  if (options.size !== undefined) await fillWorld(pool, options.size, options.seed);
  if (options.migrated) await migrate({ pool, sourceSchema: 'public', log });
  return { url, pool };
}

/** Where the listings of a run go: the MongoDB of `MONGODB_URL`, or the stand-in in a process of its own. */
export interface BenchMarket {
  name: string;
  url: string;
  /** A fresh database in it, with the listings' indexes. */
  open(database: string): Promise<Market>;
}

export async function openMarket(scope: Scope): Promise<BenchMarket> {
  const shared = process.env.MONGODB_URL;
  const url = shared ?? (await startStandIn(scope));
  const open = async (database: string): Promise<Market> => {
    const market = await connectMarket({ url, database, timeoutMs: 30_000, appName: 'bench' });
    scope.add(market, async () => {
      if (shared !== undefined) await market.client.db(database).dropDatabase();
      await market.close();
    });
    await ensureListingIndexes(market);
    return market;
  };
  const probe = await connectMarket({ url, database: 'bench_probe', timeoutMs: 30_000 });
  const { version, standIn, atomicUpdates } = probe.server;
  await probe.close();
  const name = standIn ? 'the stand-in' : atomicUpdates ? `MongoDB ${version}` : `FerretDB (${version})`;
  return { name, url, open };
}

async function startStandIn(scope: Scope): Promise<string> {
  const cluster = await openCluster(scope);
  return startChild(scope, 'market-server.ts', { BENCH_DATABASE_URL: cluster.url() });
}

/** Starts a file of this folder as a process, and answers the first line that it prints. */
async function startChild(scope: Scope, file: string, environment: NodeJS.ProcessEnv): Promise<string> {
  const child = spawn(process.execPath, [join(import.meta.dirname, file)], {
    env: { ...process.env, ...environment },
    stdio: ['ignore', 'pipe', 'inherit'],
  });
  const ended = new Promise<void>((resolve) => child.once('close', () => resolve()));
  scope.add(child, async () => {
    child.kill('SIGTERM');
    await ended;
  });
  for await (const line of createInterface({ input: child.stdout })) return line;
  throw new Error(`${file} ended without a word`);
}
