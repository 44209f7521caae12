import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { Command, CommanderError } from 'commander';
import { runApi } from './api.ts';
import { runKeysCreate, runKeysList, runKeysRevoke, runKeysRotate } from './keys.ts';
import { runMigrate } from './migrate.ts';
import { runPipeline } from './pipeline.ts';
import { runStart } from './start.ts';
import { runStatus } from './status.ts';
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
  add('migrate', 'bring the database to this version of the program').action(() => withSettings(runMigrate));
  add('status', 'say how everything stands')
    .option('--json', 'as one line of JSON')
    .action((options: { json?: boolean }) =>
      withSettings((config, log) => runStatus(config, log, { json: options.json === true })),
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
