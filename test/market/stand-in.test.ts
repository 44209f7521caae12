import { once } from 'node:events';
import { connect } from 'node:net';
import { BSONRegExp, type Collection, type Document, MongoClient, ObjectId } from 'mongodb';
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test } from 'vitest';
import { decode, encode } from '../../src/embedded/market/bson.ts';
import { startMarket } from '../../src/embedded/market/server.ts';
import { EnvironmentError } from '../../src/errors.ts';
import { createLogger } from '../../src/log.ts';
import { type StandIn, startStandIn } from './targets.ts';

let standIn: StandIn;
let client: MongoClient;
let collection: Collection<Document>;

beforeAll(async () => {
  standIn = await startStandIn();
});
afterAll(() => standIn.stop());
beforeEach(() => {
  client = new MongoClient(standIn.url);
  collection = client.db(`test_${new ObjectId().toHexString()}`).collection('things');
});
afterEach(async () => {
  await collection.db.dropDatabase();
  await client.close();
});

const all = () => collection.find({}, { sort: { _id: 1 } }).toArray();

describe('what it keeps', () => {
  test('documents and unique indexes are there after a restart', async () => {
    await collection.createIndex({ key: 1 }, { unique: true });
    await collection.insertMany([
      { _id: 1 as never, key: 'a' },
      { _id: 2 as never, key: 'b' },
    ]);
    await standIn.restart();
    expect(await all()).toEqual([
      { _id: 1, key: 'a' },
      { _id: 2, key: 'b' },
    ]);
    await expect(collection.insertOne({ key: 'a' })).rejects.toMatchObject({
      code: 11_000,
      keyPattern: { key: 1 },
      keyValue: { key: 'a' },
    });
  });

  test('what a unique index tells of a filter is what the documents tell', async () => {
    const ids = Array.from({ length: 4 }, (_, n) => `0000000${n}-0000-4000-8000-000000000000`);
    const long = 'x'.repeat(1_000);
    const keys = [
      ...ids,
      `${ids[1]}!`,
      `${ids[2]}"`,
      long,
      '',
      17,
      true,
      { a: 1 },
      new ObjectId(),
      new Date(0),
    ];
    await collection.insertMany([...keys.map((key) => ({ key, n: 1 })), { n: 1 }]);
    const id = /^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$/;
    const filters: Document[] = [
      { key: { $not: id } },
      { key: id },
      { key: { $gt: ids[0], $lte: ids[2] } },
      { key: { $lte: ids[1] } },
      { key: { $gt: ids[1], $lte: ids[3] } },
      { key: { $gte: '' } },
      { key: { $ne: ids[0] } },
      { key: { $exists: false } },
      { key: { $type: 'string' } },
      { key: { $gt: 5 } },
    ];
    const ask = (): Promise<string[][]> =>
      Promise.all(
        filters.map(async (filter) =>
          (await collection.find(filter).toArray()).map(({ _id }) => String(_id)).toSorted(),
        ),
      );
    const read = await ask();
    expect(read.map((found) => found.length)).toEqual([10, 4, 3, 3, 4, 8, 13, 1, 8, 1]);
    await collection.createIndex({ key: 1 }, { unique: true });
    expect(await ask()).toEqual(read);
  });

  test('a collection may have any name', async () => {
    for (const name of [`it's`, 'back\\slash', '$1', '"; --', 'ä \u{1f33e}']) {
      const named = collection.db.collection(name);
      await named.insertOne({ name });
      expect(await named.countDocuments({ name })).toBe(1);
    }
  });

  test('databases and collections are listed, dropped, and do not mix', async () => {
    await collection.insertOne({ a: 1 });
    const other = collection.db.collection('others');
    await other.insertOne({ a: 2 });
    const names = (await collection.db.listCollections().toArray()).map(({ name }) => name);
    expect(names.sort()).toEqual(['others', 'things']);
    const { databases } = await client.db('admin').admin().listDatabases();
    expect(databases.map(({ name }) => name)).toContain(collection.dbName);
    await collection.drop();
    expect(await collection.countDocuments()).toBe(0);
    expect(await other.countDocuments()).toBe(1);
  });

  test('an index that is dropped no longer constrains', async () => {
    await collection.createIndex({ key: 1 }, { unique: true, name: 'key_1' });
    await collection.insertOne({ key: 'a' });
    await collection.dropIndex('key_1');
    await collection.insertOne({ key: 'a' });
    expect(await collection.countDocuments({ key: 'a' })).toBe(2);
    await expect(collection.createIndex({ key: 1 }, { unique: true })).rejects.toMatchObject({
      code: 11_000,
    });
    expect((await collection.indexes()).map(({ name }) => name)).toEqual(['_id_']);
  });
});

