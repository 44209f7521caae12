import { randomUUID } from 'node:crypto';
import fc from 'fast-check';
import { type Pgoutput, PgoutputPlugin } from 'pg-logical-replication';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { type Change, DecodeError, Decoder } from '../../pipeline/decode.ts';
import { parseLsn } from '../../src/lsn.ts';
import { query } from '../../src/postgres.ts';
import { createDatabase, type TestDatabase } from '../support/postgres.ts';

let database: TestDatabase;
let slotName: string;

// Real bytes: the table has columns before the id, of several types, one of them stored out of line when long.
beforeAll(async () => {
  database = await createDatabase({ template: 'empty' });
  slotName = `decode_${database.name}`;
  await database.pool.query(`
    create table bookings (note text, grams numeric(10, 2), id uuid primary key, photo text, at timestamptz, tags text[]);
    alter table bookings alter column photo set storage external;
    create table keyless (id uuid, note text);
    alter table keyless replica identity full;
    create type mood as enum ('fresh', 'stale');
    create table unpublished (id int);
    create table typed (mood mood, id uuid primary key);
    create publication decoded for table bookings, keyless, typed;
  `);
  await database.pool.query(`select pg_create_logical_replication_slot($1, 'pgoutput')`, [slotName]);
});
afterAll(() => database.drop());

const run = (sql: string, values: unknown[] = []) => database.pool.query(sql, values);

/** What the slot has for its consumer since the last call, byte for byte. */
async function receive(): Promise<Buffer[]> {
  await run('insert into unpublished default values'); // A message outside of a transaction waits for somebody's flush.
  const rows = await query<{ data: Buffer }>(
    database.pool,
    `select data from pg_logical_slot_get_binary_changes($1, null, null,
       'proto_version', '1', 'publication_names', 'decoded', 'messages', 'true')`,
    [slotName],
  );
  return rows.map((row) => row.data);
}

const decodeAll = (buffers: Buffer[]): Change[] => {
  const decoder = new Decoder();
  return buffers.map((buffer) => decoder.decode(buffer));
};

/** The changes between begin and commit, without what says nothing of a booking. */
async function receiveChanges(): Promise<Change[]> {
  const changes = decodeAll(await receive());
  return changes.filter(({ kind }) => kind !== 'begin' && kind !== 'commit' && kind !== 'other');
}

const insert = async (columns: { id?: string; note?: string | null; photo?: string | null } = {}) => {
  const { id = randomUUID(), note = 'a note', photo = null } = columns;
  await run(`insert into bookings (note, id, photo, at, tags) values ($1, $2, $3, now(), '{a,b}')`, [
    note,
    id,
    photo,
  ]);
  return id;
};

test('a transaction is its begin, its changes and its commit', async () => {
  const before = Date.now();
  const id = randomUUID();
  const rows = await query<{ xid: string }>(
    database.pool,
    `with inserted as (insert into bookings (id) values ($1)) select pg_current_xact_id()::text as xid`,
    [id],
  );
  const end = await query<{ lsn: string }>(database.pool, 'select pg_current_wal_insert_lsn()::text as lsn');
  const changes = decodeAll(await receive());
  expect(changes.map((change) => change.kind)).toEqual(['begin', 'other', 'booking', 'commit']);
  const [begin, , booking, commit] = changes;
  if (begin?.kind !== 'begin' || commit?.kind !== 'commit') throw new Error('not a transaction');
  expect(begin.xid).toBe(Number(rows[0]?.xid));
  expect(begin.committedAtMs).toBeGreaterThanOrEqual(before - 1);
  expect(begin.committedAtMs).toBeLessThanOrEqual(Date.now() + 1);
  expect(commit.endLsn).toBeGreaterThan(begin.commitLsn);
  expect(commit.endLsn).toBeLessThanOrEqual(parseLsn(end[0]?.lsn ?? ''));
  expect(booking).toEqual({ kind: 'booking', bookingIds: [id] });
});

test('an id is found behind nulls and behind values of every length', async () => {
  const ids = [
    await insert({ note: null }),
    await insert({ note: '' }),
    await insert({ note: 'ü😀' }),
    await insert({ note: 'x'.repeat(100_000) }),
  ];
  expect(await receiveChanges()).toEqual(ids.map((id) => ({ kind: 'booking', bookingIds: [id] })));
});

test('an update names its booking, also when a value stored out of line was not touched and is not sent', async () => {
  const id = await insert({ photo: 'p'.repeat(50_000) });
  await receive();
  await run(`update bookings set note = 'other' where id = $1`, [id]);
  const buffers = await receive();
  expect(buffers.every((buffer) => buffer.length < 1_000)).toBe(true);
  expect(decodeAll(buffers)).toContainEqual({ kind: 'booking', bookingIds: [id] });
});

