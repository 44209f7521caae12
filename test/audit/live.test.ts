import { setTimeout as delay } from 'node:timers/promises';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { createScene, type Scene } from '../support/scene.ts';
import { audit, auditContext, fill } from './stage.ts';

let scene: Scene;

beforeAll(async () => {
  scene = await createScene();
  await scene.start();
  await fill(scene.database.pool, { bookings: 300, locations: 60 });
  await scene.settle();
});

afterAll(() => scene.stop());

const servers = () => ({ pool: scene.database.pool, market: scene.market.market });

test('I1: while an application writes, an audit reports nothing that is on its way', async () => {
  const { pool } = scene.database;
  let writing = true;
  const statements = [
    `update storage_bookings set quantity_kg = quantity_kg + 1 where id = (select id from storage_bookings where booking_status = 'active' order by random() limit 1)`,
    `insert into sensor_readings (sensor_id, reading_value, reading_unit, reading_time)
     select id, random() * 40, 'u', clock_timestamp() from iot_sensors order by random() limit 3`,
    `update pest_detections set resolved_at = case when resolved_at is null then now() end where id = (select id from pest_detections order by random() limit 1)`,
    `insert into storage_bookings (farmer_id, vendor_id, location_id, crop_type, quantity_kg, booking_status)
     select farmer_id, vendor_id, location_id, 'Rice', 1, 'active' from storage_bookings order by random() limit 1`,
    `update storage_bookings set booking_status = case booking_status when 'active' then 'completed' else 'active' end
     where id = (select id from storage_bookings order by random() limit 1)`,
    `delete from storage_bookings where id = (select id from storage_bookings order by random() limit 1)`,
  ];
  let written = 0;
  const write = async (offset: number): Promise<void> => {
    for (let n = offset; writing; n += 1) {
      await pool.query(statements[n % statements.length] ?? '');
      written += 1;
      await delay(60); // As fast as an application, not as a machine.
    }
  };
  const writers = [write(0), write(3)];
  let audits = 0;
  const deadline = performance.now() + 6_000;
  try {
    while (performance.now() < deadline || audits < 2) {
      const { counts, found } = await audit(auditContext(servers(), { chunkMax: 100 }), { repair: 'off' });
      expect({ counts, found: [...found] }).toEqual({ counts: [], found: [] });
      audits += 1;
    }
  } finally {
    writing = false;
    await Promise.all(writers);
  }
  expect(written).toBeGreaterThan(20);
  await scene.settle();
});
