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

const runFileSchema = z.object({ database_url: z.string() });

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
  const file = join(dataDir, 'run.json');
  try {
    return runFileSchema.parse(JSON.parse(await readFile(file, 'utf8'))).database_url;
  } catch (cause) {
    throw new EnvironmentError(
      `DATABASE_URL is not set, and ${file} does not tell of a running market-sync. Start it, or set DATABASE_URL.`,
      { cause },
    );
  }
}
