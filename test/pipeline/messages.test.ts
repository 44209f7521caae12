import { afterAll, beforeAll, beforeEach, expect, test } from 'vitest';
import type { Pipeline } from '../../pipeline/pipeline.ts';
import { readCheckpoint } from '../../src/store/checkpoint.ts';
import { insertBooking, setQuantity } from '../support/application.ts';
import { until } from '../support/pipeline.ts';
import { createScene, type Scene } from '../support/scene.ts';

// Row 25: any role can write a logical message.

let scene: Scene;
let pipeline: Pipeline;
let bookingId: string;
let bookings: number[] = [];

beforeAll(async () => {
  scene = await createScene();
  pipeline = await scene.start({ onBatch: (batch) => bookings.push(batch.bookings) });
  bookingId = await insertBooking(scene.database.pool);
});

beforeEach(async () => {
  await scene.settle();
  bookings = [];
});

afterAll(() => scene?.stop());

const countMalformed = async (): Promise<number> =>
  (await readCheckpoint(scene.database.pool)).malformedMessages;

const emit = (
  content: string | Buffer,
  { prefix = 'market_sync', transactional = true } = {},
): Promise<unknown> =>
  scene.database.pool.query(
    `select pg_logical_emit_message($1::boolean, $2, $3::${typeof content === 'string' ? 'text' : 'bytea'})`,
    [transactional, prefix, content],
  );

const uuids = (count: number): string[] =>
  Array.from({ length: count }, (_, index) => `00000000-0000-4000-8000-${String(index).padStart(12, '0')}`);

test('row 25: messages that nobody can parse are counted and skipped, and what is behind them is reconciled', async () => {
  const before = await countMalformed();
  const malformed = [
    '',
    'no json',
    'null',
    '[]',
    '{}',
    '{"v":2,"booking":[]}',
    '{"v":1,"booking":"all of them"}',
    '{"v":1,"booking":["not an id"]}',
    '{"v":1,"booking":[null]}',
    `{"v":1,"farmer":["${bookingId}"]}`,
    `{"v":1,"booking":["${bookingId.toUpperCase()}"]}`,
    `{"v":1,"booking":["${bookingId}'; drop table storage_bookings; --"]}`,
    '{"v":1,"__proto__":{"booking":[]}}',
    // What PostgreSQL cannot store would make it refuse the batch, and every redelivery of it.
    '{"v":1,"all":"sensor\\u0000readings"}',
    '{"v":1,"all":"iot_sensors","sqlstate":"4270\\u0000"}',
    `{"v":1,"booking":${'['.repeat(400_000)}${']'.repeat(400_000)}}`,
    Buffer.from([0, 1, 2, 255]),
    Buffer.from('{"v":1,"booking":["\xff"]}', 'latin1'),
    // Well-formed, and larger than any trigger makes one.
    JSON.stringify({ v: 1, booking: uuids(30_000) }),
  ];
  for (const content of malformed) await emit(content);
  // It would be there after a rollback too.
  await emit(`{"v":1,"booking":["${bookingId}"]}`, { transactional: false });
  await setQuantity(scene.database.pool, bookingId, 2);
  await scene.settle();
  await scene.expectConverged([bookingId]);
  await until('all are counted', async () => (await countMalformed()) >= before + malformed.length + 1);
  expect(await countMalformed()).toBe(before + malformed.length + 1);
  expect(pipeline.consumer.state).toBe('active');
});

test('row 25: a forged message that is well-formed costs a recompute and changes nothing', async () => {
  const revision = (await scene.listing(bookingId))?.revision;
  await emit(
    JSON.stringify({
      v: 1,
      booking: [bookingId, ...uuids(5_000)],
      location: uuids(2_000),
      vendor: uuids(10),
    }),
  );
  await scene.settle();
  expect((await scene.listing(bookingId))?.revision).toBe(revision);
  const { rows } = await scene.database.pool.query(
    'select count(*)::int as count from market_inventory_snapshots',
  );
  expect(rows).toEqual([{ count: 1 }]);
  await emit('{"v":1,"all":"everything"}');
  await scene.settle();
  expect((await scene.listing(bookingId))?.revision).toBe(revision);
  const resync = await scene.database.pool.query(
    'select reason from market_sync.resync order by id desc limit 1',
  );
  expect(resync.rows).toEqual([{ reason: 'everything was truncated' }]);
});

test('messages of others are none of ours', async () => {
  const before = await countMalformed();
  await emit('no json', { prefix: 'market_sync_2' });
  await emit('no json', { prefix: '' });
  await emit(`{"v":1,"booking":["${bookingId}"]}`, { prefix: 'theirs', transactional: false });
  await scene.settle();
  expect(await countMalformed()).toBe(before);
});

test('I9, row 18: 20,000 transactions with a message each merge into few batches, each booking computed a few times', async () => {
  await scene.database.pool.query(`
    do $$ begin
      for i in 1 .. 20000 loop
        perform pg_logical_emit_message(true, 'market_sync', '{"v":1,"booking":["${bookingId}"]}');
        commit;
      end loop;
    end $$`);
  await scene.settle();
  const computed = bookings.reduce((sum, count) => sum + count, 0);
  expect(computed).toBeGreaterThan(0);
  expect(computed).toBeLessThan(5_000);
});
