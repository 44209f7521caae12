import { join } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import type pg from 'pg';
import { type EmbeddedMarket, startMarket } from '../../src/embedded/market/server.ts';
import { applyStorageGuardTables } from '../../src/embedded/storage-guard.ts';
import { createLogger } from '../../src/log.ts';
import { connectMarket, type Market } from '../../src/mongo.ts';
import { createPool } from '../../src/postgres.ts';
import { startCluster, type TestCluster } from '../support/cluster.ts';
import { type FaultProxy, startProxy } from '../support/proxy.ts';
import { startService } from '../support/service.ts';
import type { Observations } from './observations.ts';
import { type Supervised, supervise } from './supervisor.ts';

/** A process of market-sync and its own two ways to the servers. */
export interface Actor {
  service: Supervised;
  database: FaultProxy;
  market: FaultProxy;
}

/** The servers, the processes under test, and the ways between them. Everything else talks to the servers directly. */
export interface Stage {
  cluster: TestCluster;
  pool: pg.Pool;
  slotName: string;
  pipelines: [Actor, Actor];
  api: Actor;
  market: Market;
  restartMarket(): Promise<void>;
  stop(): Promise<void>;
}

const SLOT_NAME = 'chaos';

const STOP_MS_MAX = 15_000;

/** Short leases: takeovers are what is tested, and a run has many. */
const SETTINGS: NodeJS.ProcessEnv = {
  SLOT_NAME,
  CONSUMER_LEASE_SECONDS: '4',
  PUBLISH_LEASE_SECONDS: '5',
  MONGODB_TIMEOUT_MS: '2000',
  LOG_LEVEL: 'info',
};

/** `root`: the tree that the processes run from, which need not be this one. */
export async function setStage({
  root,
  observations,
}: {
  root: string;
  observations: Observations;
}): Promise<Stage> {
  const stops: (() => Promise<unknown>)[] = [];
  const stop = async (): Promise<void> => {
    for (const each of stops.splice(0).reverse()) {
      const late = delay(STOP_MS_MAX, 'late', { ref: false });
      // What does not stop goes with this process; what it was is worth knowing.
      if ((await Promise.race([each(), late])) === 'late') observations.note(`does not stop: ${each}`);
    }
  };
  try {
    const cluster = await startCluster({ fsync: false });
    stops.push(() => cluster.stop());
    const log = createLogger('silent');
    const pool = createPool({
      url: cluster.url(),
      applicationName: 'application',
      sourceSchema: 'public',
      log,
      connectionsMax: 40,
    });
    stops.push(() => pool.end());
    await applyStorageGuardTables({ pool, sourceSchema: 'public' });
    const migrated = await startService('migrate', { DATABASE_URL: cluster.url() }, { root }).exited;
    if (migrated.code !== 0) throw new Error(`migrate ended with ${migrated.code}`);

    const market = await openMarket(stops);
    const actor = async (name: string, command: 'pipeline' | 'api'): Promise<Actor> => {
      const [database, marketProxy] = [await startProxy(cluster.url()), await startProxy(market.url())];
      const service = supervise({
        name,
        observations,
        start: () =>
          startService(
            command,
            { ...SETTINGS, DATABASE_URL: database.url, MONGODB_URL: marketProxy.url, PORT: '0' },
            { root },
          ),
      });
      stops.push(async () => {
        await service.stop();
        await Promise.all([database.stop(), marketProxy.stop()]);
      });
      return { service, database, market: marketProxy };
    };
    return {
      cluster,
      pool,
      slotName: SLOT_NAME,
      pipelines: [await actor('pipeline 1', 'pipeline'), await actor('pipeline 2', 'pipeline')],
      api: await actor('api', 'api'),
      market: market.client,
      restartMarket: market.restart,
      stop,
    };
  } catch (error) {
    await stop();
    throw error;
  }
}

/** The stand-in keeps its documents in a cluster of its own, which nobody kills: what it has confirmed it has. */
async function openMarket(
  stops: (() => Promise<unknown>)[],
): Promise<{ url: () => string; client: Market; restart(): Promise<void> }> {
  const cluster = await startCluster({ fsync: false, parameters: { synchronous_commit: 'off' } });
  stops.push(() => cluster.stop());
  const open = (port: number): Promise<EmbeddedMarket> =>
    startMarket({ databaseUrl: cluster.url(), host: '127.0.0.1', port, log: createLogger('silent') });
  let server = await open(0);
  stops.push(() => server.stop());
  const url = (): string => server.url;
  const client = await connectMarket({
    url: url(),
    database: 'market_connect',
    timeoutMs: 10_000,
    appName: 'watcher',
  });
  stops.push(() => client.close());
  return {
    url,
    client,
    restart: async () => {
      const { port } = new URL(server.url);
      await server.stop();
      server = await open(Number(port));
    },
  };
}

/** This checkout. */
export const ROOT = join(import.meta.dirname, '..', '..');
