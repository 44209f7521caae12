import pg from 'pg';
import { afterAll, afterEach, beforeAll, expect, onTestFinished, test } from 'vitest';
import type { BatchReport } from '../../pipeline/consume.ts';
import { Decoder } from '../../pipeline/decode.ts';
import { findSlot } from '../../pipeline/slot.ts';
import type { Lsn } from '../../src/lsn.ts';
import { readCheckpoint } from '../../src/store/checkpoint.ts';
import {
  insertBooking,
  insertLocation,
  insertReading,
  insertSensor,
  setQuantity,
} from '../support/application.ts';
import { until } from '../support/pipeline.ts';
import { createScene, type Scene } from '../support/scene.ts';

// Row 27: an orderly stop under load, and what the next pipeline on the same slot is given.

let scene: Scene;
let locationId: string;
let sensorId: string;

beforeAll(async () => {
  scene = await createScene();
  locationId = await insertLocation(scene.database.pool);
  sensorId = await insertSensor(scene.database.pool, locationId);
});

afterEach(() => scene.stopPipelines());

afterAll(() => scene?.stop());

/** Sessions of the application that do `write` over and over. */
async function startWriters(
  count: number,
  write: (client: pg.Client) => Promise<unknown>,
): Promise<{ count(): number; stop(): Promise<void> }> {
  let [stopped, written] = [false, 0];
  const run = async (): Promise<void> => {
    const client = new pg.Client({ connectionString: scene.database.url });
    await client.connect();
    try {
      while (!stopped) {
        await write(client);
        written += 1;
      }
    } finally {
      await client.end();
    }
  };
  const writers = Promise.all(Array.from({ length: count }, run));
  const stop = async (): Promise<void> => {
    stopped = true;
    await writers;
  };
  onTestFinished(stop);
  await Promise.race([writers, until('writers write', () => written > 0)]);
  return { count: () => written, stop };
}

const readSnapshotIds = async (): Promise<Set<string>> =>
  new Set(
    (
      await scene.database.pool.query<{ booking_id: string }>(
        'select booking_id from market_inventory_snapshots',
      )
    ).rows.map((row) => row.booking_id),
  );

/** What the slot would send to the next consumer: bookings, and where the earliest of the commits lies. */
async function peek(): Promise<{ bookingIds: Set<string>; firstCommitLsn: Lsn | undefined }> {
  const { rows } = await scene.database.pool.query<{ data: Buffer }>(
    `select data from pg_logical_slot_peek_binary_changes($1, null, null,
       'proto_version', '1', 'publication_names', 'market_sync', 'messages', 'true')`,
    [scene.config.slotName],
  );
  const decoder = new Decoder();
  const bookingIds = new Set<string>();
  let firstCommitLsn: Lsn | undefined;
  for (const { data } of rows) {
    const change = decoder.decode(data);
    if (change.kind === 'begin') firstCommitLsn ??= change.commitLsn;
    if (change.kind === 'booking') for (const id of change.bookingIds) bookingIds.add(id);
  }
  return { bookingIds, firstCommitLsn };
}

async function readPositions(): Promise<{ slot: Lsn | undefined; checkpoint: Lsn | undefined }> {
  const { pool } = scene.database;
  await until(
    'the slot is free',
    async () => (await findSlot(pool, scene.config.slotName))?.active === false,
  );
  return {
    slot: (await findSlot(pool, scene.config.slotName))?.confirmedLsn,
    checkpoint: (await readCheckpoint(pool)).commitLsn,
  };
}

test('row 27: stopped under load it ends within 10 s, confirmed exactly up to the checkpoint, and nothing that was reconciled is delivered again', async () => {
  const { pool } = scene.database;
  const pipeline = await scene.start();
  // Each booking is written once: one that has a snapshot by the stop must not come again.
  const writers = await startWriters(3, (client) => insertBooking(client, { locationId }));
  await until('snapshots are written', async () => (await readSnapshotIds()).size > 200);

  const stopping = performance.now();
  await pipeline.stop();
  const stopMs = performance.now() - stopping;
  const writtenAtStop = writers.count();
  await until('the application writes on', () => writers.count() > writtenAtStop + 50);
  await writers.stop();

  expect(stopMs).toBeLessThan(10_000);
  const positions = await readPositions();
  expect(positions.slot).toBe(positions.checkpoint);
  const [reconciled, waiting] = [await readSnapshotIds(), await peek()];
  expect(waiting.firstCommitLsn).toBeGreaterThanOrEqual(positions.checkpoint ?? 0n);
  expect([...waiting.bookingIds].filter((id) => reconciled.has(id))).toEqual([]);
  const { rows } = await pool.query<{ count: number }>('select count(*)::int as count from storage_bookings');
  expect(waiting.bookingIds.size + reconciled.size).toBe(rows[0]?.count);
  expect(waiting.bookingIds.size).toBeGreaterThan(50);

  const batches: BatchReport[] = [];
  const next = await scene.start({ onBatch: (batch) => batches.push(batch) });
  await scene.settle();
  await next.stop();
  const changed = batches.reduce((sum, batch) => sum + batch.changed, 0);
  expect(changed).toBe(waiting.bookingIds.size);
  await scene.expectConverged();
  console.log(
    `stopped in ${Math.round(stopMs)} ms with ${reconciled.size} bookings reconciled and ${waiting.bookingIds.size} waiting`,
  );
});

test('row 27: stopped and started again while nobody writes, nothing at all is delivered again', async () => {
  const first = await scene.start();
  await insertReading(scene.database.pool, sensorId, 5);
  await scene.settle();
  await first.stop();
  const positions = await readPositions();
  expect(positions.slot).toBe(positions.checkpoint);
  expect(await peek()).toMatchObject({ bookingIds: new Set() });

  const batches: BatchReport[] = [];
  const second = await scene.start({ onBatch: (batch) => batches.push(batch) });
  await scene.settle();
  await second.stop();
  // The marks of `settle`, each one booking that does not exist.
  expect(batches.map(({ keys, bookings, changed }) => ({ keys, bookings, changed }))).toEqual(
    batches.map(() => ({ keys: 1, bookings: 1, changed: 0 })),
  );
});

test('I1, row 27: stopped and started again and again under load, everything converges', async () => {
  const bookingIds = await Promise.all(
    Array.from({ length: 20 }, () => insertBooking(scene.database.pool, { locationId })),
  );
  let round = 0;
  const writers = await startWriters(3, async (client) => {
    round += 1;
    const bookingId = bookingIds[round % bookingIds.length] ?? '';
    await client.query('begin');
    await setQuantity(client, bookingId, round);
    await client.query(round % 5 === 0 ? 'rollback' : 'commit');
    if (round % 10 === 0) await insertReading(client, sensorId, round);
    if (round % 50 === 0) await insertBooking(client, { locationId });
  });
  for (let restart = 0; restart < 5; restart += 1) {
    const pipeline = await scene.start();
    const before = (await readCheckpoint(scene.database.pool)).commitLsn ?? 0n;
    await until(
      'it works',
      async () => ((await readCheckpoint(scene.database.pool)).commitLsn ?? 0n) > before,
    );
    const stopping = performance.now();
    await pipeline.stop();
    expect(performance.now() - stopping).toBeLessThan(10_000);
    const { slot, checkpoint } = await readPositions();
    expect(slot).toBe(checkpoint);
  }
  const last = await scene.start();
  await writers.stop();
  await scene.settle();
  await scene.expectConverged();
  await last.stop();
  const { rows } = await scene.database.pool.query('select reason from market_sync.resync');
  expect(rows).toEqual([{ reason: 'first start' }]);
});
