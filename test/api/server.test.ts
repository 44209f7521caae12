import { once } from 'node:events';
import { Agent, get } from 'node:http';
import { connect } from 'node:net';
import { afterAll, afterEach, beforeAll, expect, test } from 'vitest';
import { PROBLEM_TYPE, problemSchema } from '../../src/api/problem.ts';
import { type RunningApi, startApi } from '../../src/api/server.ts';
import { EnvironmentError } from '../../src/errors.ts';
import { until } from '../support/pipeline.ts';
import { createTestApi, insertSnapshot, type TestApi } from './setup.ts';

let api: TestApi;
const running: RunningApi[] = [];
beforeAll(async () => {
  api = await createTestApi();
});
afterEach(async () => {
  for (const server of running.splice(0)) await server.stop();
});
afterAll(() => api.drop());

const HOST = '127.0.0.1';
async function start(): Promise<RunningApi> {
  const server = await startApi(api.ctx, { host: HOST, port: 0 });
  running.push(server);
  return server;
}

const portOf = (server: RunningApi): number => Number(new URL(server.url).port);

/** Sends bytes as they are and answers everything that comes back until the server closes the connection. */
async function send(server: RunningApi, bytes: string | Buffer): Promise<{ status: number; body: string }> {
  const socket = connect(portOf(server), HOST);
  const chunks: Buffer[] = [];
  socket.on('data', (chunk) => chunks.push(chunk));
  socket.on('error', () => undefined); // The answer counts, not that the server hangs up while we still write.
  socket.write(bytes);
  await once(socket, 'close');
  const [head = '', body = ''] = Buffer.concat(chunks).toString('latin1').split('\r\n\r\n', 2);
  if (head !== '' && !head.startsWith('HTTP/1.1 200')) expect(head.toLowerCase()).toContain(PROBLEM_TYPE);
  return { status: Number(head.split(' ')[1]), body };
}

test.each([
  ['no HTTP at all', 'hello\r\n\r\n', 400],
  ['an unknown method', 'BREW / HTTP/1.1\r\nHost: localhost\r\n\r\n', 400],
  ['no Host', 'GET /healthz HTTP/1.1\r\nConnection: close\r\n\r\n', 400],
  ['a Host that is none', 'GET /healthz HTTP/1.1\r\nHost: a b\r\nConnection: close\r\n\r\n', 400],
  [
    'a Host that is a number beyond any address',
    'POST /pipeline/resume HTTP/1.1\r\nHost: 99999999999999\r\nConnection: close\r\n\r\n',
    400,
  ],
  ['a Host with a user', 'GET /healthz HTTP/1.1\r\nHost: x@localhost\r\nConnection: close\r\n\r\n', 400],
  [
    'a target of another host',
    'GET http://evil/healthz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n',
    421,
  ],
  ['a target that is no URL', 'OPTIONS * HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n', 400],
  ['NUL in the target', 'GET /\0 HTTP/1.1\r\nHost: localhost\r\n\r\n', 400],
  [
    'raw bytes in the target',
    Buffer.from('GET /\xff\xfe HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n', 'latin1'),
    400,
  ],
  ['headers of 100 kB', `GET / HTTP/1.1\r\nHost: localhost\r\nX-Big: ${'x'.repeat(100_000)}\r\n\r\n`, 431],
  [
    'a malformed chunk',
    'POST /storage-guard/snapshots/sync-all HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n',
    400,
  ],
  ['TRACE', 'TRACE /healthz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n', 405],
  [
    'two lengths',
    'POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nx',
    400,
  ],
])('%s gets a problem', async (_, bytes, status) => {
  const answer = await send(await start(), bytes);
  expect(answer.status).toBe(status);
  expect(problemSchema.parse(JSON.parse(answer.body)).status).toBe(status);
});

test('an expectation that nobody knows changes nothing about the answer', async () => {
  const head = 'Host: localhost\r\nExpect: nonsense\r\nConnection: close\r\n\r\n';
  const server = await start();
  expect((await send(server, `GET /healthz HTTP/1.1\r\n${head}`)).status).toBe(200);
  expect((await send(server, `GET /nowhere HTTP/1.1\r\n${head}`)).status).toBe(404);
});

test('a body that is announced as too large is refused before it is sent, and the server goes on', async () => {
  const server = await start();
  const answer = await send(
    server,
    'POST /storage-guard/snapshots/sync-all HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Length: 999999999\r\n\r\n',
  );
  expect(answer.status).toBe(413);
  expect((await fetch(`${server.url}/healthz`)).status).toBe(200);
});

test('a client that goes away in the middle of its body leaves no error behind', async () => {
  const server = await start();
  const socket = connect(portOf(server), HOST);
  socket.write(
    'POST /storage-guard/snapshots/sync-all HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100\r\n\r\n{',
  );
  await once(socket, 'connect');
  socket.destroy();
  expect((await fetch(`${server.url}/healthz`)).status).toBe(200);
});

test('a port in use is an EnvironmentError that names PORT and what to do', async () => {
  const port = portOf(await start());
  const error: unknown = await startApi(api.ctx, { host: HOST, port }).catch((thrown: unknown) => thrown);
  expect(error).toBeInstanceOf(EnvironmentError);
  expect(String(error)).toContain(
    `PORT=${port}: another program listens on 127.0.0.1:${port} already. Stop it`,
  );
});

test('an address that this machine does not have is an EnvironmentError that names HOST', async () => {
  const error: unknown = await startApi(api.ctx, { host: '192.0.2.1', port: 0 }).catch(
    (thrown: unknown) => thrown,
  );
  expect(error).toBeInstanceOf(EnvironmentError);
  expect(String(error)).toContain('HOST=192.0.2.1');
});

test('stop refuses new connections, finishes the request under way, and waits no longer', async () => {
  const server = await start();
  const { bookingId } = await insertSnapshot(api.database.pool);
  const holder = await api.database.pool.connect();
  await holder.query('begin; lock table market_inventory_snapshots in access exclusive mode');
  const url = `${server.url}/storage-guard/snapshots/${bookingId}`;
  const underWay = fetch(url);
  await until('the request waits', async () => {
    const waiting = `select from pg_stat_activity where wait_event_type = 'Lock' and datname = current_database()`;
    return (await api.database.pool.query(waiting)).rowCount === 1;
  });
  const stopped = server.stop();
  await expect(fetch(`${server.url}/healthz`)).rejects.toThrow();
  await holder.query('rollback');
  holder.release();
  expect((await underWay).status).toBe(200);
  const answeredAt = performance.now();
  await stopped;
  expect(performance.now() - answeredAt).toBeLessThan(1_000);
  running.length = 0;
});

test('stop does not wait for connections that a client keeps alive', async () => {
  const server = await start();
  const agent = new Agent({ keepAlive: true });
  const [response] = await once(get(`${server.url}/healthz`, { agent }), 'response');
  response.resume();
  await once(response, 'end');
  const startedAt = performance.now();
  await server.stop();
  running.length = 0;
  expect(performance.now() - startedAt).toBeLessThan(1_000);
  agent.destroy();
});
