import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import type pg from 'pg';
import { z } from 'zod';
import type { Config } from '../config.ts';
import { EnvironmentError } from '../errors.ts';
import type { Logger } from '../log.ts';
import { requireMigrated } from '../migrate.ts';
import { connectMarket, type Market } from '../mongo.ts';
import { checkPostgres } from '../postgres.ts';
import { openPool } from './services.ts';

const runFileSchema = z.object({
  database_url: z.string(),
  mongodb_url: z.string().optional(),
  mongodb_database: z.string().optional(),
});

export type RunningServers = z.infer<typeof runFileSchema>;

/** Works on the database of DATABASE_URL, or else on that of a `start` that runs in DATA_DIR. */
export async function withRunningDatabase<Result>(
  config: Config,
  log: Logger,
  work: (pool: pg.Pool) => Promise<Result>,
): Promise<Result> {
  const databaseUrl = config.databaseUrl ?? (await requireRunning(config.dataDir)).database_url;
  const pool = openPool(config, log, databaseUrl);
  try {
    await checkPostgres(pool, databaseUrl, { logical: false });
    await requireMigrated(pool);
    return await work(pool);
  } finally {
    await pool.end();
  }
}

/** As `withRunningDatabase`, with the MongoDB of MONGODB_URL, or else that of the same `start`. */
export async function withRunningServers<Result>(
  config: Config,
  log: Logger,
  work: (servers: { pool: pg.Pool; market: Market }) => Promise<Result>,
): Promise<Result> {
  return withRunningDatabase(config, log, async (pool) => {
    const market = await connectMarket({
      ...(await findMarket(config)),
      timeoutMs: config.mongodbTimeoutMs,
      appName: 'market-sync',
    });
    try {
      return await work({ pool, market });
    } finally {
      await market.close();
    }
  });
}

async function findMarket(config: Config): Promise<{ url: string; database: string }> {
  if (config.mongodbUrl !== undefined) return { url: config.mongodbUrl, database: config.mongodbDatabase };
  const running = await requireRunning(config.dataDir);
  if (running.mongodb_url === undefined) throw nobodyRuns(config.dataDir);
  return { url: running.mongodb_url, database: running.mongodb_database ?? config.mongodbDatabase };
}

async function requireRunning(dataDir: string): Promise<RunningServers> {
  const running = await readRunFile(dataDir);
  if (running === undefined) throw nobodyRuns(dataDir);
  return running;
}

const nobodyRuns = (dataDir: string): EnvironmentError =>
  new EnvironmentError(
    `DATABASE_URL is not set, and ${join(dataDir, 'run.json')} does not tell of a running market-sync. Start it, or set DATABASE_URL.`,
  );

/** The servers of a `start` that runs in DATA_DIR; undefined when its file is not there or cannot be read. */
export async function readRunFile(dataDir: string): Promise<RunningServers | undefined> {
  try {
    return runFileSchema.parse(JSON.parse(await readFile(join(dataDir, 'run.json'), 'utf8')));
  } catch {
    return undefined;
  }
}
