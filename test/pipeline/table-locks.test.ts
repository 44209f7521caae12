import { afterAll, afterEach, beforeAll, expect, test } from 'vitest';
import { BEGIN, query } from '../../src/postgres.ts';
import {
  insertBooking,
  insertDetection,
  insertLocation,
  insertReading,
  insertSensor,
} from '../support/application.ts';
import { recordLog } from '../support/log-recorder.ts';
import { until } from '../support/pipeline.ts';
import { createScene, type Scene } from '../support/scene.ts';

// I5: whatever order an application locks its tables in, a recompute that reads them gives way.

let scene: Scene;

beforeAll(async () => {
  scene = await createScene();
});
afterEach(() => scene.stopPipelines());
afterAll(() => scene?.stop());

const WAITING = `select from pg_locks where not granted and relation = $1::regclass and mode = 'AccessShareLock'`;

test.each([
  { who: 'a recompute', first: 'pest_detections', second: 'sensor_readings', byHand: false },
  { who: 'what finds its bookings', first: 'storage_bookings', second: 'iot_sensors', byHand: false },
  { who: 'a recompute by hand', first: 'pest_detections', second: 'sensor_readings', byHand: true },
])(
  'I5, row 31: of $who, which waits for $first and has read $second, and an application that locks both, the application goes on',
  async ({ first, second, byHand }) => {
    const { pool } = scene.database;
    const recorder = recordLog();
    const pipeline = await scene.start({ log: recorder.log });
    const locationId = await insertLocation(pool);
    const sensorId = await insertSensor(pool, locationId);
    await insertReading(pool, sensorId, 20);
    await insertDetection(pool, locationId);
    const bookingId = await insertBooking(pool, { locationId });
    await scene.settle();
    if (byHand) await pipeline.stop();
    const application = await pool.connect();
    let recomputed: Promise<unknown> = Promise.resolve();
    try {
      await query(application, BEGIN);
      await query(application, `lock table ${first} in access exclusive mode`);
      await insertReading(pool, sensorId, 21);
      if (byHand) recomputed = query(pool, 'select market_sync.reconcile(array[$1::uuid])', [bookingId]);
      // Longer than it takes PostgreSQL to look for a deadlock.
      const startedAt = performance.now();
      await until(`${first} has been waited for for two seconds`, async () => {
        const rows = await query(pool, WAITING, [first]);
        return rows.length > 0 && performance.now() - startedAt > 2_000;
      });
      await query(application, `lock table ${second} in access exclusive mode`);
      await query(application, 'commit');
    } finally {
      application.release(true);
    }
    await recomputed;
    if (byHand) await scene.start();
    await scene.settle();
    expect(await scene.listing(bookingId)).toMatchObject({ sensors: { temperature: { value: 21 } } });
    await scene.expectConverged([bookingId]);
    expect(recorder.count('consumer interrupted, coming back')).toBe(0);
  },
);
