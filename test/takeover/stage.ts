import type pg from 'pg';
import { applyStorageGuardTables } from '../../src/embedded/storage-guard.ts';
import { createPool } from '../../src/postgres.ts';
import { startCluster } from '../support/cluster.ts';
import { createMarket, type TestMarket, testLog } from '../support/pipeline.ts';
import { createDatabase } from '../support/postgres.ts';

/** A PostgreSQL as the application has it, and a MongoDB: what is there before anybody takes anything over. */
export interface Stage {
  url: string;
  pool: pg.Pool;
  market: TestMarket;
  /** Settings of every `market-sync` on it. */
  settings: NodeJS.ProcessEnv;
  stop(): Promise<void>;
}

/** What a server of some use is set to. The rest is PostgreSQL's default: commits wait for the disk. */
const PARAMETERS = {
  shared_buffers: '1GB',
  min_wal_size: '4GB',
  max_wal_size: '8GB',
  checkpoint_timeout: '30min',
};

/** `durable`: in a cluster of its own, whose commits wait for the disk as they do in production. */
export async function createStage({ durable }: { durable: boolean }): Promise<Stage> {
  const source = durable ? await createDurable() : await createDatabase();
  const market = await createMarket();
  // Those that this program makes: an older system had others, or none.
  await market.market.listings.dropIndexes();
  return {
    url: source.url,
    pool: source.pool,
    market,
    settings: {
      DATABASE_URL: source.url,
      MONGODB_URL: market.url,
      MONGODB_DATABASE: market.database,
      SLOT_NAME: `slot_${source.name}`,
      LOG_LEVEL: 'warn',
    },
    stop: async () => {
      await market.drop();
      await source.drop();
    },
  };
}

async function createDurable(): Promise<{
  url: string;
  name: string;
  pool: pg.Pool;
  drop(): Promise<void>;
}> {
  const cluster = await startCluster({ fsync: true, parameters: PARAMETERS });
  const pool = createPool({
    url: cluster.url(),
    applicationName: 'test',
    sourceSchema: 'public',
    log: testLog(),
  });
  await applyStorageGuardTables({ pool, sourceSchema: 'public' });
  const drop = async (): Promise<void> => {
    await pool.end();
    await cluster.stop();
  };
  return { url: cluster.url(), name: 'takeover', pool, drop };
}
