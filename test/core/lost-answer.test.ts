import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import type pg from 'pg';
import { ConnectionLostError, createPool, query } from '../../src/postgres.ts';
import { recordLog } from '../support/log-recorder.ts';
import { createDatabase, type TestDatabase } from '../support/postgres.ts';
import { type FaultProxy, startProxy } from '../support/proxy.ts';

/** Longer than it takes to find that no answer will come. */
const LONG_SECONDS = 12;

/** Two questions, five seconds apart, each with an answer after five at the latest; the rest is for slow machines. */
const NOTICED_MS_MAX = 40_000;

let database: TestDatabase;
beforeAll(async () => {
  database = await createDatabase({ template: 'empty' });
});
afterAll(() => database.drop());

describe.concurrent('a statement without an answer', () => {
  const open = async (): Promise<{ proxy: FaultProxy; pool: pg.Pool; log: ReturnType<typeof recordLog> }> => {
    const proxy = await startProxy(database.url);
    const log = recordLog();
    const pool = createPool({
      url: proxy.url,
      applicationName: 'test',
      sourceSchema: 'public',
      log: log.log,
    });
    await query(pool, 'select');
    return { proxy, pool, log };
  };

  test('is waited for as long as PostgreSQL works on it', async () => {
    const { proxy, pool, log } = await open();
    await query(pool, `select pg_sleep(${LONG_SECONDS})`);
    expect(log.count('postgres does not answer, cutting the connection')).toBe(0);
    await pool.end();
    await proxy.stop();
  });

  test.each([
    ['the server is silent', true],
    ['PostgreSQL has answered, and the answer is lost', false],
  ] as const)('fails as a lost connection when %s', async (_name, serverSilent) => {
    const { proxy, pool, log } = await open();
    const startedAt = performance.now();
    let lost = false;
    if (serverSilent) proxy.hang();
    else
      proxy.onReply = () => {
        if (lost) return 'forward';
        lost = true;
        return 'swallow';
      };
    await expect(query(pool, 'select 1')).rejects.toBeInstanceOf(ConnectionLostError);
    expect(performance.now() - startedAt).toBeLessThan(NOTICED_MS_MAX);
    expect(log.last('postgres does not answer, cutting the connection')).toEqual({
      server_silent: serverSilent,
    });
    await proxy.heal();
    expect(await query(pool, 'select 1 as one')).toEqual([{ one: 1 }]);
    await pool.end();
    await proxy.stop();
  });
});
