import { once } from 'node:events';
import { readFileSync } from 'node:fs';
import type { AddressInfo } from 'node:net';
import { createServer, type Server } from 'node:net';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { listSettings } from '../../src/config.ts';
import { runProgram } from './program.ts';

const COMMANDS = [
  'start',
  'pipeline',
  'api',
  'migrate',
  'uninstall',
  'status',
  'doctor',
  'audit',
  'backfill',
];

test('the help lists the commands, and the version is that of the package', async () => {
  const [help, version] = await Promise.all([runProgram(['--help']), runProgram(['--version'])]);
  expect(help).toMatchObject({ code: 0, stderr: '' });
  for (const command of COMMANDS) expect(help.stdout).toMatch(new RegExp(`^  ${command}\\b`, 'm'));
  const packageFile = join(import.meta.dirname, '..', '..', 'package.json');
  const { version: expected } = JSON.parse(readFileSync(packageFile, 'utf8')) as { version: string };
  expect(version).toEqual({ code: 0, stdout: `${expected}\n`, stderr: '' });
});

test('the help of each command lists every setting with its default and meaning', async () => {
  const helps = await Promise.all(COMMANDS.map((command) => runProgram([command, '--help'])));
  for (const { code, stdout } of helps) {
    expect(code).toBe(0);
    for (const { name, fallback, meaning } of listSettings()) {
      expect(stdout).toContain(
        `\n  ${name}${fallback === undefined ? '' : ` [${fallback}]`}\n      ${meaning}`,
      );
    }
  }
});

test.each([
  ['an unknown command', ['strat'], /unknown command 'strat'.*\n.*Did you mean start\?/],
  ['an unknown option', ['status', '--jsno'], /unknown option '--jsno'.*\n.*Did you mean --json\?/],
  ['an option before the command', ['--verbose', 'start'], /unknown option '--verbose'/],
  ['an argument too many', ['start', 'now'], /too many arguments for 'start'/],
  ['no command at all', [], /Usage: market-sync/],
])('%s is refused with exit code 2 and a hint, and nothing is started', async (_, args, hint) => {
  const { code, stdout, stderr } = await runProgram(args, { DATABASE_URL: 'postgresql://127.0.0.1:1/none' });
  expect(code).toBe(2);
  expect(stdout).toBe('');
  expect(stderr).toMatch(hint);
  expect(stderr).toMatch(/--help/);
});

describe('a wrong setting', () => {
  let server: Server;
  let connections = 0;
  let port: number;
  beforeAll(async () => {
    server = createServer((socket) => {
      connections += 1;
      socket.destroy();
    }).listen(0, '127.0.0.1');
    await once(server, 'listening');
    port = (server.address() as AddressInfo).port;
  });
  afterAll(() => server.close());

  test('stops a command with exit code 2 before a connection is opened, and no secret is printed', async () => {
    const settings = {
      DATABASE_URL: `postgresql://user:hunter2@127.0.0.1:${port}/guard`,
      MONGODB_URL: `mongodb://user:hunter2@127.0.0.1:${port}/`,
      BATCH_KEYS_MAX: '0',
      API_KEY: 'hunter2',
    };
    const results = await Promise.all(
      ['start', 'pipeline', 'status'].map((command) => runProgram([command], settings)),
    );
    for (const { code, stdout, stderr } of results) {
      expect(code).toBe(2);
      expect(stdout).toBe('');
      expect(stderr).toMatch(/^market-sync: API_KEY=\(not shown\): must have at least 16 characters/);
      expect(stderr).toMatch(/\nBATCH_KEYS_MAX=0: /);
      expect(stderr).not.toContain('hunter2');
    }
    expect(connections).toBe(0);
  });
});

test.each([
  ['pipeline', {}, 'DATABASE_URL'],
  ['api', { DATABASE_URL: 'postgresql://127.0.0.1:1/none' }, 'MONGODB_URL'],
  ['migrate', {}, 'DATABASE_URL'],
])('%s needs shared servers: with %o it says that %s is not set', async (command, settings, missing) => {
  const { code, stderr } = await runProgram([command], settings);
  expect(code).toBe(2);
  expect(stderr).toMatch(new RegExp(`^market-sync: ${missing} is not set: .*market-sync start`));
});

test('status without a database, and with no start running, says where it looked', async () => {
  const { code, stderr } = await runProgram(['status'], { DATA_DIR: '/nowhere' });
  expect(code).toBe(3);
  expect(stderr).toMatch(
    /^market-sync: DATABASE_URL is not set, and \/nowhere\/run\.json does not tell of a running/,
  );
});
