import { createInterface } from 'node:readline/promises';
import type { Config } from '../config.ts';
import { SettingsError } from '../errors.ts';
import type { Logger } from '../log.ts';
import { checkPostgres } from '../postgres.ts';
import { renderPlan } from '../step.ts';
import { planUninstall, uninstall } from '../uninstall.ts';
import { openPool } from './services.ts';

/**
 * `market-sync uninstall`: takes everything away that market-sync has made, but the table of snapshots and its data. Asks on a
 * terminal, needs `yes` without one; with `plan` it prints the SQL instead, and changes nothing.
 */
export async function runUninstall(
  config: Config,
  log: Logger,
  { plan, yes }: { plan: boolean; yes: boolean },
): Promise<void> {
  if (config.databaseUrl === undefined) {
    throw new SettingsError(
      'DATABASE_URL is not set: there is no database to take market-sync away from. (An embedded one goes with its DATA_DIR.)',
    );
  }
  const pool = openPool(config, log, config.databaseUrl);
  try {
    await checkPostgres(pool, config.databaseUrl, { logical: false });
    const { steps, kept } = await planUninstall({ pool, sourceSchema: config.sourceSchema });
    if (plan) {
      process.stdout.write(renderPlan([...HEADING, ...kept.map((entry) => `Stays: ${entry}.`)], steps));
      return;
    }
    if (steps.length === 0) {
      process.stdout.write('nothing to do\n');
      return;
    }
    if (!yes) await requireConsent(steps.map(({ title }) => title));
    const done = await uninstall({ pool, sourceSchema: config.sourceSchema, log });
    process.stdout.write(
      [
        'market-sync is uninstalled. The table market_inventory_snapshots and its data stay; so do the listings in MongoDB.',
        ...done.kept.map((entry) => `Stays: ${entry}.`),
        '',
      ].join('\n'),
    );
  } finally {
    await pool.end();
  }
}

const HEADING = ['What market-sync uninstall would execute now, in order. Nothing has been changed.'];

async function requireConsent(titles: string[]): Promise<void> {
  if (!process.stdin.isTTY || !process.stdout.isTTY) {
    throw new SettingsError(
      'uninstall asks before it takes anything away, and there is no terminal. Look with --plan, then run it with --yes.',
    );
  }
  process.stdout.write(
    `This takes away:\n${titles
      .slice(1)
      .map((title) => `  ${title}\n`)
      .join('')}`,
  );
  const terminal = createInterface({ input: process.stdin, output: process.stdout });
  try {
    const answer = await terminal.question('Type "uninstall" to go on: ');
    if (answer.trim() !== 'uninstall') throw new SettingsError('nothing was taken away');
  } finally {
    terminal.close();
  }
}
