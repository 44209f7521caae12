import { rmSync, writeFileSync } from 'node:fs';
import { mkdtemp } from 'node:fs/promises';
import { tmpdir, userInfo } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, expect, test } from 'vitest';
import type { KeyRecord } from '../../src/store/api-keys.ts';
import { createMarket, type TestMarket } from '../support/pipeline.ts';
import { createDatabase, type TestDatabase } from '../support/postgres.ts';
import { runProgram, startProgram } from './program.ts';

let database: TestDatabase;
let market: TestMarket;
beforeAll(async () => {
  [database, market] = await Promise.all([createDatabase({ template: 'migrated' }), createMarket()]);
});
afterAll(async () => {
  await market.drop();
  await database.drop();
});

const keys = (...args: string[]) =>
  runProgram(['keys', ...args], { DATABASE_URL: database.url, LOG_LEVEL: 'warn' });

async function create(name: string, ...more: string[]): Promise<string> {
  const { code, stdout, stderr } = await keys('create', '--name', name, '--role', 'operator', ...more);
  expect(code, stderr).toBe(0);
  return stdout.trimEnd();
}

const list = async (): Promise<Record<keyof KeyRecord, string | null>[]> =>
  JSON.parse((await keys('list', '--json')).stdout);
const prefixOf = (key: string): string => key.split('_')[0] ?? '';

test('keys create prints the key alone, once; list shows it without its secret, and who made it', async () => {
  const { code, stdout, stderr } = await keys(
    'create',
    '--name',
    'Nina-s job',
    '--role',
    'reader',
    '--expires-in',
    '90d',
  );
  expect([code, stdout]).toEqual([0, expect.stringMatching(/^ms[a-z2-7]{10}_[\w-]{43}\n$/)]);
  expect(stderr).toContain('shown this once');
  const [prefix, secret = ''] = [prefixOf(stdout), stdout.trimEnd().slice(13)];
  const found = (await list()).find((key) => key.prefix === prefix);
  expect(found).toMatchObject({
    name: 'Nina-s job',
    role: 'reader',
    state: 'active',
    created_by: userInfo().username,
    revoked_at: null,
    last_used_at: null,
  });
  const days = (Date.parse(found?.expires_at ?? '') - Date.now()) / 86_400_000;
  expect([days > 89, days < 91]).toEqual([true, true]);
  const table = (await keys('list')).stdout;
  expect(table).toMatch(
    new RegExp(`^prefix +name +role .*\\n(.*\\n)*${prefix}  Nina-s job +reader +active `),
  );
  for (const shown of [table, JSON.stringify(await list())]) expect(shown).not.toContain(secret);
});

test('keys revoke ends a key, given by its prefix or whole, and says so when it had ended', async () => {
  const [one, two] = [await create('one'), await create('two')];
  for (const given of [prefixOf(one), two]) {
    expect(await keys('revoke', given)).toMatchObject({
      code: 0,
      stdout: `revoked ${prefixOf(given)}, in force within 5 s\n`,
    });
  }
  expect((await keys('revoke', prefixOf(one))).stdout).toBe(`${prefixOf(one)} was revoked already\n`);
  const states = (await list())
    .filter(({ name }) => name === 'one' || name === 'two')
    .map(({ state }) => state);
  expect(states).toEqual(['revoked', 'revoked']);
});

test('keys rotate prints a new key of the same name; the old one ends after the overlap', async () => {
  const old = await create('turning');
  const { code, stdout, stderr } = await keys('rotate', prefixOf(old), '--overlap', '0m');
  expect([code, stdout]).toEqual([0, expect.stringMatching(/^ms[a-z2-7]{10}_[\w-]{43}\n$/)]);
  expect(stderr).toContain(`new key of turning, role operator`);
  const states = (await list())
    .filter(({ name }) => name === 'turning')
    .map(({ prefix, state }) => [prefix, state]);
  expect(states).toEqual([
    [prefixOf(stdout), 'active'],
    [prefixOf(old), 'expired'],
  ]);
});

