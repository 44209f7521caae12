import { afterAll, beforeAll, expect, test } from 'vitest';
import { describeCatalog } from '../support/catalog.ts';
import { createDatabase, type TestDatabase } from '../support/postgres.ts';
import { splitStatements } from '../support/sql-text.ts';
import { runProgram } from './program.ts';

let foreign: TestDatabase;
let installed: TestDatabase;
beforeAll(async () => {
  [foreign, installed] = await Promise.all([createDatabase(), createDatabase({ template: 'migrated' })]);
});
afterAll(async () => {
  await foreign.drop();
  await installed.drop();
});

test.each([
  ['migrate', () => foreign, /create trigger market_sync_insert after insert on sensor_readings/],
  ['uninstall', () => installed, /drop trigger market_sync_insert on public\.sensor_readings/],
])('%s --plan prints SQL and nothing else, and changes nothing', async (command, databaseOf, expected) => {
  const database = databaseOf();
  const before = await describeCatalog(database.pool);
  const { code, stdout, stderr } = await runProgram([command, '--plan'], { DATABASE_URL: database.url });
  expect({ code, stderr }).toEqual({ code: 0, stderr: '' });
  expect(stdout).toMatch(/^-- What market-sync \w+ would execute now/);
  expect(stdout).toMatch(expected);
  expect(splitStatements(stdout).length).toBeGreaterThan(10);
  expect(await describeCatalog(database.pool)).toEqual(before);
});

test('uninstall without a terminal wants --yes, with exit code 2, and takes nothing away', async () => {
  const before = await describeCatalog(installed.pool);
  const { code, stderr } = await runProgram(['uninstall'], { DATABASE_URL: installed.url });
  expect(code).toBe(2);
  expect(stderr).toContain('--yes');
  expect(await describeCatalog(installed.pool)).toEqual(before);
});

test('uninstall without a database is refused', async () => {
  const { code, stderr } = await runProgram(['uninstall', '--yes']);
  expect(code).toBe(2);
  expect(stderr).toContain('DATABASE_URL is not set');
});
