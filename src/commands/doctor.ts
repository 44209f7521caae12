import { identifyServer } from '../../pipeline/replication-server.ts';
import { judgeContinuity } from '../../pipeline/continuity.ts';
import type { Config } from '../config.ts';
import type { ExamineInput, Target } from '../doctor/examination.ts';
import { CATALOGUE, examine } from '../doctor/examine.ts';
import type { ReplicationProbe } from '../doctor/postgres-context.ts';
import { EnvironmentError } from '../errors.ts';
import type { Logger } from '../log.ts';
import { describeReport, findTroubles } from './doctor-report.ts';
import { type RunningServers, readRunFile } from './running-database.ts';

/** Exit codes of its own: it has no other way to say in a script what it found. */
export const DOCTOR_EXIT_CODES = '0 all is well, 1 warnings, 2 it will not work (or a setting is wrong)';

/** `market-sync doctor`: looks at everything, changes nothing, and says what to do. */
export async function runDoctor(config: Config, { json }: { json: boolean }): Promise<void> {
  const running = await readRunFile(config.dataDir);
  const report = await examine({
    ...examineInput(config),
    ...findTargets(config, running),
  });
  // NO_COLOR counts when it is not empty (no-color.org).
  const colour = process.stdout.isTTY === true && (process.env.NO_COLOR ?? '') === '';
  process.stdout.write(json ? `${JSON.stringify(report)}\n` : describeReport(report, { colour }));
  process.exitCode = report.exit_code;
}

const REPLICATION: ReplicationProbe = {
  identify: identifyServer,
  findCut: (checkpoint, slot, system) => {
    const continuity = judgeContinuity(checkpoint, slot, system);
    return continuity.state === 'cut' ? continuity.reason : undefined;
  },
};

const examineInput = (config: Config): Omit<ExamineInput, 'postgres' | 'mongodb'> => ({
  mongodbDatabase: config.mongodbDatabase,
  mongodbTimeoutMs: config.mongodbTimeoutMs,
  sourceSchema: config.sourceSchema,
  slotName: config.slotName,
  replication: REPLICATION,
  now: Date.now,
});

/** The servers that the settings name, or else those of a `start` that runs in DATA_DIR. */
function findTargets(
  config: Config,
  running: RunningServers | undefined,
): Pick<ExamineInput, 'postgres' | 'mongodb'> & { mongodbDatabase?: string } {
  const databaseUrl = config.databaseUrl ?? running?.database_url;
  const none = `no market-sync runs in ${config.dataDir}`;
  const postgres: Target =
    databaseUrl === undefined
      ? { missing: `DATABASE_URL is not set, and ${none}`, remedy: 'market-sync start', needed: true }
      : { url: databaseUrl };
  if (config.mongodbUrl !== undefined) return { postgres, mongodb: { url: config.mongodbUrl } };
  if (running?.mongodb_url === undefined || running.database_url !== databaseUrl) {
    const missing = `MONGODB_URL is not set, and ${none}${config.databaseUrl === undefined ? '' : ' on this database'}`;
    return { postgres, mongodb: { missing, remedy: 'market-sync start', needed: false } };
  }
  return {
    postgres,
    mongodb: { url: running.mongodb_url },
    mongodbDatabase: running.mongodb_database ?? config.mongodbDatabase,
  };
}

/** Its consumer is taking its place just now, and says itself what it finds. */
const SAID_BY_CONSUMER = ['slot', 'checkpoint'];

/**
 * The doctor's look at a start that has come to its end: one line of log a warning or failure. Throws an
 * `EnvironmentError` for a failure that the pipeline cannot mend by itself. Never throws for being aborted.
 */
export async function examineStart(
  config: Config,
  log: Logger,
  { databaseUrl, mongodbUrl, signal }: { databaseUrl: string; mongodbUrl: string; signal: AbortSignal },
): Promise<void> {
  const report = await examine({
    ...examineInput(config),
    postgres: { url: databaseUrl },
    mongodb: { url: mongodbUrl },
    signal,
  });
  if (signal.aborted) return;
  const stopping = new Set(CATALOGUE.filter(({ stops }) => stops).map(({ name }) => name));
  const fatal = [];
  for (const { name, status, found, remedy } of findTroubles(report)) {
    if (SAID_BY_CONSUMER.includes(name)) continue;
    if (status === 'failure' && stopping.has(name)) fatal.push(`${name}: ${found}. ${remedy ?? ''}`);
    else log.warn({ check: name, status, found, remedy }, 'doctor found something');
  }
  log.info({ ok: report.ok, duration_ms: report.duration_ms }, 'doctor has looked');
  if (fatal.length > 0) throw new EnvironmentError(fatal.join('\n'));
}
