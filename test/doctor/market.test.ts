import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { examine, type Report } from '../../src/doctor/examine.ts';
import { SettingsError } from '../../src/errors.ts';
import { startFakeServer } from '../market/fake-server.ts';
import { createMarket, type TestMarket } from '../support/pipeline.ts';
import { findCheck, troublesOf } from './patient.ts';

const examineMarket = (url: string, database = 'market_connect'): Promise<Report> =>
  examine({
    postgres: { missing: 'not in this test', remedy: '', needed: false },
    mongodb: { url },
    mongodbDatabase: database,
    mongodbTimeoutMs: 2_000,
    sourceSchema: 'public',
    slotName: 'none',
    replication: { identify: () => Promise.reject(new Error('not asked')), findCut: () => undefined },
    now: Date.now,
  });

describe('a collection', () => {
  let market: TestMarket;
  beforeAll(async () => {
    market = await createMarket();
  });
  afterAll(() => market.drop());

  const examineIt = () => examineMarket(market.url, market.database);

  test('that is as it must be is well, and one that is not there yet is, too', async () => {
    const report = await examineIt();
    expect(troublesOf(report)).toEqual({});
    expect(findCheck(report, 'listing_indexes').found).toContain('unique on booking_id');
    const none = await examineMarket(market.url, 'nowhere');
    expect(troublesOf(none)).toEqual({});
    expect(findCheck(none, 'listing_indexes').found).toBe('no collection yet: the first start makes it');
  });

  test.runIf(process.env.TEST_MONGODB_URL === undefined)('of the stand-in is called that', async () => {
    expect(findCheck(await examineIt(), 'mongodb_server').found).toContain('stand-in');
  });

  test('with documents of an older system says that a backfill adopts them', async () => {
    const { listings } = market.market;
    await listings.insertMany([{ booking_id: 'old' }, { booking_id: 'older', epoch: null }] as never[]);
    const report = await examineIt();
    expect(troublesOf(report)).toEqual({ listing_guards: 'warning' });
    expect(findCheck(report, 'listing_guards')).toMatchObject({
      found: expect.stringMatching(/^2 documents .* a backfill and the first start adopt them/),
      remedy: 'market-sync backfill\nmarket-sync audit --repair',
    });
    await listings.deleteMany({});
    expect(troublesOf(await examineIt())).toEqual({});
  });

  test('with several documents of a booking says how to find them', async () => {
    const { listings } = market.market;
    await listings.dropIndex('booking_id_1');
    await listings.insertMany([
      { booking_id: 'twice', epoch: 1, revision: 1 },
      { booking_id: 'twice', epoch: 1, revision: 1 },
    ] as never[]);
    const report = await examineIt();
    expect(troublesOf(report)).toEqual({ listing_indexes: 'warning', listing_duplicates: 'failure' });
    expect(findCheck(report, 'listing_indexes').remedy).toContain(
      'createIndex({"booking_id":1}, {unique: true})',
    );
    expect(findCheck(report, 'listing_duplicates')).toMatchObject({
      found: expect.stringMatching(/^1 bookings have several/),
      remedy: expect.stringMatching(/^mongosh "\$MONGODB_URL" --eval '.*\.market_listings\.aggregate\(/),
    });
    await listings.deleteMany({});
    await listings.createIndex({ booking_id: 1 }, { name: 'booking_id_1' });
    const loose = await examineIt();
    expect(troublesOf(loose)).toEqual({ listing_indexes: 'failure' });
    expect(findCheck(loose, 'listing_indexes').remedy).toContain('dropIndex("booking_id_1")');
    await listings.dropIndex('booking_id_1');
    await listings.createIndex({ booking_id: 1 }, { name: 'booking_id_1', unique: true });
    expect(troublesOf(await examineIt())).toEqual({});
  });
});

const SECOND_MS = 1_000;
const NOW = new Date();
const AGO = (seconds: number) => new Date(NOW.getTime() - seconds * SECOND_MS);
const GREETING = { localTime: NOW };
const EMPTY = { cursor: { id: 0, ns: 'market_connect.market_listings', firstBatch: [] } };

/** What a server says, and what is to be said of it. */
const SERVERS: Record<
  string,
  [answers: Record<string, object>, troubles: Record<string, string>, found: RegExp]
> = {
  'an old version': [
    { buildInfo: { version: '4.4.29' } },
    { mongodb_server: 'failure' },
    /4\.4\.29 is too old/,
  ],
  FerretDB: [
    { buildInfo: { version: '7.0.42', ferretdbVersion: 'v1.24.0' } },
    { mongodb_server: 'warning' },
    /FerretDB v1\.24\.0: .*one publisher/,
  ],
  'a secondary': [
    { hello: { ...GREETING, isWritablePrimary: false, secondary: true } },
    { mongodb_role: 'failure' },
    /no primary/,
  ],
  'a set with too few members for a majority': [
    {
      hello: { ...GREETING, setName: 'rs0', hosts: [] },
      replSetGetStatus: {
        writeMajorityCount: 2,
        members: [
          { health: 1, state: 1 },
          { health: 0, state: 8 },
          { health: 1, state: 7 },
        ],
      },
    },
    { mongodb_write_concern: 'failure' },
    /1 members that hold data are well, a majority needs 2/,
  ],
  'a set whose majority is behind, to a login that may not ask its members': [
    {
      hello: {
        ...GREETING,
        setName: 'rs0',
        lastWrite: { lastWriteDate: NOW, majorityWriteDate: AGO(60) },
      },
      replSetGetStatus: { ok: 0, code: 13, errmsg: 'not authorized' },
    },
    { mongodb_write_concern: 'failure' },
    /a majority is 60 s behind the newest write/,
  ],
};

test.each(Object.entries(SERVERS))('of MongoDB it says so: %s', async (_, [answers, troubles, found]) => {
  const hello = { ...GREETING, ...answers.hello };
  const server = await startFakeServer({
    buildInfo: { version: '8.0.0' },
    listIndexes: { ok: 0, code: 26, errmsg: 'ns does not exist' },
    find: EMPTY,
    ...answers,
    hello,
  });
  const report = await examineMarket(`mongodb://127.0.0.1:${server.port}/?directConnection=true`);
  expect(troublesOf(report), JSON.stringify(report.checks)).toEqual(troubles);
  const [name = ''] = Object.keys(troubles);
  expect(findCheck(report, name).found).toMatch(found);
  expect(findCheck(report, name).remedy).toBeTruthy();
  await server.stop();
});

test('what cannot be told without writing is skipped, with the reason', async () => {
  const server = await startFakeServer({
    buildInfo: { version: '8.0.0' },
    hello: { ...GREETING, setName: 'rs0' },
    replSetGetStatus: { ok: 0, code: 13, errmsg: 'not authorized' },
    listIndexes: { ok: 0, code: 13, errmsg: 'not authorized' },
    find: EMPTY,
  });
  const report = await examineMarket(`mongodb://127.0.0.1:${server.port}/?directConnection=true`);
  expect(findCheck(report, 'mongodb_write_concern')).toMatchObject({
    status: 'skipped',
    found: expect.stringContaining('cannot be told'),
  });
  expect(findCheck(report, 'listing_indexes')).toMatchObject({
    status: 'skipped',
    found: expect.stringContaining('not authorized'),
  });
  await server.stop();
});

test('a server that cannot be reached is a line of its own, without the password, and all else of it is skipped', async () => {
  const report = await examineMarket('mongodb://ana:hunter2@127.0.0.1:1/?serverSelectionTimeoutMS=100');
  expect(troublesOf(report)).toEqual({ mongodb_reachable: 'failure' });
  expect(JSON.stringify(report)).not.toContain('hunter2');
  expect(report.checks.filter(({ group }) => group === 'mongodb').map(({ status }) => status)).toEqual([
    'failure',
    ...Array(7).fill('skipped'),
  ]);
});

test('a URL that cannot be read is a setting that is wrong', async () => {
  await expect(examineMarket('mongodb://a:b@c:d')).rejects.toBeInstanceOf(SettingsError);
});
