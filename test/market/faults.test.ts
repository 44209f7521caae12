import { ObjectId } from 'mongodb';
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test } from 'vitest';
import { connectMarket, ensureListingIndexes, type Market } from '../../src/mongo.ts';
import { startMarket } from '../../src/embedded/market/server.ts';
import { createLogger } from '../../src/log.ts';
import { countListings, deleteListings, writeListings } from '../../src/store/listings.ts';
import { startCluster } from '../support/cluster.ts';
import { until } from '../support/pipeline.ts';
import { type FaultProxy, startProxy } from '../support/proxy.ts';
import { makeListing } from './factories.ts';
import { startFakeServer } from './fake-server.ts';
import { openMarket, type StandIn, startStandIn } from './targets.ts';

const batch = (count: number, revision: number, ids: (string | null)[] = []) =>
  Array.from({ length: count }, (_, index) => ({
    listing: makeListing({ booking_id: `b${index}`, revision }),
    listingId: ids[index] ?? null,
  }));

describe('a server that refuses a whole command', () => {
  test.each([
    [189, 'retryable'], // PrimarySteppedDown
    [10107, 'retryable'], // NotWritablePrimary
    [13, 'fatal'],
  ] as const)(
    'row 6, I2: with code %i: nothing counts as written, every booking is %s',
    async (code, kind) => {
      const refused = { ok: 0, code, errmsg: 'refused' };
      const server = await startFakeServer({
        buildInfo: { version: '7.0.0' },
        insert: refused,
        update: refused,
        delete: refused,
      });
      const url = `mongodb://127.0.0.1:${server.port}/?directConnection=true`;
      const market = await connectMarket({ url, database: 'market_connect', timeoutMs: 2_000 });
      const known = new ObjectId().toHexString();
      for (const ids of [[], [known, known], [known, null]]) {
        expect(await writeListings(market, batch(2, 1, ids))).toMatchObject(
          Array(2).fill({ result: 'failed', kind }),
        );
      }
      const versions = [{ bookingId: 'b0', epoch: 1, revision: 1 }];
      expect(await deleteListings(market, versions)).toMatchObject([{ result: 'failed', kind }]);
      await market.close();
      await server.stop();
    },
  );

  test('row 6, I2: when the updates went through and the server stepped down before the inserts, only the updates count', async () => {
    const server = await startFakeServer({
      buildInfo: { version: '7.0.0' },
      update: { n: 1, nModified: 1 },
      insert: { ok: 0, code: 189, errmsg: 'stepped down' },
    });
    const url = `mongodb://127.0.0.1:${server.port}/?directConnection=true`;
    const market = await connectMarket({ url, database: 'market_connect', timeoutMs: 2_000 });
    const outcomes = await writeListings(market, batch(2, 1, [new ObjectId().toHexString(), null]));
    expect(outcomes[1]).toMatchObject({ result: 'failed', kind: 'retryable' });
    await market.close();
    await server.stop();
  });

  test('I2: what no majority has confirmed is retryable', async () => {
    const server = await startFakeServer({
      buildInfo: { version: '7.0.0' },
      insert: { n: 2, writeConcernError: { code: 64, errmsg: 'waiting for replication timed out' } },
    });
    const url = `mongodb://127.0.0.1:${server.port}/?directConnection=true`;
    const market = await connectMarket({ url, database: 'market_connect', timeoutMs: 2_000 });
    expect(await writeListings(market, batch(2, 1))).toMatchObject(
      Array(2).fill({ result: 'failed', kind: 'retryable' }),
    );
    await market.close();
    await server.stop();
  });
});