describe('writes', () => {
  test('an ordered bulk stops at its first error, an unordered one goes on, both name the place', async () => {
    const operations = [{ _id: 1 }, { _id: 1 }, { _id: 2 }, { _id: 2 }, { _id: 3 }].map((document) => ({
      insertOne: { document: document as never },
    }));
    const failure = (ordered: boolean) =>
      collection
        .bulkWrite(operations, { ordered })
        .catch((error) => [error.code, ...error.writeErrors.map(({ index }: { index: number }) => index)]);
    expect(await failure(true)).toEqual([11_000, 1]);
    expect(await all()).toEqual([{ _id: 1 }]);
    await collection.deleteMany({});
    expect(await failure(false)).toEqual([11_000, 1, 3]);
    expect(await all()).toEqual([{ _id: 1 }, { _id: 2 }, { _id: 3 }]);
  });

  test('later statements of a command see what earlier ones did', async () => {
    await collection.createIndex({ key: 1 }, { unique: true });
    await collection.bulkWrite([
      { insertOne: { document: { _id: 1 as never, key: 'a', n: 0 } } },
      { updateOne: { filter: { key: 'a' }, update: { $inc: { n: 1 } } } },
      { updateOne: { filter: { key: 'a' }, update: { $set: { key: 'b' } } } },
      { updateOne: { filter: { key: 'a' }, update: { $inc: { n: 10 } } } },
      { insertOne: { document: { _id: 2 as never, key: 'a' } } },
      { deleteOne: { filter: { key: 'b' } } },
      { insertOne: { document: { _id: 3 as never, key: 'b' } } },
    ]);
    expect(await all()).toEqual([
      { _id: 2, key: 'a' },
      { _id: 3, key: 'b' },
    ]);
  });

  test('a key is free, or taken, as the earlier statements of a command left it, whatever found the document', async () => {
    await collection.createIndex({ key: 1 }, { unique: true });
    await collection.insertMany([1, 2, 3].map((n) => ({ _id: n as never, key: `key ${n}`, n })));
    const found: Document[] = [{ _id: 1 }, { n: 1 }];
    for (const filter of found) {
      const reply = await collection.db.command({
        update: 'things',
        updates: [
          { q: filter, u: { $set: { key: 'other' } } },
          { q: { _id: 2 }, u: { $set: { key: 'other' } } },
          { q: { _id: 2 }, u: { $set: { key: 'key 1' } } },
          { q: { key: 'key 2' }, u: { $set: { n: 0 } } },
          { q: filter, u: { $set: { key: 'key 1' } } },
          { q: { _id: 2 }, u: { $set: { key: 'key 2' } } },
          { q: { key: 'key 3' }, u: { $set: { key: 'key 2' } } },
          { q: { key: 'other' }, u: { $set: { m: 0 } } },
          { q: filter, u: { $set: { key: 'key 1' } } },
        ],
        ordered: false,
      });
      const refused = reply.writeErrors.map(({ index, code }: Document) => [index, code]);
      expect(refused).toEqual([
        [1, 11_000],
        [4, 11_000],
        [6, 11_000],
      ]);
      expect(reply).toMatchObject({ n: 5, nModified: 5 });
      expect((await all()).map(({ key, n }) => `${key}, ${n}`)).toEqual(['key 1, 1', 'key 2, 2', 'key 3, 3']);
      await collection.updateOne({ _id: 1 as never }, { $unset: { m: '' } });
    }
  });

  test.each([
    ['$set of a path', { $set: { 'a.b': 2 } }, { a: { b: 2 }, n: 1, list: [1, 2] }],
    ['$set beside $inc', { $set: { a: 0 }, $inc: { n: 2 } }, { a: 0, n: 3, list: [1, 2] }],
    ['$unset', { $unset: { a: '' } }, { n: 1, list: [1, 2] }],
    ['$push', { $push: { list: 3 } }, { a: { b: 1 }, n: 1, list: [1, 2, 3] }],
    ['$setOnInsert of what is there', { $setOnInsert: { n: 9 } }, { a: { b: 1 }, n: 1, list: [1, 2] }],
  ])('updates with %s', async (_name, update, expected) => {
    await collection.insertOne({ _id: 1 as never, a: { b: 1 }, n: 1, list: [1, 2] });
    await collection.updateOne({ _id: 1 as never }, update as Document);
    expect(await collection.findOne({}, { projection: { _id: 0 } })).toEqual(expected);
  });

  test('replaces, keeping the id, and changes a matched element', async () => {
    await collection.insertOne({ _id: 1 as never, list: [1, 2] });
    await collection.updateOne({ _id: 1 as never, list: 2 }, { $set: { 'list.$': 5 } });
    expect(await all()).toEqual([{ _id: 1, list: [1, 5] }]);
    await collection.replaceOne({ _id: 1 as never }, { other: true });
    expect(await all()).toEqual([{ _id: 1, other: true }]);
  });

  test('an upsert takes the equalities of its filter, and what only an insert sets', async () => {
    const filter = { key: 'a', n: { $gt: 3 } };
    const update = { $set: { m: 1 }, $setOnInsert: { first: true, 'dotted.key': 1 } };
    const first = await collection.updateOne(
      { key: 'a' },
      { $set: { m: 1 }, $setOnInsert: { first: true } },
      { upsert: true },
    );
    expect(first).toMatchObject({ matchedCount: 0, upsertedCount: 1 });
    expect(first.upsertedId).toBeInstanceOf(ObjectId);
    const second = await collection.updateOne(
      { key: 'a' },
      { $set: { m: 2 }, $setOnInsert: { first: false } },
      { upsert: true },
    );
    expect(second).toMatchObject({ matchedCount: 1, modifiedCount: 1, upsertedCount: 0 });
    expect(await collection.find({}, { projection: { _id: 0 } }).toArray()).toEqual([
      { key: 'a', m: 2, first: true },
    ]);
    await collection.updateOne(filter, update, { upsert: true });
    expect(await collection.findOne({ 'dotted.key': 1 }, { projection: { _id: 0 } })).toEqual({
      key: 'a',
      m: 1,
      first: true,
      dotted: { key: 1 },
    });
  });

  test('updates and deletes many, by any condition', async () => {
    await collection.insertMany(
      Array.from({ length: 1_200 }, (_, index) => ({ n: index, even: index % 2 === 0 })),
    );
    expect(await collection.updateMany({ even: true }, { $inc: { n: 10_000 } })).toMatchObject({
      matchedCount: 600,
      modifiedCount: 600,
    });
    expect(await collection.updateMany({ even: true }, { $set: { even: true } })).toMatchObject({
      matchedCount: 600,
      modifiedCount: 0,
    });
    expect(await collection.deleteMany({ n: { $lt: 1_000 } })).toMatchObject({ deletedCount: 500 });
    expect(await collection.countDocuments({ n: { $gte: 10_000 } })).toBe(600);
    expect((await collection.distinct('even')).length).toBe(2);
  });
});