test('an update of the id names the old booking and the new one', async () => {
  const [old, changed] = [await insert(), randomUUID()];
  await receive();
  await run('update bookings set id = $2 where id = $1', [old, changed]);
  expect(await receiveChanges()).toEqual([{ kind: 'booking', bookingIds: [old, changed] }]);
});

test('a delete names its booking, by key or by whole row', async () => {
  const id = await insert();
  await run(`insert into keyless values ($1, null)`, [id]);
  await receive();
  await run('delete from bookings where id = $1', [id]);
  await run(`update keyless set note = 'n'`);
  await run('delete from keyless');
  const change = { kind: 'booking', bookingIds: [id] };
  expect(await receiveChanges()).toEqual([change, change, change]);
});

test('a truncate is seen, and a column of a type of its own does not hide the id', async () => {
  const id = randomUUID();
  await run(`insert into typed values ('fresh', $1)`, [id]);
  await run('truncate typed, keyless');
  expect(await receiveChanges()).toEqual([{ kind: 'booking', bookingIds: [id] }, { kind: 'truncate' }]);
});

test('a column added or dropped before the id while streaming does not hide it', async () => {
  const decoder = new Decoder();
  const ids: string[] = [];
  for (const change of [
    'select 1',
    'alter table bookings drop column grams',
    'alter table bookings add column weight numeric default 3',
  ]) {
    await run(change);
    const id = randomUUID();
    await run('insert into bookings (id) values ($1)', [id]);
    ids.push(id);
  }
  const changes = (await receive()).map((buffer) => decoder.decode(buffer));
  expect(changes.filter(({ kind }) => kind === 'booking')).toEqual(
    ids.map((id) => ({ kind: 'booking', bookingIds: [id] })),
  );
});

test('a logical message arrives with prefix and payload, and says whether it belongs to its transaction', async () => {
  await run(`select pg_logical_emit_message(true, 'market_sync', 'pay\u00fcload')`);
  await run(`select pg_logical_emit_message(false, 'other', ''::bytea)`);
  await run(`begin; select pg_logical_emit_message(false, 'loose', '\\x00ff'::bytea); rollback`);
  const changes = await receiveChanges();
  const shown = changes.map(
    (change) => change.kind === 'message' && { ...change, content: [...change.content] },
  );
  expect(shown).toEqual([
    { kind: 'message', prefix: 'market_sync', transactional: true, content: [...Buffer.from('payüload')] },
    { kind: 'message', prefix: 'other', transactional: false, content: [] },
    { kind: 'message', prefix: 'loose', transactional: false, content: [0, 255] },
  ]);
});

test('what a savepoint or a rollback takes back is not sent', async () => {
  const [kept, undone] = [randomUUID(), randomUUID()];
  await run(`begin; insert into bookings (id) values ('${kept}'); savepoint s;
    insert into bookings (id) values ('${undone}'); rollback to s; commit`);
  await run(`begin; insert into bookings (id) values ('${randomUUID()}'); rollback`);
  expect(await receiveChanges()).toEqual([{ kind: 'booking', bookingIds: [kept] }]);
});

/** A mixture of everything, as bytes. */
async function receiveMixture(): Promise<Buffer[]> {
  const id = await insert({ photo: 'p'.repeat(5_000), note: null });
  await run('update bookings set note = $2 where id = $1', [id, 'note']);
  await run('update bookings set id = gen_random_uuid() where id = $1', [id]);
  await run(`insert into keyless values ($1, 'n')`, [id]);
  await run(`update keyless set note = 'm'`);
  await run('delete from keyless');
  await run('delete from bookings');
  await run(`select pg_logical_emit_message(true, 'market_sync', '{"v":1}')`);
  await run(`insert into typed values ('stale', $1)`, [id]);
  await run('truncate typed');
  return receive();
}

test('reads every message as the replication library does', async () => {
  const buffers = await receiveMixture();
  const library = new PgoutputPlugin({ protoVersion: 1, publicationNames: ['decoded'], messages: true });
  const theirs = buffers.map((buffer) => summarise(library.parse(buffer)));
  expect(decodeAll(buffers)).toEqual(theirs);
  expect(new Set(theirs.map(({ kind }) => kind)).size).toBe(6);
});

