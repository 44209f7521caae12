import type pg from 'pg';
import { afterEach, beforeEach, expect, test } from 'vitest';
import type { Logger } from '../../src/log.ts';
import { migrate } from '../../src/migrate.ts';
import { connect, query } from '../../src/postgres.ts';
import { withTableLocks } from '../../src/table-locks.ts';
import { insertLocation, insertReading, insertSensor } from '../support/application.ts';
import { testLog, until } from '../support/pipeline.ts';
import { createDatabase, type TestDatabase } from '../support/postgres.ts';

// I5: whoever waits for a lock on a table of the application makes everybody queue behind it who comes later. So the wait is short,
// given up, and tried again.

let database: TestDatabase;
beforeEach(async () => {
  database = await createDatabase();
});
afterEach(() => database.drop());

/** What was measured before was 3 s; a request that is never given up makes writers wait as long as the transaction is open. */
const WAIT_MS_MAX = 2_500;

/** An application that writes without end; answers how long its slowest statement took. */
function startWriting(write: (db: pg.Pool) => Promise<unknown>): {
  count: () => number;
  stop: () => Promise<number>;
} {
  let [count, slowestMs, stopped] = [0, 0, false];
  const run = async (): Promise<void> => {
    while (!stopped) {
      const startedAt = performance.now();
      await write(database.pool);
      slowestMs = Math.max(slowestMs, performance.now() - startedAt);
      count += 1;
    }
  };
  const ended = run();
  return {
    count: () => count,
    stop: async () => {
      stopped = true;
      await ended;
      return slowestMs;
    },
  };
}

const listenFor = (message: string): { log: Logger; heard: Promise<void> } => {
  const { promise, resolve } = Promise.withResolvers<void>();
  const log = { ...testLog(), warn: (_: object, text: string) => text.startsWith(message) && resolve() };
  return { log: log as unknown as Logger, heard: promise };
};

test('I5: while a transaction of the application stays open, migrate waits and its other writers do not; then migrate succeeds', async () => {
  const location = await insertLocation(database.pool);
  const sensor = await insertSensor(database.pool, location);
  const holder = await connect(database.pool);
  await query(holder, 'begin');
  await insertReading(holder, sensor, 1);
  const { log, heard } = listenFor('waiting for a lock');
  const writers = [
    startWriting((db) => insertReading(db, sensor, 2)),
    startWriting((db) => db.query('update iot_sensors set battery_level = random() where id = $1', [sensor])),
  ];
  const migrating = migrate({ pool: database.pool, sourceSchema: 'public', log });
  await Promise.race([heard, migrating]);
  // Through several attempts, and past the moment from which it is not even tried.
  await until('the transaction is a long one', async () => {
    const [row] = await query<{ old: boolean }>(
      database.pool,
      `select xact_start < clock_timestamp() - interval '4 s' as old from pg_stat_activity where pid = $1`,
      [(holder as unknown as { processID: number }).processID],
    );
    return row?.old === true;
  });
  for (const { count } of writers) {
    const before = count();
    await until('the writers go on', () => count() > before);
  }
  expect(await query(database.pool, 'select max(number) as number from market_sync.migrations')).toEqual([
    { number: 1 },
  ]);
  await query(holder, 'commit');
  holder.release();
  expect((await migrating).length).toBeGreaterThan(1);
  for (const writer of writers) expect(await writer.stop()).toBeLessThan(WAIT_MS_MAX);
});

test('I5: a table that a long transaction holds is not even asked for', async () => {
  const [holder, client] = [await connect(database.pool), await connect(database.pool)];
  await query(holder, 'begin; lock table iot_sensors in row exclusive mode');
  await until('the transaction is a long one', async () => {
    const [row] = await query<{ old: boolean }>(
      holder,
      `select now() < clock_timestamp() - interval '2.1 s' as old`,
    );
    return row?.old === true;
  });
  const { log, heard } = listenFor('waiting for a lock');
  let attempts = 0;
  const locking = withTableLocks(
    { client, log },
    { what: 'a test', tables: [{ name: 'public.iot_sensors', mode: 'share row exclusive' }] },
    async () => {
      attempts += 1;
    },
  );
  await Promise.race([heard, locking]);
  expect(attempts).toBe(0);
  await query(holder, 'commit');
  await locking;
  expect(attempts).toBe(1);
  for (const each of [holder, client]) each.release();
});
