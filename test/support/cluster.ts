import { join } from 'node:path';
import { type Account, findServerAccount } from '../../src/embedded/account.ts';
import { provideBinaries } from '../../src/embedded/binaries.ts';
import { findFreePort } from '../../src/embedded/ports.ts';
import { SHARED_HOME } from '../../src/embedded/postgres.ts';
import {
  initialiseCluster,
  launchServer,
  type RunningServer,
  type ServerPlace,
  stopServer,
  SUPERUSER,
} from '../../src/embedded/server.ts';
import { createLogger } from '../../src/log.ts';
import { createClusterDirectory } from './cluster-directory.ts';

const PASSWORD = 'test';

export type TestCluster = {
  /** Connection string of the superuser; the database is `postgres` unless named. */
  url(database?: string): string;
  /** The postmaster's process id. Throws when the server does not run. */
  pid(): number;
  /** Sends the postmaster a signal (SIGTERM smart, SIGINT fast, SIGQUIT immediate, SIGKILL) and waits for its end. */
  kill(signal: 'SIGKILL' | 'SIGTERM' | 'SIGINT' | 'SIGQUIT'): Promise<void>;
  /** Starts the stopped or killed server again on the same port; waits out what a killed one left behind. */
  start(): Promise<void>;
  /** Ends the server and removes its directory. */
  stop(): Promise<void>;
  dataDir: string;
  logFile: string;
  /** Who the server runs as, and its files belong to; undefined for this process' own user. */
  account: Account | undefined;
};

/**
 * A PostgreSQL cluster of the test's own, for tests that crash it, stop it or change its parameters.
 * `fsync` off makes it faster where no crash of the whole machine is at stake; a killed server keeps its data either
 * way, because the operating system still holds what it wrote.
 */
export async function startCluster(
  options: { fsync?: boolean; parameters?: Readonly<Record<string, string>> } = {},
): Promise<TestCluster> {
  const fsync = options.fsync ?? true;
  return startClusterOn({ fsync: fsync ? 'on' : 'off', ...options.parameters }, (place) =>
    initialiseCluster(place, { password: PASSWORD, durable: false }),
  );
}

/** A cluster whose data directory `prepare` makes, by initdb or as a copy of another's, before its server starts. */
export async function startClusterOn(
  parameters: Readonly<Record<string, string>>,
  prepare: (place: ServerPlace) => Promise<void>,
): Promise<TestCluster> {
  const account = await findServerAccount();
  const binaries = await provideBinaries({
    account,
    sharedHome: SHARED_HOME,
    log: createLogger('silent'),
  });
  const directory = await createClusterDirectory(account);
  const place: ServerPlace = {
    binaries,
    account,
    dataDir: join(directory.path, 'data'),
    logFile: join(directory.path, 'log'),
  };
  const port = await findFreePort();
  const launch = () =>
    launchServer(place, {
      port,
      parameters: {
        wal_level: 'logical',
        max_replication_slots: '64',
        max_wal_senders: '64',
        max_connections: '300',
        ...parameters,
      },
    });
  let server: RunningServer | undefined;
  try {
    await prepare(place);
    server = await launch();
  } catch (error) {
    await directory.remove();
    throw error;
  }

  return {
    url: (database = 'postgres') => `postgresql://${SUPERUSER}:${PASSWORD}@127.0.0.1:${port}/${database}`,
    account,
    dataDir: place.dataDir,
    logFile: place.logFile,
    pid() {
      if (server === undefined) throw new Error('the cluster does not run');
      return server.pid;
    },
    async kill(signal) {
      if (server === undefined) throw new Error('the cluster does not run');
      process.kill(server.pid, signal);
      await server.exited;
      server = undefined;
    },
    async start() {
      if (server !== undefined) throw new Error('the cluster runs already');
      server = await launch();
    },
    async stop() {
      // Nothing is kept, so nothing need be written.
      if (server !== undefined) await stopServer({ pid: server.pid, fastTimeoutMs: 0 });
      server = undefined;
      await directory.remove();
    },
  };
}
