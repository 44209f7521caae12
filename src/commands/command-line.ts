import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { Command, CommanderError } from 'commander';
import { runApi } from './api.ts';
import { runAudit } from './audit.ts';
import { DOCTOR_EXIT_CODES, runDoctor } from './doctor.ts';
import { runBackfill } from './backfill.ts';
import { runDedupe } from './dedupe.ts';
import { runKeysCreate, runKeysList, runKeysRevoke, runKeysRotate } from './keys.ts';
import { runMigrate } from './migrate.ts';
import { runPipeline } from './pipeline.ts';
import { runStart } from './start.ts';
import { runStatus } from './status.ts';
import { runUninstall } from './uninstall.ts';
import { type Config, listSettings, loadConfig } from '../config.ts';
import { armCrashPoints } from '../crash-point.ts';
import { describeError, EnvironmentError, SettingsError } from '../errors.ts';
import { createLogger, type Logger } from '../log.ts';

const EXIT_FAILURE = 1;
const EXIT_SETTINGS = 2;
const EXIT_ENVIRONMENT = 3;

function buildProgram(): Command {
  const program = new Command('market-sync')
    .description(
      "Keeps Market Connect's listings (MongoDB) in step with Storage Guard's database (PostgreSQL).",
    )
    .version(readVersion())
    .allowExcessArguments(false)
    .showHelpAfterError('(market-sync --help shows what there is)')
    .exitOverride();
  const add = (name: string, description: string): Command =>
    program
      .command(name)
      .description(description)
      .allowExcessArguments(false)
      .addHelpText('after', describeSettings())
      .exitOverride();
  add('start', 'run everything in one process, with embedded servers where no URL is set').action(() =>
    withSettings(runStart),
  );
  add('pipeline', 'run consumer, publisher and schedules against shared servers').action(() =>
    withSettings(runPipeline),
  );
  add('api', 'run the HTTP API against shared servers').action(() => withSettings(runApi));
  add('migrate', 'bring the database to this version of the program')
    .option('--plan', 'print the SQL with what it locks, and change nothing')
    .action((options: { plan?: boolean }) =>
      withSettings((config, log) => runMigrate(config, log, { plan: options.plan === true })),
    );
  add('uninstall', 'take everything away again but the snapshots and their table')
    .option('--plan', 'print the SQL with what it locks, and change nothing')
    .option('--yes', 'do not ask')
    .action(({ plan, yes }: { plan?: boolean; yes?: boolean }) =>
      withSettings((config, log) => runUninstall(config, log, { plan: plan === true, yes: yes === true })),
    );
  add('status', 'say how everything stands')
    .option('--json', 'as one line of JSON')
    .action((options: { json?: boolean }) =>
      withSettings((config, log) => runStatus(config, log, { json: options.json === true })),
    );
  add('audit', 'compare every snapshot and listing with what it must say')
    .option('--repair', 'mend what differs, and delete listings that stand for no booking')
    .option('--json', 'progress and result as lines of JSON')
    .action((options: { repair?: boolean; json?: boolean }) =>
      withSettings((config, log) =>
        runAudit(config, log, { repair: options.repair === true, json: options.json === true }),
      ),
    );
  add('doctor', 'look at both servers, change nothing, and say what is wrong and what to do')
    .option('--json', 'as one line of JSON')
    .addHelpText('after', `\nExit codes: ${DOCTOR_EXIT_CODES}.`)
    .action((options: { json?: boolean }) =>
      withSettings((config) => runDoctor(config, { json: options.json === true })),
    );
  add('backfill', 'recompute the snapshot of every booking beside live work, and show how far it is')
    .option('--reason <text>', 'why, for the audit log', 'market-sync backfill')
    .option('--detach', 'ask for it and do not wait')
    .option('--cancel', 'cancel the one that is open')
    .action((options: { reason: string; detach?: boolean; cancel?: boolean }) =>
      withSettings((config, log) =>
        runBackfill(config, log, {
          reason: options.reason,
          detach: options.detach === true,
          cancel: options.cancel === true,
        }),
      ),
    );
  add('dedupe', 'find bookings with several listings, as the system before this one may have left')
    .option('--apply', 'delete all but one of each')
    .action((options: { apply?: boolean }) =>
      withSettings((config, log) => runDedupe(config, log, { apply: options.apply === true })),
    );
  addKeys(add('keys', 'make, list, rotate and revoke keys of the API'));
  return program;
}

function addKeys(keys: Command): void {
  const add = (usage: string, description: string): Command =>
    keys.command(usage).description(description).allowExcessArguments(false).exitOverride();
  add('create', 'make a key and print it, this once')
    .requiredOption('--name <name>', 'whose it is, as the audit log shows it')
    .requiredOption('--role <role>', 'reader, operator or admin')
    .option('--expires-in <duration>', 'as 30m, 24h or 90d; without it the key does not expire')
    .action((options: { name: string; role: string; expiresIn?: string }) =>
      withSettings((config, log) => runKeysCreate(config, log, { ...options, expiresIn: options.expiresIn })),
    );
  add('list', 'show every key, without its secret')
    .option('--json', 'as one line of JSON')
    .action((options: { json?: boolean }) =>
      withSettings((config, log) => runKeysList(config, log, { json: options.json === true })),
    );
  add('revoke <prefix>', 'end a key').action((prefix: string) =>
    withSettings((config, log) => runKeysRevoke(config, log, prefix)),
  );
  add('rotate <prefix>', 'make a new key of the same name and role; the old one ends after the overlap')
    .option('--overlap <duration>', 'how long both are taken, as 30m, 24h or 7d', '24h')
    .action((prefix: string, { overlap }: { overlap: string }) =>
      withSettings((config, log) => runKeysRotate(config, log, { prefix, overlap })),
    );
}

async function withSettings(run: (config: Config, log: Logger) => Promise<void>): Promise<void> {
  const config = loadConfig(process.env);
  if (config.crashSetting !== undefined) armCrashPoints(config.crashSetting);
  await run(config, createLogger(config.logLevel));
}

function describeSettings(): string {
  const lines = listSettings().map(
    ({ name, fallback, meaning }) =>
      `  ${name}${fallback === undefined ? '' : ` [${fallback}]`}\n      ${meaning}`,
  );
  return `\nSettings (environment variables; NAME_FILE reads one from a file):\n${lines.join('\n')}\n`;
}

function readVersion(): string {
  const file = join(import.meta.dirname, '..', '..', 'package.json');
  return (JSON.parse(readFileSync(file, 'utf8')) as { version: string }).version;
}

function exitCodeOf(error: unknown): number {
  if (error instanceof SettingsError) return EXIT_SETTINGS;
  if (error instanceof EnvironmentError) return EXIT_ENVIRONMENT;
  return EXIT_FAILURE;
}

/** Runs the command that the arguments name, to its end; what went wrong is said and is in the exit code. */
export async function runCommandLine(): Promise<void> {
  try {
    await buildProgram().parseAsync(process.argv);
  } catch (error) {
    if (error instanceof CommanderError) {
      // Commander has said it already.
      process.exitCode = error.exitCode === 0 ? 0 : EXIT_SETTINGS;
    } else {
      process.stderr.write(`market-sync: ${describeError(error)}\n`);
      process.exitCode = exitCodeOf(error);
    }
  }
}