test.each([
  [['create', '--name', 'x'], /--role/],
  [['create', '--role', 'reader'], /--name/],
  [['create', '--name', 'x', '--role', 'root'], /--role root: must be reader, operator, admin/],
  [['create', '--name', 'local', '--role', 'reader'], /--name local: must be .*not API_KEY or local/],
  [['create', '--name', 'API_KEY', '--role', 'reader'], /--name API_KEY/],
  [['create', '--name', 'oidc:ann', '--role', 'reader'], /--name oidc:ann/],
  [['create', '--name', ' ', '--role', 'reader'], /--name : must be/],
  [['create', '--name', 'a\nb', '--role', 'reader'], /--name a/],
  [
    ['create', '--name', 'x', '--role', 'reader', '--expires-in', '90'],
    /--expires-in 90: must be .*30m, 24h, 90d/,
  ],
  [['create', '--name', 'x', '--role', 'reader', '--expires-in', '0d'], /--expires-in 0d/],
  [['create', '--name', 'x', '--role', 'reader', '--expires-in', '4000d'], /--expires-in 4000d/],
  [['rotate', 'msaaaaaaaaaa', '--overlap', 'soon'], /--overlap soon/],
  [['rotate', 'msaaaaaaaaaa'], /msaaaaaaaaaa: there is no such key/],
  [['revoke', 'msaaaaaaaaaa'], /msaaaaaaaaaa: there is no such key. See: market-sync keys list/],
  [['revoke', 'nonsense'], /PREFIX: must be the part of a key before the first _/],
  [['revoke'], /prefix/],
  [['lost'], /lost/],
] as const)('keys %j is refused with exit code 2 and what to do', async (args, message) => {
  const { code, stdout, stderr } = await keys(...args);
  expect([code, stdout]).toEqual([2, '']);
  expect(stderr).toMatch(message);
});

test('a name that an active key has is refused, and the remedy is to rotate', async () => {
  await create('taken');
  const { code, stderr } = await keys('create', '--name', 'taken', '--role', 'admin');
  expect([code, stderr]).toEqual([2, expect.stringContaining('market-sync keys rotate')]);
});

test('without DATABASE_URL keys are made in the database of a start that runs, and without one it says so', async () => {
  const directory = await mkdtemp(join(tmpdir(), 'market-sync-keys-'));
  try {
    const ask = () => runProgram(['keys', 'list'], { DATA_DIR: directory });
    const nowhere = await ask();
    expect([nowhere.code, nowhere.stderr]).toEqual([
      3,
      expect.stringContaining('Start it, or set DATABASE_URL'),
    ]);
    writeFileSync(join(directory, 'run.json'), JSON.stringify({ database_url: database.url }));
    expect((await ask()).code).toBe(0);
  } finally {
    rmSync(directory, { recursive: true });
  }
});

test('api serves others than this machine once there is a key, and says before that how to make one', async () => {
  const own = await createDatabase({ template: 'migrated' });
  const settings = {
    DATABASE_URL: own.url,
    MONGODB_URL: market.url,
    HOST: '0.0.0.0',
    PORT: '0',
    LOG_LEVEL: 'warn',
  };
  try {
    const refused = await runProgram(['api'], settings);
    expect([refused.code, refused.stdout]).toEqual([2, '']);
    expect(refused.stderr).toMatch(
      /^market-sync: HOST=0\.0\.0\.0: without any key .*market-sync keys create/,
    );
    const made = await runProgram(['keys', 'create', '--name', 'first', '--role', 'reader'], settings);
    const program = startProgram(['api'], settings);
    const [, url] = await program.printed(/^API +(\S+)$/m);
    expect((await fetch(`${url}/session`)).status).toBe(401);
    const headers = { authorization: `Bearer ${made.stdout.trimEnd()}` };
    expect(await (await fetch(`${url}/session`, { headers })).json()).toMatchObject({
      name: 'first',
      role: 'reader',
    });
    await program.end('SIGTERM');
  } finally {
    await own.drop();
  }
});
