import { expect, test } from 'vitest';
import { query } from '../../src/postgres.ts';
import { startTestPipeline, type TestPipeline } from '../support/pipeline.ts';

/** A booking at a location with one sensor, published. */
async function book({ database, settle }: TestPipeline): Promise<{ bookingId: string; sensorId: string }> {
  const [row] = await query<{ booking_id: string; sensor_id: string }>(
    database.pool,
    `with location as (insert into storage_locations (name) values ('barn') returning id),
       sensor as (insert into iot_sensors (location_id, sensor_type) select id, 'humidity' from location returning id)
     insert into storage_bookings (farmer_id, location_id, crop_type, quantity_kg, booking_status)
     select gen_random_uuid(), location.id, 'wheat', 1, 'active' from location
     returning id as booking_id, (select id from sensor) as sensor_id`,
  );
  await settle();
  return { bookingId: row?.booking_id ?? '', sensorId: row?.sensor_id ?? '' };
}

const report = (running: TestPipeline, sensorId: string, value: number): Promise<unknown> =>
  query(
    running.database.pool,
    'insert into sensor_readings (sensor_id, reading_value, reading_time) values ($1, $2, now())',
    [sensorId, value],
  );

/** Written so far, by what the market counts. */
async function countWrites({ database }: TestPipeline): Promise<number> {
  const rows = await query<{ items: number }>(
    database.pool,
    `select coalesce(sum(items), 0) as items from market_sync.activity where kind = 'publish'`,
  );
  return rows[0]?.items ?? 0;
}

test('a listing that changes all the time is written once an interval, first and last change included', async () => {
  const INTERVAL_MS = 1_000;
  const CHANGES = 60;
  const running = await startTestPipeline({ settings: { PUBLISH_INTERVAL_MS: String(INTERVAL_MS) } });
  try {
    const { bookingId, sensorId } = await book(running);
    const before = await countWrites(running);
    const startedAt = performance.now();
    for (let number = 1; number <= CHANGES; number += 1) await report(running, sensorId, number);
    await running.settle();
    const elapsedMs = performance.now() - startedAt;
    const writes = (await countWrites(running)) - before;
    expect(writes).toBeGreaterThanOrEqual(1);
    expect(writes).toBeLessThanOrEqual(2 + elapsedMs / INTERVAL_MS);
    const listing = await running.market.market.listings.findOne({ booking_id: bookingId });
    expect(listing?.sensors).toMatchObject({ humidity: { value: CHANGES } });
    const [state] = await query<{ revision: number; published_revision: number }>(
      running.database.pool,
      'select revision, published_revision from market_sync.snapshot_state',
    );
    expect(state?.published_revision).toBe(state?.revision);
  } finally {
    await running.stop();
  }
});

test('what a person decides does not wait for the end of the interval, and what waits is no retry', async () => {
  const running = await startTestPipeline({ settings: { PUBLISH_INTERVAL_MS: '60000' } });
  try {
    const { bookingId, sensorId } = await book(running);
    const { pool } = running.database;
    await report(running, sensorId, 5);
    await expect
      .poll(
        async () => (await query(pool, `select count from market_sync.queue where state = 'to_publish'`))[0],
      )
      .toEqual({ count: 1 });
    expect(
      await query(pool, `select count from market_sync.queue where state = 'waiting_for_retry'`),
    ).toEqual([{ count: 0 }]);
    await query(pool, `select market_sync.hold(array[$1]::uuid[], 'mould seen')`, [bookingId]);
    await expect
      .poll(async () => running.market.market.listings.findOne({ booking_id: bookingId }), {
        timeout: 20_000,
      })
      .toMatchObject({ status: 'held', sensors: { humidity: { value: 5 } } });
  } finally {
    await running.stop();
  }
});

test('a traced booking has every instant of its change, in order, and nobody else has any', async () => {
  const running = await startTestPipeline();
  try {
    const { bookingId, sensorId } = await book(running);
    const other = await book(running);
    const { pool } = running.database;
    await query(pool, `select market_sync.trace_latency($1, '1 minute')`, [bookingId]);
    await report(running, sensorId, 7);
    await report(running, other.sensorId, 8);
    await running.settle();
    const INSTANTS =
      'committed_at, received_at, reconcile_started_at, reconciled_at, claimed_at, replied_at, marked_at'.split(
        ', ',
      );
    const rows = await query<Record<string, unknown>>(pool, 'select * from market_sync.latency_trace');
    expect(rows).toHaveLength(1);
    expect(rows[0]).toMatchObject({ booking_id: bookingId, epoch: 1, revision: 2 });
    const times = INSTANTS.map((name) => rows[0]?.[name] as Date);
    for (const [index, time] of times.entries()) {
      expect(time, INSTANTS[index]).toBeInstanceOf(Date);
      // The consumer's and the publisher's instants are reckoned back over a round trip; a commit is known to the millisecond.
      if (index > 0)
        expect(time.getTime(), INSTANTS[index]).toBeGreaterThanOrEqual(
          (times[index - 1]?.getTime() ?? 0) - 20,
        );
    }
    await query(pool, `select market_sync.trace_latency($1, '0')`, [bookingId]);
    await report(running, sensorId, 9);
    await running.settle();
    expect(await query(pool, 'select from market_sync.latency_trace')).toHaveLength(1);
    await expect(query(pool, `select market_sync.trace_latency($1, '2 hours')`, [bookingId])).rejects.toThrow(
      /an hour/,
    );
  } finally {
    await running.stop();
  }
});
