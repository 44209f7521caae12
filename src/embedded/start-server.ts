import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { Client } from 'pg';
import { EnvironmentError } from '../errors.ts';
import type { Logger } from '../log.ts';
import { type Credentials, createPassword, readCredentials, saveCredentials } from './credentials.ts';
import { findFreePort, isPortFree } from './ports.ts';
import { isAlive } from './processes.ts';
import {
  disownReusedPid,
  findRunningServer,
  initialiseCluster,
  launchServer,
  type PostmasterPid,
  type RunningServer,
  type ServerPlace,
  SUPERUSER,
  serverArguments,
  stopServer,
} from './server.ts';

const FAST_SHUTDOWN_MS = 5_000;
const ANSWER_TIMEOUT_MS = 5_000;
const PORT_ATTEMPTS_MAX = 5;

export type StartRequest = Readonly<{
  place: ServerPlace;
  /** Whether the cluster is there already. */
  exists: boolean;
  credentialsFile: string;
  /** 0: the one of the last run if it is free, else any. */
  port: number;
  parameters: Readonly<Record<string, string>>;
  log: Logger;
}>;

export type StartedServer = Readonly<{ server: RunningServer; password: string; takenOver: boolean }>;

/** Takes over the server that a killed run left, or makes the cluster if need be and launches one. */
export async function startServer(request: StartRequest): Promise<StartedServer> {
  const kept = await readCredentials(request.credentialsFile);
  if (request.exists && kept === undefined) {
    throw new EnvironmentError(
      `${request.credentialsFile}, which holds the password of the cluster in ${request.place.dataDir}, is missing. Restore it, or move the cluster away to start with an empty one.`,
    );
  }
  if (request.exists && kept !== undefined) {
    const server = await takeOver(request, kept);
    if (server !== undefined) return { server, password: kept.password, takenOver: true };
  }
  return launch(request, kept);
}

async function takeOver(request: StartRequest, kept: Credentials): Promise<RunningServer | undefined> {
  const { dataDir } = request.place;
  const found = await findRunningServer(dataDir);
  if (found === undefined) {
    await disownReusedPid(dataDir);
    return undefined;
  }
  const port = request.port === 0 ? found.port : request.port;
  if (await isAsWanted({ found, port, kept, request })) return adopt(found);
  request.log.info({ pid: found.pid }, 'stopping the embedded postgresql of an earlier run');
  await stopServer({ pid: found.pid, fastTimeoutMs: FAST_SHUTDOWN_MS });
  return undefined;
}

/** Same arguments (the port is one), same version, and it answers as the server of this very data directory. */
async function isAsWanted(input: {
  found: PostmasterPid;
  port: number;
  kept: Credentials;
  request: StartRequest;
}): Promise<boolean> {
  const { found, port, request } = input;
  const { binaries, dataDir } = request.place;
  if (!found.ready) return false;
  const wanted = serverArguments({ dataDir, port, parameters: request.parameters });
  // postmaster.opts: the program, then each argument in double quotes.
  const started = await readFile(join(dataDir, 'postmaster.opts'), 'utf8');
  if (!started.trimEnd().endsWith(wanted.map((argument) => ` "${argument}"`).join(''))) return false;
  const client = new Client({
    host: '127.0.0.1',
    port,
    user: SUPERUSER,
    password: input.kept.password,
    database: 'postgres',
    connectionTimeoutMillis: ANSWER_TIMEOUT_MS,
    query_timeout: ANSWER_TIMEOUT_MS,
  });
  client.on('error', () => undefined); // Reported by the query that fails.
  try {
    await client.connect();
    const { rows } = await client.query<{ directory: string; version: string }>(
      "select current_setting('data_directory') as directory, current_setting('server_version') as version",
    );
    // The package's version is that of PostgreSQL and a part of its own: 18.4.0-beta.17.
    return rows[0]?.directory === dataDir && binaries.version.startsWith(rows[0].version);
  } catch {
    return false; // Whatever keeps it from answering, it is stopped and started anew.
  } finally {
    await client.end();
  }
}

function adopt(found: PostmasterPid): RunningServer {
  const POLL_MS = 500;
  const exited = new Promise<void>((resolve) => {
    const look = async () => {
      while (await isAlive(found.pid)) await sleep(POLL_MS, undefined, { ref: false });
      resolve();
    };
    void look();
  });
  return { pid: found.pid, port: found.port, exited };
}

async function launch(request: StartRequest, kept: Credentials | undefined): Promise<StartedServer> {
  const { credentialsFile, parameters, place } = request;
  const password = kept?.password ?? createPassword();
  let initialised = request.exists;
  let preferred = kept?.port;
  for (let attempt = 1; ; attempt += 1) {
    const port = await choosePort({ setting: request.port, preferred, log: request.log });
    if (kept === undefined || port !== kept.port) await saveCredentials(credentialsFile, { password, port });
    if (!initialised) await initialiseCluster(place, { password, durable: true });
    initialised = true;
    try {
      return { server: await launchServer(place, { port, parameters }), password, takenOver: false };
    } catch (error) {
      // Somebody took the port between the look and the start.
      const lostPort = request.port === 0 && !(await isPortFree(port));
      if (!lostPort || attempt === PORT_ATTEMPTS_MAX) throw error;
      preferred = undefined;
    }
  }
}

async function choosePort(input: {
  setting: number;
  preferred: number | undefined;
  log: Logger;
}): Promise<number> {
  const { log, preferred, setting } = input;
  if (setting !== 0) {
    if (await isPortFree(setting)) return setting;
    throw new EnvironmentError(
      `EMBEDDED_POSTGRES_PORT=${setting}: the port is in use on 127.0.0.1. Set another one, or 0 for any free one.`,
    );
  }
  if (preferred !== undefined) {
    if (await isPortFree(preferred)) return preferred;
    log.warn({ port: preferred }, 'the port of the embedded postgresql is taken, using another one');
  }
  return findFreePort();
}
