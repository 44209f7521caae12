import { randomBytes } from 'node:crypto';
import { setTimeout as delay } from 'node:timers/promises';
import { type Pipeline, startPipeline } from '../../pipeline/pipeline.ts';
import { refreshDue } from '../../pipeline/schedules.ts';
import { type Config, loadConfig } from '../../src/config.ts';
import { type EmbeddedMarket, startMarket } from '../../src/embedded/market/server.ts';
import { createLogger, type Logger } from '../../src/log.ts';
import { connectMarket, ensureListingIndexes, type Market } from '../../src/mongo.ts';
import { createPool, query } from '../../src/postgres.ts';
import { createDatabase, type TestDatabase } from './postgres.ts';

/** Milliseconds a condition may take to come true before the test fails. */
const DEADLINE_MS = 30_000;

/** Waits until `condition` holds. Throws with `what` when it does not within the deadline. */
export async function until(
  what: string,
  condition: () => Promise<boolean> | boolean,
  deadlineMs = DEADLINE_MS,
): Promise<void> {
  const deadline = performance.now() + deadlineMs;
  while (!(await condition())) {
    if (performance.now() > deadline) throw new Error(`not within ${deadlineMs} ms: ${what}`);
    await delay(2);
  }
}

/** A log that tests can look at: TEST_LOG=debug shows it. */
export const testLog = (): Logger => createLogger((process.env.TEST_LOG ?? 'silent') as 'silent');

/** A MongoDB for one test: the server of TEST_MONGODB_URL when set, the embedded stand-in otherwise. */
export interface TestMarket {
  url: string;
  database: string;
  market: Market;
  drop(): Promise<void>;
}

export async function createMarket(): Promise<TestMarket> {
  const database = `test_${randomBytes(6).toString('hex')}`;
  const shared = process.env.TEST_MONGODB_URL;
  let standIn: { server: EmbeddedMarket; database: TestDatabase } | undefined;
  if (shared === undefined) {
    const documents = await createDatabase({ template: 'empty' });
    const server = await startMarket({
      databaseUrl: documents.url,
      host: '127.0.0.1',
      port: 0,
      log: testLog(),
    });
    standIn = { server, database: documents };
  }
  const url = shared ?? standIn?.server.url ?? '';
  const market = await connectMarket({ url, database, timeoutMs: 10_000 });
  await ensureListingIndexes(market);
  return {
    url,
    database,
    market,
    drop: async () => {
      await market.client.db(database).dropDatabase();
      await market.close();
      await standIn?.server.stop();
      await standIn?.database.drop();
    },
  };
}

/** Settings for one test database: a slot of its own, and quick leases. */
export function testConfig(
  database: { url: string; name: string },
  overrides: NodeJS.ProcessEnv = {},
): Config {
  return loadConfig({
    DATABASE_URL: database.url,
    SLOT_NAME: `slot_${database.name}`,
    CONSUMER_LEASE_SECONDS: '4',
    // Thousands of settled states would each wait for its end.
    PUBLISH_INTERVAL_MS: '0',
    ...overrides,
  });
}

/** A clock that tests move; undefined leaves it to PostgreSQL. */
export interface TestClock {
  now(): Date;
  advance(ms: number): void;
}

export function createClock(start: Date): TestClock {
  let nowMs = start.getTime();
  return {
    now: () => new Date(nowMs),
    advance: (ms) => {
      nowMs += ms;
    },
  };
}

/** Everything of one pipeline under test: database, market, the running pipeline, and how to wait for it. */
export interface TestPipeline {
  database: TestDatabase;
  market: TestMarket;
  config: Config;
  pipeline: Pipeline;
  settle(): Promise<void>;
  stop(): Promise<void>;
}

export async function startTestPipeline(
  options: {
    clock?: TestClock;
    settings?: NodeJS.ProcessEnv;
    onBatch?: Parameters<typeof startPipeline>[0]['onBatch'];
  } = {},
): Promise<TestPipeline> {
  const [database, market] = [await createDatabase({ template: 'migrated' }), await createMarket()];
  const config = testConfig(database, options.settings);
  const log = testLog();
  const pool = createPool({ url: database.url, applicationName: 'pipeline', sourceSchema: 'public', log });
  const clock = options.clock;
  const pipeline = await startPipeline({
    config,
    databaseUrl: database.url,
    pool,
    market: market.market,
    log,
    ...(clock === undefined ? {} : { clock: () => clock.now() }),
    ...(options.onBatch === undefined ? {} : { onBatch: options.onBatch }),
  });
  await until('the consumer is active', () => pipeline.consumer.state === 'active');
  return {
    database,
    market,
    config,
    pipeline,
    settle: () => settle(database, { clock, failed: pipeline.failed }),
    stop: async () => {
      await pipeline.stop();
      await pool.end();
      await market.drop();
      await database.drop();
    },
  };
}

/**
 * Resolves when everything committed so far is in the snapshots and in MongoDB, and what the clock has made due is
 * refreshed. Two marks go through the stream; once the checkpoint has passed the second, every change before the first
 * is covered.
 */
export async function settle(
  { pool }: Pick<TestDatabase, 'pool'>,
  {
    clock,
    failed,
    deadlineMs = DEADLINE_MS,
  }: { clock?: TestClock | undefined; failed?: Promise<never>; deadlineMs?: number } = {},
): Promise<void> {
  const work = async (): Promise<void> => {
    await mark(pool);
    const lsn = await mark(pool);
    const passed = async (): Promise<boolean> => {
      const rows = await query<{ passed: boolean }>(
        pool,
        'select commit_lsn >= $1::pg_lsn and not exists (select from market_sync.resync where finished_at is null) as passed from market_sync.checkpoint',
        [lsn],
      );
      return rows[0]?.passed === true;
    };
    await until('the checkpoint passes the mark', passed, deadlineMs);
    if (clock !== undefined) {
      await refreshDue({ pool, clock: () => clock.now() }, new AbortController().signal);
    }
    const published = async (): Promise<boolean> => {
      const rows = await query<{ left: boolean }>(
        pool,
        `select exists (select from market_sync.snapshot_state
           where (epoch, revision) > (published_epoch, published_revision) and parked_at is null) as left`,
      );
      return rows[0]?.left === false;
    };
    await until('everything is published', published, deadlineMs);
  };
  await (failed === undefined ? work() : Promise.race([work(), failed]));
}

/** A booking that does not exist becomes dirty: work that changes nothing. */
async function mark(pool: TestDatabase['pool']): Promise<string> {
  const rows = await query<{ lsn: string }>(
    pool,
    `select pg_logical_emit_message(true, 'market_sync', '{"v":1,"booking":["00000000-0000-0000-0000-000000000000"]}')::text as lsn`,
  );
  return rows[0]?.lsn ?? '0/0';
}
