import { once } from 'node:events';
import { createServer } from 'node:net';
import type { AddressInfo } from 'node:net';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { query } from '../../src/postgres.ts';
import { createMarket, type TestMarket } from '../support/pipeline.ts';
import { createDatabase, type TestDatabase } from '../support/postgres.ts';
import { runProgram } from './program.ts';

const SECRET = 'hunter2-do-not-repeat';
const NOWHERE = `postgresql://guard:${SECRET}@127.0.0.1:1/guard`;
const NO_MARKET = `mongodb://market:${SECRET}@127.0.0.1:1/`;

let database: TestDatabase;
let market: TestMarket;
beforeAll(async () => {
  [database, market] = await Promise.all([createDatabase(), createMarket()]);
});
afterAll(async () => {
  await market.drop();
  await database.drop();
});

/** What must be so whatever is wrong: exit code 3, one message, nothing printed as if it ran, no password. */
async function refusal(command: string, settings: NodeJS.ProcessEnv): Promise<string> {
  const { code, stdout, stderr } = await runProgram([command], {
    LOG_LEVEL: 'warn',
    MONGODB_TIMEOUT_MS: '300',
    SLOT_NAME: `slot_${database.name}`,
    PORT: '0',
    ...settings,
  });
  expect(code, stderr).toBe(3);
  expect(stdout).toBe('');
  expect(stderr).not.toContain(SECRET);
  expect(stderr.trimEnd().split('\n')).toHaveLength(1);
  return stderr;
}

test.each(['start', 'pipeline', 'migrate'])(
  '%s ends with exit code 3 when PostgreSQL is not there',
  async (command) => {
    const message = await refusal(command, { DATABASE_URL: NOWHERE, MONGODB_URL: market.url });
    expect(message).toContain('market-sync: DATABASE_URL=postgresql://guard:***@127.0.0.1:1/guard: ');
    expect(message).toContain('Start it, or mend the URL.');
  },
);

test.each(['start', 'api'])('%s ends with exit code 3 when MongoDB refuses', async (command) => {
  const message = await refusal(command, { DATABASE_URL: database.url, MONGODB_URL: NO_MARKET });
  expect(message).toMatch(/^market-sync: MONGODB_URL: .*127\.0\.0\.1:1 .*Start it, or mend the URL/);
});

describe('a database that is not migrated', () => {
  test.each(['pipeline', 'api'])('is left alone by %s, which says what to run', async (command) => {
    const message = await refusal(command, { DATABASE_URL: database.url, MONGODB_URL: market.url });
    expect(message).toMatch(
      /market-sync: DATABASE_URL: \d+ migrations are missing.* Run: market-sync migrate/,
    );
    expect(await query(database.pool, `select to_regnamespace('market_sync')::text as schema`)).toEqual([
      { schema: null },
    ]);
  });

  test('is refused by migrate when it is no Storage Guard database', async () => {
    const other = await createDatabase({ template: 'empty' });
    const message = await refusal('migrate', { DATABASE_URL: other.url });
    expect(message).toContain('SOURCE_SCHEMA=public: this is not a Storage Guard database');
    await other.drop();
  });
});

test('a port in use ends api with exit code 3, naming PORT and what to do', async () => {
  const migrated = await createDatabase({ template: 'migrated' });
  const server = createServer().listen(0, '127.0.0.1');
  await once(server, 'listening');
  const { port } = server.address() as AddressInfo;
  const message = await refusal('api', {
    DATABASE_URL: migrated.url,
    MONGODB_URL: market.url,
    PORT: String(port),
  });
  expect(message).toContain(
    `market-sync: PORT=${port}: another program listens on 127.0.0.1:${port} already. Stop it, or set PORT`,
  );
  server.close();
  await migrated.drop();
});
