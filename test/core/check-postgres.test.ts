import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { EnvironmentError } from '../../src/errors.ts';
import { checkPostgres, createPool, query } from '../../src/postgres.ts';
import { startCluster } from '../support/cluster.ts';
import { testLog } from '../support/pipeline.ts';
import { createDatabase, type TestDatabase } from '../support/postgres.ts';

const SECRET = 'hunter2-do-not-repeat';

let database: TestDatabase;
let role: string;
beforeAll(async () => {
  database = await createDatabase({ template: 'empty' });
  role = `plain_${database.name}`;
  await query(database.pool, `create role ${role} login password '${SECRET}'`);
});
afterAll(async () => {
  await query(database.pool, `drop role ${role}`);
  await database.drop();
});

async function check(url: string, logical: boolean): Promise<void> {
  const pool = createPool({ url, applicationName: 'check', sourceSchema: 'public', log: testLog() });
  try {
    await checkPostgres(pool, url, { logical });
  } finally {
    await pool.end();
  }
}

async function refusal(url: string, logical = true): Promise<string> {
  const error = await check(url, logical).then(
    () => new Error('it was accepted'),
    (reason: unknown) => reason,
  );
  expect(error).toBeInstanceOf(EnvironmentError);
  const { message } = error as EnvironmentError;
  expect(message).toMatch(/^DATABASE_URL=postgresql:\/\//);
  expect(message).not.toContain('hunter2');
  return message;
}

const withUser = (user: string, password: string): string => {
  const url = new URL(database.url);
  url.username = user;
  url.password = password;
  return url.href;
};

test('a server that has everything is accepted', async () => {
  await check(database.url, true);
});

describe('a server is refused with what was found and what to do, and without the password', () => {
  test('when nobody listens', async () => {
    const message = await refusal(`postgresql://admin:${SECRET}@127.0.0.1:1/guard`);
    expect(message).toContain(
      'DATABASE_URL=postgresql://admin:***@127.0.0.1:1/guard: PostgreSQL cannot be reached',
    );
    expect(message).toContain('ECONNREFUSED');
    expect(message).toContain('Start it, or mend the URL.');
  });

  test('when the host has no address', async () => {
    expect(await refusal(`postgresql://admin:${SECRET}@no-such-host.invalid/guard`)).toContain(
      'no-such-host.invalid',
    );
  });

  test('when the password is wrong', async () => {
    expect(await refusal(withUser(role, `${SECRET}-wrong`))).toContain(
      `password authentication failed for user "${role}"`,
    );
  });

  test('when the database is not there', async () => {
    const url = new URL(withUser(role, SECRET));
    url.pathname = '/nowhere';
    expect(await refusal(url.href)).toContain('database "nowhere" does not exist');
  });

  test('when the URL cannot be read', async () => {
    for (const url of [
      `postgresql://admin:${SECRET}/x@[`,
      `postgresql://admin:${SECRET}%zz@127.0.0.1:1/guard`,
    ]) {
      await refusal(url);
    }
  });

  test('when the role may not replicate', async () => {
    const url = withUser(role, SECRET);
    expect(await refusal(url)).toContain(
      `the role ${role} may not replicate. Run "alter role ${role} with replication" as a superuser.`,
    );
    await check(url, false); // The API needs no replication.
    await query(database.pool, `alter role ${role} with replication`);
    await check(url, true);
  });

  test('when wal_level is not logical', async () => {
    const cluster = await startCluster({ fsync: false, parameters: { wal_level: 'replica' } });
    try {
      const message = await refusal(cluster.url());
      expect(message).toContain('wal_level is replica, it must be logical.');
      expect(message).toContain(`Run "alter system set wal_level = 'logical'" and restart PostgreSQL.`);
      await check(cluster.url(), false);
    } finally {
      await cluster.stop();
    }
  });
});
