import { once } from 'node:events';
import { createServer } from 'node:net';
import type { AddressInfo } from 'node:net';
import pg from 'pg';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { createLogger } from '../../src/log.ts';
import {
  ConnectionLostError,
  classifyPostgresError,
  connect,
  createPool,
  inTransaction,
  query,
  redactUrl,
  sqlStateOf,
} from '../../src/postgres.ts';
import { createDatabase, type TestDatabase } from '../support/postgres.ts';
import { until } from '../support/pipeline.ts';

let database: TestDatabase;
beforeAll(async () => {
  database = await createDatabase({ template: 'empty' });
});
afterAll(() => database.drop());

const failureOf = (work: Promise<unknown>): Promise<unknown> =>
  work.then(
    () => {
      throw new Error('it did not fail');
    },
    (error: unknown) => error,
  );

describe('an error of PostgreSQL', () => {
  const KINDS = {
    retryable: [
      ...['08000', '08003', '08006', '08P01', '25006', '25P03', '40001', '40P01', '53100', '53200', '53300'],
      ...['53400', '55006', '55P03', '57014', '57P01', '57P02', '57P03', '57P05'],
    ],
    poison: [
      '22000',
      '22003',
      '22008',
      '22012',
      '22P02',
      '23502',
      '23503',
      '23505',
      '23514',
      '54000',
      '54001',
    ],
    fatal: [
      ...['0A000', '21000', '25001', '25P02', '28000', '28P01', '3D000', '40000', '42501', '42601', '42703'],
      ...[
        '42P01',
        '42883',
        '53000',
        '55000',
        '57000',
        '58030',
        'F0000',
        'MS001',
        'P0001',
        'XX000',
        'XX001',
        'ZZ999',
      ],
    ],
  } as const;

  test.each(Object.entries(KINDS))('is %s by its SQLSTATE', async (kind, states) => {
    for (const state of states) {
      const error = await failureOf(
        query(database.pool, `do $$ begin raise exception 'a message' using errcode = '${state}'; end $$`),
      );
      expect(error, state).toBeInstanceOf(pg.DatabaseError);
      expect(sqlStateOf(error)).toBe(state);
      expect(classifyPostgresError(error), state).toBe(kind);
    }
  });

  test('is the same inside of what it caused', async () => {
    const cause = await failureOf(query(database.pool, 'select 1 / 0'));
    const error = new Error('reconcile failed', { cause: new Error('once more', { cause }) });
    expect(sqlStateOf(error)).toBe('22012');
    expect(classifyPostgresError(error)).toBe('poison');
  });

  test('that comes of a timeout is retryable', async () => {
    const client = await connect(database.pool);
    try {
      await query(client, 'set statement_timeout = 20');
      const error = await failureOf(query(client, 'select pg_sleep(60)'));
      expect(sqlStateOf(error)).toBe('57014');
      expect(classifyPostgresError(error)).toBe('retryable');
    } finally {
      client.release(true);
    }
  });
});

test('what is no error of PostgreSQL, and what nobody knows, is fatal', () => {
  for (const error of [undefined, null, 'text', new Error('40001'), new TypeError('x'), { code: '40001' }]) {
    expect(classifyPostgresError(error)).toBe('fatal');
  }
});

describe('a lost connection', () => {
  test('is told from an error of the statement: a backend that was ended before', async () => {
    const client = await connect(database.pool);
    const ended = new Promise((resolve) => client.once('end', resolve));
    const rows = await query<{ pid: number }>(client, 'select pg_backend_pid() as pid');
    await query(database.pool, 'select pg_terminate_backend($1)', [rows[0]?.pid]);
    await ended;
    const error = await failureOf(query(client, 'select 1'));
    expect(error).toBeInstanceOf(ConnectionLostError);
    expect((error as Error).cause).toBeInstanceOf(Error);
    expect(classifyPostgresError(error)).toBe('retryable');
    client.release(true);
  });

  test('in the middle of a statement is retryable', async () => {
    const client = await connect(database.pool);
    const rows = await query<{ pid: number }>(client, 'select pg_backend_pid() as pid');
    const running = failureOf(query(client, 'select pg_sleep(60)'));
    const pid = rows[0]?.pid;
    await until('the statement runs', async () => {
      const found = await query(
        database.pool,
        `select from pg_stat_activity where pid = $1 and wait_event = 'PgSleep'`,
        [pid],
      );
      return found.length === 1;
    });
    await query(database.pool, 'select pg_terminate_backend($1)', [pid]);
    expect(classifyPostgresError(await running)).toBe('retryable');
    client.release(true);
  });

  test('is what an address without a server is', async () => {
    const server = createServer().listen(0, '127.0.0.1');
    await once(server, 'listening');
    const { port } = server.address() as AddressInfo;
    server.close();
    const pool = openPool(`postgresql://someone@127.0.0.1:${port}/nothing`);
    expect(await failureOf(query(pool, 'select 1'))).toBeInstanceOf(ConnectionLostError);
    expect(await failureOf(connect(pool))).toBeInstanceOf(ConnectionLostError);
    await pool.end();
  });

  test('does not hide a mistake of the caller', async () => {
    const circular: { self?: unknown } = {};
    circular.self = circular;
    const error = await failureOf(query(database.pool, 'select $1::jsonb', [circular]));
    expect(error).toBeInstanceOf(TypeError);
    expect(classifyPostgresError(error)).toBe('fatal');
  });
});

