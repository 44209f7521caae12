import type { Config } from '../config.ts';
import { SettingsError } from '../errors.ts';
import type { Logger } from '../log.ts';
import { migrate, planMigration } from '../migrate.ts';
import { checkPostgres } from '../postgres.ts';
import { renderPlan } from '../step.ts';
import { openPool } from './services.ts';

/**
 * `market-sync migrate`: brings the database to this version of the program. With `plan` it prints the SQL instead, and changes
 * nothing.
 */
export async function runMigrate(config: Config, log: Logger, { plan }: { plan: boolean }): Promise<void> {
  if (config.databaseUrl === undefined) {
    throw new SettingsError(
      'DATABASE_URL is not set: there is no database to migrate. (market-sync start migrates its embedded one.)',
    );
  }
  const pool = openPool(config, log, config.databaseUrl);
  try {
    await checkPostgres(pool, config.databaseUrl, { logical: !plan });
    if (plan) {
      const steps = await planMigration({ pool, sourceSchema: config.sourceSchema });
      process.stdout.write(renderPlan(HEADING, steps));
      return;
    }
    const applied = await migrate({ pool, sourceSchema: config.sourceSchema, log });
    process.stdout.write(applied.length === 0 ? 'nothing to do\n' : `applied ${applied.join(', ')}\n`);
  } finally {
    await pool.end();
  }
}

const HEADING = [
  'What market-sync migrate would execute now, in order. Nothing has been changed.',
  'The program tries a transaction again when it cannot have its locks; by hand, run it again from its begin.',
  "Where a transaction locks tables of the application, their names and the words behind 'Locks' say how.",
];
