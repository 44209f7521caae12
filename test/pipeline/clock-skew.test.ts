import { afterEach, expect, test, vi } from 'vitest';
import { insertBooking, insertLocation, insertReading, insertSensor } from '../support/application.ts';
import { until } from '../support/pipeline.ts';
import { createScene, type Scene } from '../support/scene.ts';

// Row 36: the clock of the service is wrong by hours. PostgreSQL's decides about windows, expiries and leases.

const HOUR_MS = 3_600_000;

let scene: Scene;

afterEach(async () => {
  vi.useRealTimers();
  await scene?.stop();
});

const sensorHealth = async (bookingId: string): Promise<unknown> =>
  (await scene.listing(bookingId))?.metadata as unknown;

test.each([
  ['ahead', 3 * HOUR_MS],
  ['behind', -3 * HOUR_MS],
] as const)(
  'row 36: with a clock three hours %s a sensor is as fresh as PostgreSQL says, and a lease as long',
  async (_, skewMs) => {
    scene = await createScene();
    // Only what tells the time of day: timers keep their own.
    vi.useFakeTimers({ toFake: ['Date'], now: Date.now() + skewMs });
    const first = await scene.start();
    const { pool } = scene.database;
    const locationId = await insertLocation(pool);
    const [fresh, stale] = [await insertBooking(pool, { locationId }), await insertBooking(pool, {})];
    await insertReading(pool, await insertSensor(pool, locationId), 5);
    await scene.settle();
    expect(await sensorHealth(fresh)).toMatchObject({ sensor_health: 'good' });
    expect(await sensorHealth(stale)).toMatchObject({ sensor_health: 'no_data' });

    // A second one by the same wrong clock finds the lease of the first one in force, and takes it over when it ends.
    const second = await scene.start({ until: 'standby' });
    expect(first.consumer.state).toBe('active');
    await first.stop();
    await until('the second is active', () => second.consumer.state === 'active');
    const { rows } = await pool.query<{ seconds: number }>(
      'select extract(epoch from lease_until - clock_timestamp())::float8 as seconds from market_sync.checkpoint',
    );
    expect(rows[0]?.seconds).toBeGreaterThan(0);
    expect(rows[0]?.seconds).toBeLessThan(10);
  },
);
