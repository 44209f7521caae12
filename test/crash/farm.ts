import { randomInt, randomUUID } from 'node:crypto';
import { inTransaction, query } from '../../src/postgres.ts';
import {
  insertBooking,
  insertCertificate,
  insertInspection,
  insertLocation,
  insertReading,
  insertSensor,
  insertVendor,
  setStatus,
} from '../support/application.ts';
import type { Stage } from './stage.ts';

/** What one case is about: some bookings of one location and vendor. */
export interface Farm {
  bookingIds: string[];
  /** Bookings that ended long ago, to be cleaned away. */
  expiring: string[];
  locationId: string;
  sensorId: string;
  /** The inspection of the first booking. */
  inspectionId: string;
}

export async function createFarm({ scene }: Stage, size: number): Promise<Farm> {
  const { pool } = scene.database;
  const locationId = await insertLocation(pool);
  const vendorId = await insertVendor(pool);
  const inspectionId = await insertInspection(pool);
  const sensorId = await insertSensor(pool, locationId);
  await insertReading(pool, sensorId, 4.5);
  await insertCertificate(pool, vendorId, '2999-12-31');
  const bookingIds = [await insertBooking(pool, { locationId, vendorId, inspectionId })];
  const others = await query<{ id: string }>(
    pool,
    `insert into storage_bookings (farmer_id, location_id, vendor_id, crop_type, quantity_kg, booking_status)
     select gen_random_uuid(), $1, $2, 'Potato', 100 + i, 'active' from generate_series(2, $3) i returning id`,
    [locationId, vendorId, size],
  );
  bookingIds.push(...others.map((row) => row.id));
  await scene.settle();
  return { bookingIds, expiring: [], locationId, sensorId, inspectionId };
}

/** The application goes on: two transactions, of which the first concerns one booking and the second all of the farm. */
export async function change(stage: Stage, farm: Farm): Promise<void> {
  await changeFirst(stage, farm);
  await insertReading(stage.scene.database.pool, farm.sensorId, randomInt(1_000) / 10);
}

/** As `change`, the first booking only. */
export async function changeFirst({ scene }: Stage, { bookingIds, inspectionId }: Farm): Promise<void> {
  await query(
    scene.database.pool,
    `with inspection as (update crop_inspections set visual_defects = 'mould ' || $2 where id = $3)
     update storage_bookings set quantity_kg = $2::int where id = $1`,
    [bookingIds[0], String(randomInt(1, 1_000_000)), inspectionId],
  );
}

/** A reading that capture does not see, as while its trigger is disabled. */
export async function readUnseen({ scene }: Stage, { sensorId }: Farm): Promise<void> {
  await inTransaction(scene.database.pool, async (client) => {
    await query(client, 'alter table sensor_readings disable trigger market_sync_insert');
    await insertReading(client, sensorId, 99);
    await query(client, 'alter table sensor_readings enable always trigger market_sync_insert');
  });
}

/** Bookings that were cancelled longer ago than the retention. */
export async function addExpiring({ scene }: Stage, farm: Farm): Promise<void> {
  const { pool } = scene.database;
  for (let count = 0; count < 3; count += 1) {
    farm.expiring.push(await insertBooking(pool, { locationId: farm.locationId }));
  }
  await scene.settle();
  for (const id of farm.expiring) await setStatus(pool, id, 'cancelled');
  await scene.settle();
  await query(
    pool,
    `update market_inventory_snapshots set ended_at = ended_at - interval '91 days' where booking_id = any ($1)`,
    [farm.expiring],
  );
}

/** What buyers see of bookings that nobody here knows. */
export async function addGhosts({ scene }: Stage, count: number): Promise<string[]> {
  const ids = Array.from({ length: count }, () => randomUUID());
  const ghosts = ids.map((id) => ({ booking_id: id, epoch: 0, revision: 1, status: 'published' }));
  await scene.market.market.listings.insertMany(ghosts as never);
  return ids;
}
