import { rm, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { startPipeline } from '../../pipeline/pipeline.ts';
import { requireListenable, startApi } from '../api/server.ts';
import type { Config } from '../config.ts';
import { fillDemo, runDemo } from '../embedded/demo.ts';
import { startMarket } from '../embedded/market/server.ts';
import { type EmbeddedPostgres, startEmbeddedPostgres } from '../embedded/postgres.ts';
import { applyStorageGuardTables } from '../embedded/storage-guard.ts';
import type { Logger } from '../log.ts';
import { migrate } from '../migrate.ts';
import { redactUrl } from '../postgres.ts';
import { publishContext } from '../store/publish.ts';
import { decideAccess } from './api-access.ts';
import { provideApiKey } from './api-key.ts';
import { examineStart } from './doctor.ts';
import { type Running, runService } from './run.ts';
import { openPool, openServices } from './services.ts';

const SOURCE_DATABASE = 'storage_guard';
const MARKET_DATABASE = 'embedded_market';
const DEMO_INTERVAL_MS = 1_000;

/** What other programs on this machine need to use a running `start`; in DATA_DIR/run.json, readable by its owner only. */
export interface RunFile {
  api_url: string;
  database_url: string;
  mongodb_url: string;
  mongodb_database: string;
  api_key: string;
  pid: number;
}

/** `market-sync start`: everything in one process, with embedded servers for those that no URL names. */
export function runStart(config: Config, log: Logger): Promise<void> {
  return runService(log, (running) => start(config, log, running));
}

async function start(config: Config, log: Logger, running: Running): Promise<void> {
  await requireListenable(config);
  const embedded = await startEmbedded(config, log, running);
  const databaseUrl = config.databaseUrl ?? embedded.databaseUrl(SOURCE_DATABASE);
  const mongodbUrl = config.mongodbUrl ?? (await startStandIn(config, log, running, embedded));
  if (config.databaseUrl === undefined) await prepareSource(config, log, databaseUrl);

  const services = await openServices(config, log, { databaseUrl, mongodbUrl, logical: true });
  running.add('connections', () => services.close());
  await migrate({ pool: services.pool, sourceSchema: config.sourceSchema, log });

  const access = await decideAccess(config, services.pool);
  const pipeline = await startPipeline({ config, log, ...services });
  running.add('pipeline', () => pipeline.stop());
  running.watch(pipeline.failed);

  const apiKey = config.apiKey ?? (await provideApiKey(config.dataDir));
  const api = await startApi(
    {
      ...services,
      log,
      publish: publishContext({ config, ...services, log, random: Math.random, role: 'api' }),
      apiKey,
      ...access,
    },
    { host: config.host, port: config.port },
  );
  running.add('api', () => api.stop());

  if (config.databaseUrl === undefined && config.demo) startDemo(config, log, running, databaseUrl);

  const file = join(config.dataDir, 'run.json');
  await writeRunFile(file, {
    api_url: api.url,
    database_url: databaseUrl,
    mongodb_url: mongodbUrl,
    mongodb_database: config.mongodbDatabase,
    api_key: apiKey,
    pid: process.pid,
  });
  running.add('run file', () => rm(file, { force: true }));
  printAddresses({ apiUrl: api.url, databaseUrl, mongodbUrl, standIn: services.market.server.standIn, file });
  startDoctor(config, log, running, { databaseUrl, mongodbUrl });
}

/**
 * Beside what runs already, so that no start waits for it: what nothing could run without has been checked on the way
 * here. What it finds that will not work takes everything down.
 */
function startDoctor(
  config: Config,
  log: Logger,
  running: Running,
  urls: { databaseUrl: string; mongodbUrl: string },
): void {
  const abort = new AbortController();
  const examined = examineStart(config, log, { ...urls, signal: abort.signal });
  running.watch(examined);
  running.add('doctor', async () => {
    abort.abort();
    await examined.catch(() => undefined); // Said by whoever watches it.
  });
}

interface Embedded {
  databaseUrl(database: string): string;
  postgres: EmbeddedPostgres | undefined;
}

/** The embedded PostgreSQL, when either server is not given: it keeps the stand-in's documents as well. */
async function startEmbedded(config: Config, log: Logger, running: Running): Promise<Embedded> {
  if (config.databaseUrl !== undefined && config.mongodbUrl !== undefined) {
    return { databaseUrl: () => '', postgres: undefined };
  }
  const postgres = await startEmbeddedPostgres({
    dataDir: config.dataDir,
    port: config.embeddedPostgresPort,
    log,
  });
  running.add('embedded postgresql', () => postgres.stop());
  await postgres.ensureDatabase(SOURCE_DATABASE);
  return { databaseUrl: (database) => postgres.url(database), postgres };
}

async function startStandIn(
  config: Config,
  log: Logger,
  running: Running,
  embedded: Embedded,
): Promise<string> {
  await embedded.postgres?.ensureDatabase(MARKET_DATABASE);
  const market = await startMarket({
    databaseUrl: embedded.databaseUrl(MARKET_DATABASE),
    host: '127.0.0.1',
    port: config.embeddedMarketPort,
    log,
  });
  running.add('embedded market', () => market.stop());
  log.warn(
    { url: market.url },
    'MONGODB_URL is not set: listings go to an in-process stand-in for MongoDB, for trying and testing only',
  );
  return market.url;
}

/** The application's tables, in the embedded default. */
async function prepareSource(config: Config, log: Logger, databaseUrl: string): Promise<void> {
  const pool = openPool(config, log, databaseUrl);
  try {
    await applyStorageGuardTables({ pool, sourceSchema: config.sourceSchema });
  } finally {
    await pool.end();
  }
}

/** Fills an empty database and keeps readings coming, as an application would: on connections of its own. */
function startDemo(config: Config, log: Logger, running: Running, databaseUrl: string): void {
  const pool = openPool(config, log, databaseUrl);
  const abort = new AbortController();
  const demo = fillDemo(pool, { now: new Date() }).then(() =>
    runDemo(pool, { signal: abort.signal, log, intervalMs: DEMO_INTERVAL_MS }),
  );
  running.watch(demo);
  running.add('demo', async () => {
    abort.abort();
    await demo.catch(() => undefined);
    await pool.end();
  });
}

async function writeRunFile(file: string, content: RunFile): Promise<void> {
  await rm(file, { force: true });
  await writeFile(file, `${JSON.stringify(content, null, 2)}\n`, { mode: 0o600 });
}

function printAddresses(found: {
  apiUrl: string;
  databaseUrl: string;
  mongodbUrl: string;
  standIn: boolean;
  file: string;
}): void {
  const lines = [
    `Page        ${found.apiUrl}/`,
    `API         ${found.apiUrl}`,
    `API docs    ${found.apiUrl}/docs`,
    `PostgreSQL  ${redactUrl(found.databaseUrl)}`,
    `MongoDB     ${redactUrl(found.mongodbUrl)}${found.standIn ? '  (a stand-in, for trying and testing)' : ''}`,
    `Passwords and the API key are in ${found.file}. Ctrl-C stops everything.`,
  ];
  process.stdout.write(`${lines.join('\n')}\n`);
}