function openPool(url: string, sourceSchema = 'public'): pg.Pool {
  return createPool({ url, applicationName: 'core test', sourceSchema, log: createLogger('silent') });
}

test("every session of a pool has the same settings, whatever the server's and the role's defaults are", async () => {
  await query(
    database.pool,
    `alter database ${database.name} set default_transaction_isolation = 'serializable';
     alter database ${database.name} set timezone = 'Asia/Kolkata';
     alter database ${database.name} set search_path = pg_catalog`,
  );
  const pool = openPool(database.url, 'order');
  const rows = await query(
    pool,
    `select current_setting('transaction_isolation') as isolation, current_setting('timezone') as timezone,
       current_setting('search_path') as path, current_setting('statement_timeout') as statement_timeout,
       current_setting('lock_timeout') as lock_timeout, current_setting('application_name') as name,
       current_setting('idle_in_transaction_session_timeout') as idle_timeout,
       9007199254740991 as bigint, 12.50::numeric as number, 'NaN'::numeric as nan`,
  );
  expect(rows).toEqual([
    {
      isolation: 'read committed',
      timezone: 'UTC',
      path: '"order", pg_temp',
      statement_timeout: '1min',
      lock_timeout: '30s',
      idle_timeout: '1min',
      name: 'core test',
      bigint: 9_007_199_254_740_991,
      number: 12.5,
      nan: Number.NaN,
    },
  ]);
  await pool.end();
});

describe('a transaction', () => {
  beforeAll(() => query(database.pool, 'create table public.noted (what text primary key)'));
  const noted = async () =>
    (await query<{ what: string }>(database.pool, 'select what from public.noted order by what')).map(
      ({ what }) => what,
    );

  test('is committed when the work is done, and answers what it answered', async () => {
    const answer = await inTransaction(database.pool, async (client) => {
      await query(client, `insert into public.noted values ('done')`);
      return 'answer';
    });
    expect(answer).toBe('answer');
    expect(await noted()).toEqual(['done']);
  });

  test('is undone when the work throws, and its connection is good for the next one', async () => {
    const failure = new Error('no');
    const work = inTransaction(database.pool, async (client) => {
      await query(client, `insert into public.noted values ('undone')`);
      throw failure;
    });
    expect(await failureOf(work)).toBe(failure);
    await inTransaction(database.pool, (client) => query(client, `insert into public.noted values ('next')`));
    expect(await noted()).toEqual(['done', 'next']);
  });

  test('whose connection is lost throws what happened, and leaves no broken connection in the pool', async () => {
    const pool = openPool(database.url);
    const work = inTransaction(pool, async (client) => {
      const ended = new Promise((resolve) => client.once('end', resolve));
      const rows = await query<{ pid: number }>(client, 'select pg_backend_pid() as pid');
      await query(database.pool, 'select pg_terminate_backend($1)', [rows[0]?.pid]);
      await ended;
      await query(client, 'select 1');
    });
    expect(await failureOf(work)).toBeInstanceOf(ConnectionLostError);
    expect(pool.totalCount).toBe(0);
    expect(await query(pool, 'select 1 as one')).toEqual([{ one: 1 }]);
    await pool.end();
  });
});

test.each([
  ['postgresql://user:secret@host:5432/db', 'postgresql://user:***@host:5432/db'],
  ['postgresql://user:sec:ret@host/db', 'postgresql://user:***@host/db'],
  ['postgresql://user:sec@ret@host/db', 'postgresql://user:***@host/db'],
  ['postgresql://user:sec/ret@host/db', 'postgresql://user:***@host/db'],
  ['postgresql://:secret@host/db', 'postgresql://:***@host/db'],
  ['postgresql://host/db?user=u&password=secret&x=1', 'postgresql://host/db?user=u&password=***&x=1'],
  ['postgresql://host/db?sslpassword=secret', 'postgresql://host/db?sslpassword=***'],
  ['mongodb://user:secret@a:1,b:2/?replicaSet=rs0', 'mongodb://user:***@a:1,b:2/?replicaSet=rs0'],
  ['postgresql://user@host:5432/db', 'postgresql://user@host:5432/db'],
  ['postgresql://host:5432/db', 'postgresql://host:5432/db'],
  ['mongodb://127.0.0.1:27017/?directConnection=true', 'mongodb://127.0.0.1:27017/?directConnection=true'],
])('a URL is shown without its password: %s', (url, shown) => {
  expect(redactUrl(url)).toBe(shown);
});
