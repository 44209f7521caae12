import { once } from 'node:events';
import { createServer } from 'node:net';
import { BSON, MongoBulkWriteError, MongoNetworkError, MongoServerError } from 'mongodb';
import { describe, expect, test } from 'vitest';
import { describeError, EnvironmentError, SettingsError } from '../../src/errors.ts';
import { classifyMarketError, connectMarket } from '../../src/mongo.ts';
import { startFakeServer } from './fake-server.ts';

const SECRET = 'pa55word';

const connect = (url: string, timeoutMs = 500) =>
  connectMarket({ url, database: 'market_connect', timeoutMs });

async function refusal(url: string, timeoutMs?: number): Promise<Error> {
  const error = await connect(url, timeoutMs).then(
    async (market) => {
      await market.close();
      return undefined;
    },
    (thrown: unknown) => thrown,
  );
  if (!(error instanceof Error)) throw new Error('the connection was not refused');
  expect(`${describeError(error)} ${error.stack}`).not.toContain(SECRET);
  expect(error.message).toContain('MONGODB_URL');
  return error;
}

describe('connecting', () => {
  test('an unreachable server is named with its address, never with the password', async () => {
    const gone = await startFakeServer({});
    await gone.stop();
    const { port } = gone;
    const error = await refusal(`mongodb://user:${SECRET}@127.0.0.1:${port}/`);
    expect(error).toBeInstanceOf(EnvironmentError);
    expect(error.message).toContain(`127.0.0.1:${port}`);
    expect(error.message).toContain('Start it, or mend the URL');
  });

  test.each([
    `mongodb://user:${SECRET}@`,
    `mongodb://user:${SECRET}/x@host/`,
    `mongodb://user:${SECRET}@host:99999/`,
    `mongodb+srv://user:${SECRET}@host.example.com:27017/`,
    `mongodb://user:${SECRET}@host/?w=majority&tls=maybe`,
    `mongodb://user:${SECRET}@host/?noSuchOption=1`,
  ])('a URL that the driver cannot read is a wrong setting, not repeated: %#', async (url) => {
    expect(await refusal(url)).toBeInstanceOf(SettingsError);
  });

  test.each([
    ['too old by its version', { buildInfo: { version: '4.4.29' } }, /4\.4\.29, which is too old/],
    ['too old for the driver', { hello: { maxWireVersion: 6 } }, /maximum wire version 6/],
    [
      'a secondary',
      { hello: { isWritablePrimary: false, secondary: true }, buildInfo: { version: '7.0.0' } },
      /not a primary/,
    ],
  ])('a server that is %s is refused with the reason', async (_name, answers, reason) => {
    const server = await startFakeServer(answers);
    const error = await refusal(`mongodb://127.0.0.1:${server.port}/?directConnection=true`);
    expect(error).toBeInstanceOf(EnvironmentError);
    expect(error.message).toMatch(reason);
    await server.stop();
  });

  test('a server that refuses the credentials is named as such', async () => {
    const server = await startFakeServer({
      saslStart: { ok: 0, code: 18, codeName: 'AuthenticationFailed', errmsg: 'Authentication failed.' },
    });
    const error = await refusal(`mongodb://user:${SECRET}@127.0.0.1:${server.port}/?directConnection=true`);
    expect(error).toBeInstanceOf(EnvironmentError);
    expect(error.message).toContain('refuses the credentials');
    await server.stop();
  });

  test('a server that accepts and never answers is given up after the timeout', async () => {
    const server = createServer((socket) => socket.on('error', () => undefined));
    server.listen(0, '127.0.0.1');
    await once(server, 'listening');
    const { port } = server.address() as { port: number };
    const startedAt = performance.now();
    expect(await refusal(`mongodb://127.0.0.1:${port}/`, 300)).toBeInstanceOf(EnvironmentError);
    expect(performance.now() - startedAt).toBeLessThan(5_000);
    server.close();
  });
});

describe('classifying errors', () => {
  const serverError = (code: number, errorLabels: string[] = []) =>
    new MongoServerError({ message: 'text decides nothing: network timeout', code, errorLabels });

  test.each([
    [6, 'retryable'],
    [50, 'retryable'],
    [64, 'retryable'],
    [91, 'retryable'],
    [189, 'retryable'],
    [10_107, 'retryable'],
    [11_602, 'retryable'],
    [13_435, 'retryable'],
    [2, 'poison'],
    [121, 'poison'],
    [10_334, 'poison'],
    [17_280, 'poison'],
    [13, 'fatal'],
    [18, 'fatal'],
    [20, 'fatal'],
    [424_242, 'fatal'],
  ])('code %i is %s', (code, kind) => {
    expect(classifyMarketError(serverError(code))).toBe(kind);
    expect(classifyMarketError({ code })).toBe(kind);
  });

  test('a label says retryable whatever the code', () => {
    expect(classifyMarketError(serverError(424_242, ['RetryableWriteError']))).toBe('retryable');
    expect(classifyMarketError(serverError(424_242, ['SomethingElse']))).toBe('fatal');
  });

  test('what stopped a bulk write is found inside the error that the driver makes of it', () => {
    const bulk = (cause: Error) => new MongoBulkWriteError(cause, {} as never);
    expect(classifyMarketError(bulk(new MongoNetworkError('connection closed')))).toBe('retryable');
    expect(classifyMarketError(bulk(serverError(18)))).toBe('fatal');
  });

  test('what BSON cannot hold is poison, and everything unknown is fatal', () => {
    const unstorable = () => BSON.serialize({ 'a\0b': 1 });
    expect(unstorable).toThrow();
    try {
      unstorable();
    } catch (error) {
      expect(classifyMarketError(error)).toBe('poison');
    }
    for (const unknown of [
      new Error('connection timed out'),
      undefined,
      null,
      'ECONNREFUSED',
      new TypeError('x'),
    ]) {
      expect(classifyMarketError(unknown)).toBe('fatal');
    }
  });
});
