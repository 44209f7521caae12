import { randomBytes } from 'node:crypto';
import { type EmbeddedMarket, startMarket } from '../../src/embedded/market/server.ts';
import { createLogger } from '../../src/log.ts';
import { connectMarket, ensureListingIndexes, type Market } from '../../src/mongo.ts';
import { createDatabase } from '../support/postgres.ts';

/** A server that the conformance suite runs against. */
export interface Target {
  name: string;
  start(): Promise<RunningTarget>;
}

export interface RunningTarget {
  url: string;
  stop(): Promise<void>;
}

/** The stand-in always, and the server that TEST_MONGODB_URL names, if it is set. */
export const TARGETS: Target[] = [{ name: 'stand-in', start: startStandIn }];

const url = process.env.TEST_MONGODB_URL;
if (url !== undefined && url !== '') {
  TARGETS.push({ name: 'TEST_MONGODB_URL', start: async () => ({ url, stop: async () => undefined }) });
}

export interface StandIn extends RunningTarget {
  databaseUrl: string;
  restart(): Promise<void>;
}

/** The stand-in over a PostgreSQL database of its own. */
export async function startStandIn(): Promise<StandIn> {
  const database = await createDatabase({ template: 'empty' });
  const start = (port: number) =>
    startMarket({ databaseUrl: database.url, host: '127.0.0.1', port, log: createLogger('error') });
  let market: EmbeddedMarket = await start(0);
  const port = Number(new URL(market.url).port);
  return {
    url: market.url,
    databaseUrl: database.url,
    async restart() {
      await market.stop();
      market = await start(port);
    },
    async stop() {
      await market.stop();
      await database.drop();
    },
  };
}

/** A connection to a MongoDB database of its own, with its indexes; `close` drops the database. */
export async function openMarket(target: RunningTarget): Promise<Market & { database: string }> {
  const TIMEOUT_MS = 20_000;
  const database = `market_sync_test_${randomBytes(6).toString('hex')}`;
  const market = await connectMarket({ url: target.url, database, timeoutMs: TIMEOUT_MS });
  await ensureListingIndexes(market);
  return {
    ...market,
    database,
    close: async () => {
      await market.client.db(database).dropDatabase();
      await market.close();
    },
  };
}
