import type pg from 'pg';
import type { Config } from '../config.ts';
import { SettingsError } from '../errors.ts';
import type { Logger } from '../log.ts';
import { connectMarket, ensureListingIndexes, type Market } from '../mongo.ts';
import { checkPostgres, createPool } from '../postgres.ts';

/** The two servers that everything works between. */
export interface Services {
  databaseUrl: string;
  pool: pg.Pool;
  market: Market;
  close(): Promise<void>;
}

/** Connections a process holds to PostgreSQL at most, beside those of the slot and the queue. */
const CONNECTIONS_MAX = 10;

/**
 * Connects to both servers and checks that they are what is needed. Nothing is changed but the listings' indexes, which
 * every publisher relies on: without the unique one, racing first writes make several listings of one booking.
 */
export async function openServices(
  config: Config,
  log: Logger,
  urls: { databaseUrl: string; mongodbUrl: string; logical: boolean },
): Promise<Services> {
  const pool = openPool(config, log, urls.databaseUrl);
  try {
    await checkPostgres(pool, urls.databaseUrl, { logical: urls.logical });
    const market = await connectMarket({
      url: urls.mongodbUrl,
      database: config.mongodbDatabase,
      timeoutMs: config.mongodbTimeoutMs,
      appName: 'market-sync',
    });
    await ensureListingIndexes(market);
    return {
      databaseUrl: urls.databaseUrl,
      pool,
      market,
      close: async () => {
        await market.close();
        await pool.end();
      },
    };
  } catch (error) {
    await pool.end();
    throw error;
  }
}

export function openPool(config: Config, log: Logger, databaseUrl: string): pg.Pool {
  return createPool({
    url: databaseUrl,
    applicationName: 'market-sync',
    sourceSchema: config.sourceSchema,
    log,
    connectionsMax: CONNECTIONS_MAX,
  });
}

/** The URLs of shared servers, which every command but `start` needs. */
export function requireServers(config: Config): { databaseUrl: string; mongodbUrl: string } {
  const { databaseUrl, mongodbUrl } = config;
  if (databaseUrl === undefined || mongodbUrl === undefined) {
    const missing = databaseUrl === undefined ? 'DATABASE_URL' : 'MONGODB_URL';
    throw new SettingsError(
      `${missing} is not set: parts that run as separate processes share their servers. ` +
        'Set DATABASE_URL and MONGODB_URL, or run everything in one process: market-sync start',
    );
  }
  return { databaseUrl, mongodbUrl };
}