describe('bad input', () => {
  test.each<[string, Document, number]>([
    ['an unknown command', { frobnicate: 1 }, 59],
    ['a command named like a property of every object', { constructor: 1 }, 59],
    ['a collection that is no text', { find: 1 }, 14],
    ['a filter that is no document', { find: 'x', filter: 'y' }, 14],
    ['an operator that does not exist', { count: 'things', query: { a: { $frob: 1 } } }, 2],
    ['$where', { count: 'things', query: { $where: 'sleep(1000)' } }, 2],
    ['a regular expression that is none', { count: 'things', query: { a: new BSONRegExp('(') } }, 9],
    ['a negative limit', { find: 'x', limit: -1 }, 2],
    ['a pipeline that is no list', { aggregate: 'x', pipeline: {}, cursor: {} }, 14],
    ['a zero in a name', { insert: "it's\0x", documents: [{}] }, 1],
    ['documents that are none', { insert: 'x', documents: [1] }, 14],
    ['a collation', { find: 'x', collation: { locale: 'de' } }, 115],
    ['a cursor that is not open', { getMore: 4711, collection: 'x' }, 43],
    ['a sparse index', { createIndexes: 'x', indexes: [{ name: 'a', key: { a: 1 }, sparse: true }] }, 115],
    ['a text index', { createIndexes: 'x', indexes: [{ name: 'a', key: { a: 'text' } }] }, 67],
    ['indexes of a collection that is not there', { listIndexes: 'nowhere' }, 26],
  ])('%s is refused with its code', async (_name, command, code) => {
    await collection.insertOne({ a: 'x' });
    await expect(collection.db.command(command)).rejects.toMatchObject({ code });
    expect(await collection.countDocuments()).toBe(1);
  });

  test.each<[string, Document, number]>([
    ['a pipeline as update', { q: {}, u: [{ $set: { a: 1 } }] }, 115],
    ['operators mixed with fields', { q: {}, u: { $set: { a: 1 }, b: 1 } }, 9],
    ['an unknown operator', { q: {}, u: { $frob: { a: 1 } } }, 2],
    ['a change of the id', { q: {}, u: { $set: { _id: 2 } } }, 2],
    ['a replacement with another id', { q: {}, u: { _id: 2, a: 1 } }, 66],
  ])('%s fails that statement alone', async (_name, statement, code) => {
    await collection.insertOne({ _id: 1 as never, a: 0 });
    const good = { q: { _id: 1 }, u: { $set: { good: true } } };
    const reply = await collection.db.command({
      update: 'things',
      updates: [statement, good],
      ordered: false,
    });
    expect(reply).toMatchObject({ ok: 1, n: 1, nModified: 1, writeErrors: [{ index: 0, code }] });
    expect(await all()).toEqual([{ _id: 1, a: 0, good: true }]);
  });

  test('a document that grows beyond 16 MB is refused with 10334 and stays as it was', async () => {
    await collection.insertOne({ _id: 1 as never, half: 'x'.repeat(9 * 1024 * 1024) });
    const growth = collection.updateOne(
      { _id: 1 as never },
      { $set: { other: 'y'.repeat(9 * 1024 * 1024) } },
    );
    await expect(growth).rejects.toMatchObject({ code: 10_334 });
    expect(Object.keys((await all())[0] ?? {})).toEqual(['_id', 'half']);
  });

  test.each([
    ['text', Buffer.from('GET / HTTP/1.1\r\nHost: x\r\n\r\n')],
    ['a negative length', Buffer.from('ffffffff00000000000000000000dd07', 'hex')],
    ['a length of two gigabytes', Buffer.from('ffffff7f000000000000000000dd0700', 'hex')],
    ['an unknown kind of message', frame(2013_0, Buffer.alloc(20))],
    ['a section that is cut off', frame(2013, Buffer.from('0000000000ff000000', 'hex'))],
    ['a document that is cut off', frame(2013, Buffer.from('0000000000090000000270', 'hex'))],
    ['no section', frame(2013, Buffer.alloc(4))],
  ])('%s instead of a message ends that connection only', async (_name, bytes) => {
    const socket = connect(Number(new URL(standIn.url).port), '127.0.0.1');
    socket.on('error', () => undefined);
    socket.resume();
    socket.write(bytes);
    if (!socket.closed) await once(socket, 'close');
    expect(await collection.countDocuments()).toBe(0);
  });
});