function summarise(message: Pgoutput.Message): Change {
  switch (message.tag) {
    case 'begin':
      return {
        kind: 'begin',
        commitLsn: parseLsn(message.commitLsn ?? ''),
        xid: message.xid,
        // The library counts microseconds since 1970.
        committedAtMs: Number(BigInt(message.commitTime.toString()) / 1_000n),
      };
    case 'commit':
      return { kind: 'commit', endLsn: parseLsn(message.commitEndLsn ?? '') };
    case 'insert':
      return { kind: 'booking', bookingIds: [message.new.id] };
    case 'update':
    case 'delete': {
      const ids = [message.key?.id, message.old?.id, message.tag === 'update' ? message.new.id : undefined];
      return { kind: 'booking', bookingIds: [...new Set(ids.filter((id) => id !== undefined))] };
    }
    case 'truncate':
      return { kind: 'truncate' };
    case 'message': {
      const { prefix, transactional, content } = message;
      return {
        kind: 'message',
        prefix,
        transactional: Boolean(transactional),
        content: Buffer.from(content),
      };
    }
    default:
      return { kind: 'other' };
  }
}

describe('what cannot be understood', () => {
  let buffers: Buffer[];
  beforeAll(async () => {
    buffers = await receiveMixture();
  });

  /** A decoder that knows the tables. */
  const informed = (): Decoder => {
    const decoder = new Decoder();
    for (const buffer of buffers) if (buffer[0] === 0x52) decoder.decode(buffer);
    return decoder;
  };

  test.each(['', 'S', 'E', 'A', 'c', 'b', '\0', 'x'])('stops: a message of unknown kind %j', (kind) => {
    expect(() => new Decoder().decode(Buffer.from(kind.padEnd(kind.length * 60, '\0')))).toThrow(DecodeError);
  });

  test('stops: a row before the description of its table', () => {
    const row = buffers.find((buffer) => buffer[0] === 0x49) ?? Buffer.alloc(0);
    expect(() => new Decoder().decode(row)).toThrow('a row arrived before the description of its table');
  });

  test('stops: a table that is published without its id', async () => {
    await run('create publication no_id for table bookings (photo, note) with (publish = $$insert$$)');
    await insert();
    const rows = await query<{ data: Buffer }>(
      database.pool,
      `select data from pg_logical_slot_get_binary_changes($1, null, null,
         'proto_version', '1', 'publication_names', 'no_id')`,
      [slotName],
    );
    await run('drop publication no_id');
    expect(() => decodeAll(rows.map((row) => row.data))).toThrow(
      'storage_bookings is published without its column id',
    );
  });

  test('a message cut anywhere stops, or says nothing that the whole one does not say', () => {
    for (const buffer of buffers) {
      const whole = informed().decode(buffer);
      for (let length = 0; length < Math.min(buffer.length, 300); length += 1) {
        const cut = decodeOrRefuse(informed(), Buffer.from(buffer.subarray(0, length)));
        if (cut === undefined) continue;
        if (cut.kind === 'booking' && whole.kind === 'booking') {
          expect(whole.bookingIds).toEqual(expect.arrayContaining(cut.bookingIds));
        } else {
          expect(cut).toEqual(whole);
        }
      }
    }
  });

  test('bytes changed at random never hang it, nor make it read beyond the message', () => {
    const decoder = informed();
    fc.assert(
      fc.property(
        fc.constantFrom(...buffers),
        fc.array(fc.tuple(fc.nat(400), fc.integer({ min: 0, max: 255 })), { minLength: 1, maxLength: 8 }),
        (original, edits) => {
          // Inside a larger allocation whose rest must never be seen.
          const surrounded = Buffer.alloc(original.length + 2_000, 0x5a);
          original.copy(surrounded);
          const buffer = surrounded.subarray(0, original.length);
          for (const [at, byte] of edits) if (at > 0 && at < buffer.length) buffer[at] = byte;
          const change = decodeOrRefuse(decoder, buffer);
          if (change?.kind === 'booking') expect(change.bookingIds.join()).not.toContain('ZZZZ');
          if (change?.kind === 'message') expect(Buffer.from(change.content).includes('ZZZZ')).toBe(false);
        },
      ),
      { numRuns: 3_000 },
    );
  });

  test('random bytes are refused, or read as something; nothing else happens', () => {
    fc.assert(
      fc.property(
        fc.constantFrom(...'BCRIUDTMOY'),
        fc.uint8Array({ maxLength: 200 }),
        (kind, rest) => void decodeOrRefuse(informed(), Buffer.concat([Buffer.from(kind), rest])),
      ),
      { numRuns: 2_000 },
    );
  });
});

/** Undefined for a `DecodeError`; every other error is a defect. */
function decodeOrRefuse(decoder: Decoder, buffer: Buffer): Change | undefined {
  try {
    return decoder.decode(buffer);
  } catch (error) {
    expect(error).toBeInstanceOf(DecodeError);
    return undefined;
  }
}