describe('a connection that fails', () => {
  const TIMEOUT_MS = 500;
  let standIn: StandIn;
  let direct: Market & { database: string };
  let proxy: FaultProxy;
  let sent: string[] = [];
  const requests = (text: string): number => sent.filter((chunk) => chunk.includes(text)).length;

  let market: Market;

  beforeAll(async () => {
    standIn = await startStandIn();
  });
  afterAll(() => standIn.stop());
  beforeEach(async () => {
    direct = await openMarket(standIn);
    proxy = await startProxy(standIn.url);
    sent = [];
    proxy.onRequest = (chunk) => sent.push(chunk.toString('latin1'));
    market = await connectMarket({ url: proxy.url, database: direct.database, timeoutMs: TIMEOUT_MS });
  });
  afterEach(async () => {
    await market.close();
    await proxy.stop();
    await direct.close();
  });

  test.each([
    ['the reply to the inserts is lost', 'insert', 'cut'],
    ['the reply to the updates is lost', 'update', 'cut'],
    ['the server hangs after the inserts', 'insert', 'swallow'],
    ['the server hangs after the updates', 'update', 'swallow'],
  ] as const)(
    'row 6, I2: when %s, no booking counts as written, and a retry finds them all',
    async (_name, kind, fate) => {
      const ids = kind === 'insert' ? [] : await writeIds(direct, 20);
      const before = requests(kind);
      proxy.onReply = () => (requests(`${kind}\0`) > 0 ? fate : 'forward');
      const outcomes = await writeListings(market, batch(20, 2, ids));
      expect(requests(kind)).toBeGreaterThan(before);
      expect(outcomes.map((outcome) => outcome.result === 'failed' && outcome.kind)).toEqual(
        Array(20).fill('retryable'),
      );
      expect(await direct.listings.countDocuments({ revision: 2 })).toBe(20);

      proxy.onReply = () => 'forward';
      // The driver may still be looking for the server: it looks twice a second, and TIMEOUT_MS is no longer.
      await until('a retry finds them all', async () =>
        (await writeListings(market, batch(20, 2, ids))).every(({ result }) => result === 'written'),
      );
      expect(await countListings(direct)).toBe(20);
    },
  );

  test('I2: a delete whose reply is lost is retryable', async () => {
    await writeIds(direct, 3);
    proxy.onReply = () => (requests('delete\0') > 0 ? 'cut' : 'forward');
    const versions = [0, 1, 2].map((index) => ({ bookingId: `b${index}`, epoch: 1, revision: 1 }));
    expect(await deleteListings(market, versions)).toMatchObject(
      Array(3).fill({ result: 'failed', kind: 'retryable' }),
    );
    expect(await countListings(direct)).toBe(0);
  });

  test('while the server is away every booking is retryable, and the same client goes on when it is back', async () => {
    await standIn.restart();
    expect((await writeListings(direct, batch(3, 1))).map(({ result }) => result)).toEqual(
      Array(3).fill('written'),
    );
    await proxy.refuse();
    const startedAt = performance.now();
    const outcomes = await writeListings(market, batch(3, 2));
    expect(outcomes).toMatchObject(Array(3).fill({ result: 'failed', kind: 'retryable' }));
    expect(performance.now() - startedAt).toBeLessThan(10 * TIMEOUT_MS);
    await proxy.heal();
    await until('they are written', async () =>
      (await writeListings(market, batch(3, 2))).every(({ result }) => result === 'written'),
    );
  });
});

async function writeIds(market: Market, count: number): Promise<(string | null)[]> {
  const outcomes = await writeListings(market, batch(count, 1));
  return outcomes.map((outcome) => (outcome.result === 'failed' ? null : outcome.listingId));
}

test('I2: what the stand-in acknowledged is there after kill -9 of its PostgreSQL', async () => {
  const cluster = await startCluster();
  const log = createLogger('silent');
  const server = await startMarket({ databaseUrl: cluster.url(), host: '127.0.0.1', port: 0, log });
  const market = await connectMarket({ url: server.url, database: 'market_connect', timeoutMs: 10_000 });
  await ensureListingIndexes(market);

  const acknowledged: number[] = [];
  let kinds: unknown[] = [];
  for (let revision = 1; kinds.length === 0; revision += 1) {
    const outcomes = writeListings(market, batch(20, revision));
    if (revision === 10) await cluster.kill('SIGKILL');
    const failed = (await outcomes).filter((outcome) => outcome.result === 'failed');
    if (failed.length === 0) acknowledged.push(revision);
    kinds = failed.map((outcome) => outcome.kind);
  }
  expect(new Set(kinds)).toEqual(new Set(['retryable']));

  await cluster.start();
  const newest = acknowledged.at(-1) ?? 0;
  expect(newest).toBeGreaterThanOrEqual(9);
  expect(await market.listings.countDocuments({ revision: { $gte: newest } })).toBe(20);
  expect((await writeListings(market, batch(20, 99))).map(({ result }) => result)).toEqual(
    Array(20).fill('written'),
  );
  await market.close();
  await server.stop();
  await cluster.stop();
});
