import { afterAll, beforeAll, expect, test } from 'vitest';
import { judgeClocks } from '../../src/doctor/clocks.ts';
import { judgeBackends, judgeTls } from '../../src/doctor/connection.ts';
import { createDatabase, type TestDatabase } from '../support/postgres.ts';
import { startProxy } from '../support/proxy.ts';
import { examineDatabase, findCheck } from './patient.ts';

let database: TestDatabase;
beforeAll(async () => {
  database = await createDatabase();
});
afterAll(() => database.drop());

test('a pooler that passes no replication on is found by its refusal', async () => {
  const proxy = await startProxy(database.url);
  // The parameter of the start that asks for replication, as a pooler that does not know it would answer.
  proxy.onRequest = (chunk) => {
    const at = chunk.indexOf('replication\0database');
    if (at >= 0) chunk.write('xeplication', at);
  };
  const report = await examineDatabase(proxy.url);
  expect(report.exit_code).toBe(2);
  expect(findCheck(report, 'replication_connection')).toMatchObject({
    status: 'failure',
    found: expect.stringContaining('pgbouncer'),
    remedy: expect.stringContaining('past pgbouncer'),
  });
  await proxy.stop();
});

test('a pooler is found by the process id that it announces in the place of the server', async () => {
  const proxy = await startProxy(database.url);
  // BackendKeyData: its kind, its length, the process id.
  const key = Buffer.from([0x4b, 0, 0, 0, 12]);
  proxy.onReply = (chunk) => {
    const at = chunk.indexOf(key);
    if (at >= 0) chunk.writeInt32BE(7, at + key.length);
    return 'forward';
  };
  const found = findCheck(await examineDatabase(proxy.url), 'direct_connection');
  expect(found).toMatchObject({ status: 'warning', found: expect.stringContaining('pgbouncer') });
  proxy.onReply = () => 'forward';
  expect(findCheck(await examineDatabase(proxy.url), 'direct_connection').status).toBe('ok');
  await proxy.stop();
});

test('connections that share processes, or change them, are pooled by transaction', () => {
  const own = [
    { announced: 1, answering: [1, 1] },
    { announced: 2, answering: [2, 2] },
  ];
  expect(judgeBackends(own).status).toBe('ok');
  const changing = [
    { announced: 1, answering: [8, 9] },
    { announced: 2, answering: [7, 7] },
  ];
  expect(judgeBackends(changing)).toMatchObject({ status: 'failure' });
  const shared = [
    { announced: 1, answering: [8, 8] },
    { announced: 2, answering: [8, 8] },
  ];
  expect(judgeBackends(shared)).toMatchObject({ status: 'failure' });
});

test('a connection without TLS is a warning unless it stays on this machine', () => {
  const judge = (local: boolean, encrypted: boolean) =>
    judgeTls({ local, encrypted, setting: 'DATABASE_URL', parameter: '?sslmode=verify-full' });
  expect(judge(true, false).status).toBe('ok');
  expect(judge(false, true).status).toBe('ok');
  expect(judge(false, false)).toMatchObject({
    status: 'warning',
    remedy: `export DATABASE_URL='…?sslmode=verify-full'`,
  });
});

test("clocks are compared with each other, MongoDB's too, and what is not known is left out", () => {
  const judge = (postgresMs?: number, marketMs?: number) =>
    judgeClocks({ postgresMs, marketMs }, { clockSkewMs: 5_000 });
  expect(judge().status).toBe('skipped');
  expect(judge(4_000, -900).status).toBe('ok');
  expect(judge(4_000, -1_100)).toMatchObject({
    status: 'warning',
    found: expect.stringMatching(/^PostgreSQL is 5\.1 s ahead of MongoDB/),
  });
  expect(judge(undefined, 9_000).found).toMatch(/^MongoDB is 9\.0 s ahead of this machine/);
});