describe('the wire', () => {
  test('a document inside the command that is cut off is refused with 22', async () => {
    const body = Buffer.from('10000000037000ff0000000000000000', 'hex');
    const reply = await exchange([frame(2013, Buffer.concat([Buffer.alloc(5), body]))]);
    expect(decode(reply.subarray(21))).toMatchObject({ ok: 0, code: 22, codeName: 'InvalidBSON' });
  });

  test('a handshake of an older driver is answered in its own kind, in pieces or not', async () => {
    const flagsAndName = Buffer.concat([Buffer.alloc(4), Buffer.from('admin.$cmd\0'), Buffer.alloc(8)]);
    const message = frame(2004, Buffer.concat([flagsAndName, encode({ ismaster: 1 })]));
    const reply = await exchange([message.subarray(0, 3), message.subarray(3, 30), message.subarray(30)]);
    expect(reply.readInt32LE(12)).toBe(1);
    expect(decode(reply.subarray(36))).toMatchObject({ ismaster: true, ok: 1 });
  });

  test('a checksum is passed over, and two messages in one packet get two replies', async () => {
    const CHECKSUM_PRESENT = Buffer.from('01000000', 'hex');
    const body = encode({ ping: 1, $db: 'admin' });
    const message = frame(
      2013,
      Buffer.concat([CHECKSUM_PRESENT, Buffer.alloc(1), body, Buffer.from('deadbeef', 'hex')]),
    );
    const reply = await exchange([Buffer.concat([message, message])], 2);
    expect(decode(reply.subarray(21, reply.readInt32LE(0)))).toEqual({ ok: 1 });
    expect(reply.length).toBe(2 * reply.readInt32LE(0));
  });
});

