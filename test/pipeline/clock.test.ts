import { afterAll, beforeAll, expect, test } from 'vitest';
import type { Pipeline } from '../../pipeline/pipeline.ts';
import { refreshDue } from '../../pipeline/schedules.ts';
import {
  insertBooking,
  insertCertificate,
  insertDetection,
  insertLocation,
  insertReading,
  insertSensor,
  insertVendor,
} from '../support/application.ts';
import { createClock, until } from '../support/pipeline.ts';
import { createScene, type Scene } from '../support/scene.ts';

// Time is a source (D10): no row changes in these tests after the first settle, only the clock.

const MINUTE_MS = 60_000;
const DAY_MS = 24 * 60 * MINUTE_MS;

const clock = createClock(new Date('2026-03-01T12:00:00.000Z'));
let scene: Scene;
let pipeline: Pipeline;

beforeAll(async () => {
  scene = await createScene({ clock });
  pipeline = await scene.start();
});

afterAll(() => scene?.stop());

/** A booking with a sensor heard just now, a detection of just now, and a certificate that expires tomorrow. */
async function insertPerishable(): Promise<string> {
  const { pool } = scene.database;
  const [locationId, vendorId] = [await insertLocation(pool), await insertVendor(pool)];
  const sensorId = await insertSensor(pool, locationId);
  await insertReading(pool, sensorId, 4, clock.now());
  await insertDetection(pool, locationId, clock.now());
  const tomorrow = new Date(clock.now().getTime() + DAY_MS).toISOString().slice(0, 10);
  await insertCertificate(pool, vendorId, tomorrow);
  const bookingId = await insertBooking(pool, { locationId, vendorId });
  await scene.settle();
  return bookingId;
}

const fresh = {
  pest_count: 1,
  has_pest_alerts: true,
  is_certified: true,
  metadata: { sensor_health: 'good' },
};

test('D10: a silent sensor, an expired certificate and a detection leave the listing by the clock alone, each at its time', async () => {
  const bookingId = await insertPerishable();
  expect(await scene.listing(bookingId)).toMatchObject({ ...fresh, revision: 1 });
  const steps = [
    { afterMs: 60 * MINUTE_MS - 1, shows: fresh, revision: 1 },
    { afterMs: 1, shows: { metadata: { sensor_health: 'stale' }, is_certified: true }, revision: 2 },
    // Noon of the first to the last millisecond of the second: valid through the end of its expiry date.
    { afterMs: 35 * 60 * MINUTE_MS - 1, shows: { is_certified: true }, revision: 2 },
    { afterMs: 1, shows: { is_certified: false, certificates: [], pest_count: 1 }, revision: 3 },
    { afterMs: 5.5 * DAY_MS - 1, shows: { pest_count: 1 }, revision: 3 },
    { afterMs: 1, shows: { pest_count: 0, has_pest_alerts: false, pest_events: [] }, revision: 4 },
  ];
  for (const { afterMs, shows, revision } of steps) {
    clock.advance(afterMs);
    await scene.settle();
    expect(await scene.listing(bookingId)).toMatchObject({ ...shows, revision });
    await scene.expectConverged([bookingId]);
  }
  expect(
    await refreshDue({ pool: scene.database.pool, clock: () => clock.now() }, new AbortController().signal),
  ).toEqual({ refreshed: 0, changed: 0 });
});

test('row 28: what the clock changes while the pipeline is down is refreshed after its return', async () => {
  const bookingId = await insertPerishable();
  await pipeline.stop();
  clock.advance(8 * DAY_MS);
  pipeline = await scene.start();
  await pipeline.queue.trigger('refresh');
  await until('the listing follows', async () => (await scene.listing(bookingId))?.pest_count === 0);
  // MongoDB has it; the mark in PostgreSQL follows.
  await scene.settle();
  await scene.expectConverged([bookingId]);
});
