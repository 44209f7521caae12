import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import type pg from 'pg';
import { z } from 'zod';
import type { Config } from '../config.ts';
import { EnvironmentError } from '../errors.ts';
import type { Logger } from '../log.ts';
import { requireMigrated } from '../migrate.ts';
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
  const databaseUrl = config.databaseUrl ?? (await findRunningDatabase(config.dataDir));
  const pool = openPool(config, log, databaseUrl);
  try {
    await checkPostgres(pool, databaseUrl, { logical: false });
    await requireMigrated(pool);
    return await work(pool);
  } finally {
    await pool.end();
  }
}

async function findRunningDatabase(dataDir: string): Promise<string> {
  const running = await readRunFile(dataDir);
  if (running !== undefined) return running.database_url;
  throw new EnvironmentError(
    `DATABASE_URL is not set, and ${join(dataDir, 'run.json')} does not tell of a running market-sync. Start it, or set DATABASE_URL.`,
  );
}

/** The servers of a `start` that runs in DATA_DIR; undefined when its file is not there or cannot be read. */
export async function readRunFile(dataDir: string): Promise<RunningServers | undefined> {
  try {
    return runFileSchema.parse(JSON.parse(await readFile(join(dataDir, 'run.json'), 'utf8')));
  } catch {
    return undefined;
  }
}