test('I9: of cursors that nobody closes only the newest are kept', async () => {
  await collection.insertMany(Array.from({ length: 10 }, (_, index) => ({ index })));
  const cursors = Array.from({ length: 202 }, () => collection.find({}, { batchSize: 1 }));
  for (const cursor of cursors) await cursor.next();
  await expect(cursors[0]?.toArray()).rejects.toMatchObject({ code: 43 });
  expect((await cursors[201]?.toArray())?.length).toBe(9);
  await Promise.all(cursors.map((cursor) => cursor.close()));
});

test('a port that is taken is named with the setting', async () => {
  const port = Number(new URL(standIn.url).port);
  const starting = startMarket({
    databaseUrl: standIn.databaseUrl,
    host: '127.0.0.1',
    port,
    log: createLogger('silent'),
  });
  await expect(starting).rejects.toThrow(EnvironmentError);
  await expect(starting).rejects.toThrow(`EMBEDDED_MARKET_PORT=${port}`);
});

function frame(opCode: number, content: Buffer): Buffer {
  const header = Buffer.alloc(16);
  header.writeInt32LE(16 + content.length, 0);
  header.writeInt32LE(1, 4);
  header.writeInt32LE(opCode, 12);
  return Buffer.concat([header, content]);
}

/** Sends the pieces one by one and returns the bytes of so many replies. */
async function exchange(pieces: Buffer[], replies = 1): Promise<Buffer> {
  const socket = connect(Number(new URL(standIn.url).port), '127.0.0.1');
  await once(socket, 'connect');
  socket.setNoDelay(true);
  for (const piece of pieces) await new Promise((resolve) => socket.write(piece, resolve));
  let received = Buffer.alloc(0);
  for await (const chunk of socket) {
    received = Buffer.concat([received, chunk as Buffer]);
    if (received.length >= 4 && received.length >= replies * received.readInt32LE(0)) break;
  }
  socket.destroy();
  return received;
}
