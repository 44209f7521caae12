import type { Config } from '../config.ts';
import { SettingsError } from '../errors.ts';
import type { Logger } from '../log.ts';
import { migrate } from '../migrate.ts';
import { checkPostgres } from '../postgres.ts';
import { openPool } from './services.ts';

/** `market-sync migrate`: brings the database to this version of the program. */
export async function runMigrate(config: Config, log: Logger): Promise<void> {
  if (config.databaseUrl === undefined) {
    throw new SettingsError(
      'DATABASE_URL is not set: there is no database to migrate. (market-sync start migrates its embedded one.)',
    );
  }
  const pool = openPool(config, log, config.databaseUrl);
  try {
    await checkPostgres(pool, config.databaseUrl, { logical: true });
    const applied = await migrate({ pool, sourceSchema: config.sourceSchema, log });
    process.stdout.write(applied.length === 0 ? 'nothing to do\n' : `applied ${applied.join(', ')}\n`);
  } finally {
    await pool.end();
  }
}
