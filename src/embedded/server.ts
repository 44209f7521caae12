import { spawn } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import { chown, mkdir, open, readdir, readFile, rename, rm, stat, writeFile } from 'node:fs/promises';
import { basename, dirname, join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { EnvironmentError } from '../errors.ts';
import type { Account } from './account.ts';
import type { Binaries } from './binaries.ts';
import { commandLineOf, isAlive, signalProcess, waitUntilGone } from './processes.ts';

/** Where one PostgreSQL server lives. `dataDir` is a real path: what the server is recognised by. */
export type ServerPlace = Readonly<{
  binaries: Binaries;
  account: Account | undefined;
  dataDir: string;
  logFile: string;
}>;

/** A server of ours that runs. `exited` resolves when it has ended, however it ended. */
export type RunningServer = Readonly<{ pid: number; port: number; exited: Promise<void> }>;

export const SUPERUSER = 'postgres';

const READY_TIMEOUT_MS = 120_000; // Replaying the WAL after a crash is part of a start.
const RETRY_STALE_MS = 10_000;
const POLL_MS = 10;

/** Nothing of the caller's locale, PG* or TZ variables decides how a cluster is made or runs. */
const ENVIRONMENT = { PATH: '/usr/bin:/bin', LC_ALL: 'C', TZ: 'UTC' };

/** What makes spawned programs run as the server's user, in a directory that one may enter. */
const spawnAs = (account: Account | undefined) => ({
  cwd: '/',
  env: ENVIRONMENT,
  ...(account === undefined ? {} : { uid: account.uid, gid: account.gid }),
});

/**
 * Makes a new cluster at `place.dataDir`, whose parent must exist. initdb works in a sibling directory that gets the
 * final name when it is complete, so a killed one leaves nothing that looks like a cluster; what earlier ones left is
 * removed. Only one caller at a time for a parent directory.
 *
 * `durable: false` skips flushing to disk, for clusters that never outlive a test.
 */
export async function initialiseCluster(
  place: ServerPlace,
  options: { password: string; durable: boolean },
): Promise<void> {
  const parent = dirname(place.dataDir);
  const prefix = `${basename(place.dataDir)}.new-`;
  for (const name of await readdir(parent)) {
    if (name.startsWith(prefix)) await removeLeftover(join(parent, name));
  }
  const partial = join(parent, `${prefix}${randomBytes(4).toString('hex')}`);
  const passwordFile = `${partial}.password`;
  await mkdir(partial, { mode: 0o700 });
  await writeFile(passwordFile, `${options.password}\n`, { mode: 0o600 });
  if (place.account !== undefined) {
    await chown(partial, place.account.uid, place.account.gid);
    await chown(passwordFile, place.account.uid, place.account.gid);
  }
  try {
    await runInitdb(place, [
      `--pgdata=${partial}`,
      `--username=${SUPERUSER}`,
      `--pwfile=${passwordFile}`,
      '--auth=scram-sha-256',
      '--encoding=UTF8',
      '--locale-provider=builtin',
      '--builtin-locale=C.UTF-8',
      '--locale=C',
      ...(options.durable ? [] : ['--no-sync']),
    ]);
    await rename(partial, place.dataDir);
  } finally {
    await rm(passwordFile, { force: true });
    await rm(partial, { recursive: true, force: true });
  }
}

async function removeLeftover(path: string): Promise<void> {
  try {
    await rm(path, { recursive: true, force: true });
  } catch (error) {
    // An initdb whose Node was killed goes on for a moment and adds files: the next start removes it.
    if ((error as NodeJS.ErrnoException).code !== 'ENOTEMPTY') throw error;
  }
}

async function runInitdb(place: ServerPlace, args: readonly string[]): Promise<void> {
  const child = spawn(place.binaries.initdb, args, {
    ...spawnAs(place.account),
    stdio: ['ignore', 'ignore', 'pipe'],
  });
  const OUTPUT_CHARACTERS_MAX = 4_000;
  let output = '';
  child.stderr.setEncoding('utf8').on('data', (chunk: string) => {
    output = (output + chunk).slice(-OUTPUT_CHARACTERS_MAX);
  });
  const result = await new Promise<number | string | Error>((resolve) => {
    child.on('error', resolve).on('close', (code, signal) => resolve(code ?? signal ?? 'unknown'));
  });
  if (result === 0) return;
  if (result instanceof Error) {
    throw new EnvironmentError(`initdb could not be started (${place.binaries.initdb})`, { cause: result });
  }
  throw new EnvironmentError(`initdb failed (${result}) for ${place.dataDir}:\n${output.trim()}`);
}

/** The command line after the program's name, as a server is started with and as `postmaster.opts` records it. */
export function serverArguments(input: {
  dataDir: string;
  port: number;
  parameters: Readonly<Record<string, string>>;
}): string[] {
  const parameters = {
    ...input.parameters,
    port: String(input.port),
    listen_addresses: '127.0.0.1',
    unix_socket_directories: '', // A socket's path has 107 bytes at most, and every user of the machine may reach it.
    logging_collector: 'off',
  };
  return [
    '-D',
    input.dataDir,
    ...Object.entries(parameters).flatMap(([name, value]) => ['-c', `${name}=${value}`]),
  ];
}

/**
 * Starts a server on an existing cluster and waits until it accepts connections. It runs in a session of its own:
 * Ctrl-C in a terminal reaches Node only, which then stops it in order, and a killed Node leaves it running.
 *
 * Throws an `EnvironmentError` with the last lines of the server's log when it ends instead.
 */
export async function launchServer(
  place: ServerPlace,
  options: { port: number; parameters: Readonly<Record<string, string>> },
): Promise<RunningServer> {
  const leftBehind = (await readPostmasterPid(place.dataDir)) !== undefined;
  const deadline = Date.now() + RETRY_STALE_MS;
  for (;;) {
    const attempt = await tryLaunch(place, options);
    if (attempt.started) return attempt.server;
    // The children of a killed postmaster hold its shared memory a moment longer, and a start then fails.
    if (!leftBehind || Date.now() > deadline) throw attempt.error;
    await sleep(POLL_MS * 10);
  }
}

type Attempt = { started: true; server: RunningServer } | { started: false; error: EnvironmentError };

async function tryLaunch(
  place: ServerPlace,
  options: { port: number; parameters: Readonly<Record<string, string>> },
): Promise<Attempt> {
  const log = await open(place.logFile, 'a', 0o600);
  const logStart = (await log.stat()).size;
  const child = spawn(
    place.binaries.postgres,
    serverArguments({ dataDir: place.dataDir, port: options.port, parameters: options.parameters }),
    { ...spawnAs(place.account), detached: true, stdio: ['ignore', log.fd, log.fd] },
  );
  let ended: string | undefined;
  const exited = new Promise<void>((resolve) => {
    child
      .on('error', (error) => {
        ended = error.message;
        resolve();
      })
      .on('exit', (code, signal) => {
        ended = signal ?? `exit code ${code}`;
        resolve();
      });
  });
  await log.close();
  child.unref();
  const deadline = Date.now() + READY_TIMEOUT_MS;
  while (ended === undefined && Date.now() < deadline) {
    const running = await readPostmasterPid(place.dataDir);
    if (child.pid !== undefined && running?.pid === child.pid && running.ready) {
      return { started: true, server: { pid: child.pid, port: options.port, exited } };
    }
    await sleep(POLL_MS);
  }
  if (child.pid !== undefined && ended === undefined) signalProcess(child.pid, 'SIGQUIT');
  const reason = ended ?? `not ready after ${READY_TIMEOUT_MS / 1000} s`;
  const error = new EnvironmentError(
    `The embedded PostgreSQL did not start on port ${options.port} (${reason}). Its log, ${place.logFile}:\n${await readLastLines(place.logFile, logStart)}`,
  );
  return { started: false, error };
}

async function readLastLines(file: string, fromByte: number): Promise<string> {
  const LINES = 12;
  const content = await readFile(file);
  return content.subarray(fromByte).toString('utf8').trimEnd().split('\n').slice(-LINES).join('\n');
}

/** What a server says of itself in `postmaster.pid`; there from its start to its orderly end. */
export type PostmasterPid = Readonly<{ pid: number; port: number; ready: boolean }>;

async function readPostmasterPid(dataDir: string): Promise<PostmasterPid | undefined> {
  let text: string;
  try {
    text = await readFile(join(dataDir, 'postmaster.pid'), 'utf8');
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') return undefined;
    throw error;
  }
  // Line 1 the process, 4 the port, 8 the status (src/include/utils/pidfile.h).
  const lines = text.split('\n');
  const pid = Number(lines[0]);
  if (!Number.isInteger(pid) || pid <= 0) return undefined;
  return { pid, port: Number(lines[3] ?? 0), ready: lines[7]?.trim() === 'ready' };
}

/** The server that runs on this data directory, if any: the process must exist and be a server of this directory. */
export async function findRunningServer(dataDir: string): Promise<PostmasterPid | undefined> {
  const found = await readPostmasterPid(dataDir);
  if (found === undefined || !(await isAlive(found.pid))) return undefined;
  const command = await commandLineOf(found.pid);
  return command.includes('postgres') && command.includes(dataDir) ? found : undefined;
}

/**
 * After a reboot, or in a new container, another process may have the number that a killed server left behind, and
 * PostgreSQL then refuses to start. Writing the number of the server's own parent-to-be makes it look further (it
 * ignores that one), and unlike removing the file it keeps the check for children that still hold shared memory.
 */
export async function disownReusedPid(dataDir: string): Promise<void> {
  const file = join(dataDir, 'postmaster.pid');
  const found = await readPostmasterPid(dataDir);
  if (found === undefined || !(await isAlive(found.pid))) return;
  const text = await readFile(file, 'utf8');
  await writeFile(file, text.replace(/^\d+/, String(process.pid)));
}

/**
 * Stops a server: fast shutdown (open transactions are rolled back, a checkpoint is written), after `fastTimeoutMs`
 * immediate (as if it had crashed; the next start recovers), and at last by SIGKILL. Resolves when it is gone.
 */
export async function stopServer(input: {
  pid: number;
  fastTimeoutMs: number;
}): Promise<'fast' | 'immediate'> {
  const IMMEDIATE_TIMEOUT_MS = 6_000; // The postmaster itself kills children that ignore it for 5 s.
  signalProcess(input.pid, 'SIGINT');
  if (await waitUntilGone(input.pid, input.fastTimeoutMs)) return 'fast';
  signalProcess(input.pid, 'SIGQUIT');
  if (!(await waitUntilGone(input.pid, IMMEDIATE_TIMEOUT_MS))) {
    signalProcess(input.pid, 'SIGKILL');
    await waitUntilGone(input.pid, IMMEDIATE_TIMEOUT_MS);
  }
  return 'immediate';
}

/** Whether `dataDir` looks like a cluster. `PG_VERSION` alone does not tell: initdb writes it before anything else. */
export async function isCluster(dataDir: string): Promise<boolean> {
  return (await exists(join(dataDir, 'PG_VERSION'))) && (await exists(join(dataDir, 'global', 'pg_control')));
}

async function exists(path: string): Promise<boolean> {
  try {
    await stat(path);
    return true;
  } catch (error) {
    const { code } = error as NodeJS.ErrnoException;
    if (code === 'ENOENT' || code === 'ENOTDIR') return false;
    throw error;
  }
}
