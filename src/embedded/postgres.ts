import { join } from 'node:path';
import { Client, escapeIdentifier } from 'pg';
import type { Logger } from '../log.ts';
import { provideBinaries } from './binaries.ts';
import { type InstanceLock, lockDataDirectory } from './instance-lock.ts';
import { makeDataDirectory, placeCluster } from './place.ts';
import { type ServerPlace, SUPERUSER } from './server.ts';
import { boundServerLog } from './server-log.ts';
import { startServer } from './start-server.ts';
import { superviseServer } from './supervisor.ts';

/** The PostgreSQL that runs when no DATABASE_URL is set. */
export type EmbeddedPostgres = Readonly<{
  /** Connection string of the superuser for a database of this name. It holds the password. */
  url(database: string): string;
  /** Creates the database when it is missing. */
  ensureDatabase(name: string): Promise<void>;
  /** Fast shutdown, after 5 s an immediate one; then lets go of DATA_DIR. Called again, it waits for the same end. */
  stop(): Promise<void>;
  /** PostgreSQL's own version, such as `18.4`. */
  version: string;
  /** The cluster's data directory. */
  location: string;
}>;

/**
 * Durability stays as PostgreSQL has it by default. The WAL kept for a slot has a limit, because nobody watches the
 * disk of an embedded server: past it the slot is lost and the pipeline resyncs.
 */
const PARAMETERS: Readonly<Record<string, string>> = {
  wal_level: 'logical',
  max_wal_senders: '10',
  max_replication_slots: '10',
  max_slot_wal_keep_size: '4GB',
};

/** Where root puts what the server's own user must reach, when that one may not enter the checkout or DATA_DIR. */
export const SHARED_HOME = '/var/lib/market-sync';

/**
 * Starts the embedded PostgreSQL 18 of `dataDir`, making its cluster on the first run. Data and password stay the same
 * from run to run; so does the port, as long as it is free, when `port` is 0.
 *
 * A server that outlived a killed run is taken over when it is what this run would start, else stopped in order first.
 * A server that ends by itself is started again until `stop` is called.
 *
 * Throws an `EnvironmentError` when another run holds `dataDir`, the port is in use, or PostgreSQL does not start.
 */
export async function startEmbeddedPostgres(input: {
  dataDir: string;
  port: number;
  sharedHome?: string;
  log: Logger;
}): Promise<EmbeddedPostgres> {
  const home = await makeDataDirectory(input.dataDir);
  const lock = lockDataDirectory(home);
  try {
    return await startLocked({ sharedHome: SHARED_HOME, ...input, home, lock });
  } catch (error) {
    lock.release();
    throw error;
  }
}

async function startLocked(input: {
  home: string;
  sharedHome: string;
  port: number;
  log: Logger;
  lock: InstanceLock;
}): Promise<EmbeddedPostgres> {
  const { home, lock, log, sharedHome } = input;
  const startedAt = performance.now();
  const { account, dataDir, exists } = await placeCluster({ home, sharedHome, log });
  const binaries = await provideBinaries({ account, sharedHome, log });
  const place: ServerPlace = { binaries, account, dataDir, logFile: join(home, 'postgresql.log') };
  const serverLog = await boundServerLog(place.logFile);
  const { password, server, takenOver } = await startServer({
    place,
    exists,
    credentialsFile: join(home, 'postgresql.json'),
    port: input.port,
    parameters: PARAMETERS,
    log,
  });
  const supervisor = superviseServer({ first: server, place, parameters: PARAMETERS, log });
  const stop = async () => {
    await supervisor.stop();
    serverLog.stop();
    lock.release();
  };
  const url = (database: string) =>
    `postgresql://${SUPERUSER}:${password}@127.0.0.1:${server.port}/${encodeURIComponent(database)}`;
  try {
    const version = await readVersion(url('postgres'));
    const duration_ms = Math.round(performance.now() - startedAt);
    const fields = { version, port: server.port, location: dataDir, duration_ms };
    log.info(fields, takenOver ? 'embedded postgresql taken over' : 'embedded postgresql started');
    let stopped: Promise<void> | undefined;
    return {
      url,
      ensureDatabase: (name) => ensureDatabase(url('postgres'), name),
      stop: () => (stopped ??= stop()),
      version,
      location: dataDir,
    };
  } catch (error) {
    await stop();
    throw error;
  }
}

const readVersion = (url: string): Promise<string> =>
  withClient(url, async (client) => {
    const { rows } = await client.query<{ server_version: string }>('show server_version');
    return rows[0]?.server_version ?? 'unknown';
  });

async function ensureDatabase(url: string, name: string): Promise<void> {
  // Created by somebody else meanwhile: found at the look PostgreSQL takes first, or at the unique index.
  const DUPLICATE = ['42P04', '23505'];
  await withClient(url, async (client) => {
    const { rowCount } = await client.query('select from pg_database where datname = $1', [name]);
    if (rowCount === 1) return;
    try {
      await client.query(`create database ${escapeIdentifier(name)}`);
    } catch (error) {
      if (!DUPLICATE.includes((error as { code?: string }).code ?? '')) throw error;
    }
  });
}

async function withClient<T>(url: string, work: (client: Client) => Promise<T>): Promise<T> {
  const client = new Client({ connectionString: url });
  client.on('error', () => undefined); // Reported by the query that fails.
  await client.connect();
  try {
    return await work(client);
  } finally {
    await client.end();
  }
}
