import { once } from 'node:events';
import { connect, createServer, type Server, type Socket } from 'node:net';
import pg from 'pg';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { until } from './pipeline.ts';
import { createDatabase, type TestDatabase } from './postgres.ts';
import { type FaultProxy, startProxy } from './proxy.ts';

/** A server that keeps what it heard, in the order of arrival, and says it again. */
interface Echo {
  server: Server;
  url: string;
  heard: string[];
  /** Connections that clients have ended. */
  ended: number;
}

async function startEcho(): Promise<Echo> {
  const heard: string[] = [];
  const server = createServer((socket) => {
    socket.on('error', () => undefined);
    socket.on('data', (chunk) => {
      heard.push(chunk.toString());
      socket.write(chunk);
    });
    socket.on('close', () => {
      echo.ended += 1;
    });
  });
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  const address = server.address() as { port: number };
  const echo: Echo = { server, url: `tcp://127.0.0.1:${address.port}`, heard, ended: 0 };
  return echo;
}

interface Client {
  socket: Socket;
  /** Everything that came back. */
  said(): string;
  send(text: string): void;
}

describe('a proxy before a server that echoes', () => {
  let echo: Echo;
  let proxy: FaultProxy;
  const sockets: Socket[] = [];

  beforeEach(async () => {
    echo = await startEcho();
    proxy = await startProxy(echo.url);
  });

  afterEach(async () => {
    for (const socket of sockets.splice(0)) socket.destroy();
    await proxy.stop();
    echo.server.close();
    await once(echo.server, 'close');
  });

  const open = async (): Promise<Client> => {
    const socket = connect(Number(new URL(proxy.url).port), '127.0.0.1');
    sockets.push(socket);
    let said = '';
    socket.on('error', () => undefined);
    socket.on('data', (chunk) => {
      said += chunk.toString();
    });
    await once(socket, 'connect');
    return { socket, said: () => said, send: (text) => void socket.write(text) };
  };

  const expectPasses = async (text = 'passes'): Promise<void> => {
    const client = await open();
    client.send(text);
    await until('the echo is back', () => client.said() === text);
  };

  test('refuse ends connections and refuses new ones; heal passes again on the same port', async () => {
    const client = await open();
    client.send('before');
    await until('it passes', () => client.said() === 'before');
    await proxy.refuse();
    await until('the connection has ended', () => client.socket.closed);
    await expect(open()).rejects.toMatchObject({ code: 'ECONNREFUSED' });
    await proxy.heal();
    await expectPasses();
  });

  test('hang passes nothing on, not even an end, and what it swallowed stays lost', async () => {
    const [old, leaving] = [await open(), await open()];
    old.send('before');
    leaving.send('!');
    await until('they pass', () => old.said() === 'before' && leaving.said() === '!');
    proxy.hang();
    old.send('lost');
    const young = await open();
    young.send('lost too');
    leaving.socket.destroy();
    await until('all is sent', () => leaving.socket.closed && old.socket.bytesWritten === 10);
    // Whatever the proxy swallows it has read before it answers to a connection made later.
    await open();
    expect(echo).toMatchObject({ heard: ['before', '!'], ended: 0 });
    expect([old.socket.closed, young.socket.closed]).toEqual([false, false]);
    await proxy.heal();
    await until('all have ended', () => old.socket.closed && young.socket.closed && echo.ended >= 3);
    await expectPasses();
    expect(echo.heard).toEqual(['before', '!', 'passes']);
  });

  test('hold delivers late and in order, on the connections that were and on new ones', async () => {
    const old = await open();
    let arrived = 0;
    proxy.onRequest = () => {
      arrived += 1;
    };
    proxy.hold();
    const young = await open();
    for (const [index, client] of [old, young, old, young].entries()) {
      client.send(String(index + 1));
      await until('the proxy has it', () => arrived === index + 1);
    }
    expect(echo.heard).toEqual([]);
    await proxy.release();
    await until('both are answered', () => old.said() === '13' && young.said() === '24');
    old.send('5');
    await until('connections stay', () => old.said() === '135');
  });

  test('hold in onRequest holds that very chunk, and delivers it though its client is gone for long', async () => {
    const client = await open();
    let arrived = false;
    proxy.onRequest = () => {
      proxy.hold();
      arrived = true;
    };
    client.send('late');
    await until('the proxy has it', () => arrived);
    client.socket.resetAndDestroy();
    await until('the client is gone', () => client.socket.closed);
    expect(echo).toMatchObject({ heard: [], ended: 0 });
    await proxy.release();
    await until('it arrives, and then the end', () => echo.ended === 1);
    expect(echo.heard).toEqual(['late']);
  });

  test('a reply that is cut resets the client after the server has heard it; one swallowed tells nobody', async () => {
    const [cut, swallowed] = [await open(), await open()];
    proxy.onReply = (chunk) => (chunk.toString() === 'cut' ? 'cut' : 'swallow');
    let error: Error & { code?: string } = new Error('none');
    cut.socket.on('error', (found) => {
      error = found;
    });
    swallowed.send('swallow');
    await until('the server has heard it', () => echo.heard.length === 1);
    cut.send('cut');
    await until('the connection has ended', () => cut.socket.closed);
    expect(error.code).toBe('ECONNRESET');
    expect(echo.heard).toEqual(['swallow', 'cut']);
    expect([swallowed.said(), swallowed.socket.closed]).toEqual(['', false]);
  });

  test('slow passes pieces with a delay before each, in both directions, and delivers all of them before an end', async () => {
    const [DELAY_MS, PIECE_BYTES] = [20, 4];
    const client = await open();
    proxy.slow(DELAY_MS, PIECE_BYTES);
    const startedAt = performance.now();
    client.send('0123456789');
    client.socket.end();
    await until('the end has come', () => client.socket.closed);
    expect(client.said()).toBe('0123456789');
    // Three pieces there, and the last of them back again.
    expect(performance.now() - startedAt).toBeGreaterThan(4 * DELAY_MS * 0.9);
    proxy.slow(0);
    await expectPasses();
  });

  test('flap dies and returns at each third request, as often as it is told to, and then stays', async () => {
    const [DEATHS, REQUESTS_BETWEEN] = [3, 2];
    let flaps = true;
    const flapping = proxy.flap(DEATHS, REQUESTS_BETWEEN).then(() => {
      flaps = false;
    });
    let [answered, lost] = [0, 0];
    while (flaps) {
      const client = await open().catch(() => undefined);
      if (client === undefined) continue; // It is just about to return.
      for (let sent = 1; !client.socket.closed && flaps; sent += 1) {
        client.send('.');
        await until('an answer or the end', () => client.said().length === sent || client.socket.closed);
        if (client.said().length === sent) answered += 1;
        else lost += 1;
      }
    }
    await flapping;
    expect({ answered, lost }).toEqual({ answered: DEATHS * REQUESTS_BETWEEN, lost: DEATHS });
    for (let request = 0; request < 5; request += 1) await expectPasses();
  });
});

describe('a proxy before PostgreSQL', () => {
  let database: TestDatabase;
  let proxy: FaultProxy;
  let client: pg.Client;

  beforeEach(async () => {
    database = await createDatabase({ template: 'empty' });
    proxy = await startProxy(database.url);
    client = new pg.Client({ connectionString: proxy.url });
    client.on('error', () => undefined);
    await client.connect();
    await client.query('create table written (value int)');
  });

  afterEach(async () => {
    await proxy.stop();
    await client.end().catch(() => undefined);
    await database.drop();
  });

  const written = async (): Promise<number[]> =>
    (await database.pool.query<{ value: number }>('select value from written order by value')).rows.map(
      (row) => row.value,
    );

  test('a write whose reply is cut has taken effect, and its client is told that the connection was lost', async () => {
    proxy.onReply = () => 'cut';
    await expect(client.query('insert into written values (1)')).rejects.toThrow();
    expect(await written()).toEqual([1]);
  });

  test('a write that was held takes effect after one that was sent later on another way', async () => {
    proxy.hold();
    const late = client.query('insert into written select count(*) from written');
    await database.pool.query('insert into written values (7)');
    await proxy.release();
    await late;
    expect(await written()).toEqual([1, 7]);
  });
});
