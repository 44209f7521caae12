import { expect, test } from 'vitest';
import { query } from '../../src/postgres.ts';
import { reconcileBookings } from '../../src/store/reconcile.ts';
import { insertBooking, insertInspection } from '../support/application.ts';
import { createDatabase } from '../support/postgres.ts';
import { createScene } from '../support/scene.ts';

test('D5: a day that JSON cannot hold is shown as none, and so is no change of none', async () => {
  const { pool, drop } = await createDatabase({ template: 'migrated' });
  try {
    const [ids] = await query<{ vendor: string; booking: string }>(
      pool,
      `with vendor as (insert into vendors default values returning id),
         certificate as (insert into compliance_certificates (vendor_id, certificate_type) select id, 'HACCP' from vendor)
       insert into storage_bookings (farmer_id, vendor_id, crop_type, quantity_kg, booking_status)
       select gen_random_uuid(), id, 'wheat', 1, 'active' from vendor returning id as booking, vendor_id as vendor`,
    );
    const bookingIds = [ids?.booking ?? ''];
    const recompute = async (): Promise<boolean | undefined> =>
      (await reconcileBookings(pool, { bookingIds, now: undefined }))[0]?.changed;
    expect(await recompute()).toBe(true);
    for (const day of ['infinity', '-infinity', null]) {
      await query(pool, 'update compliance_certificates set issue_date = $1', [day]);
      expect(await recompute(), `issue_date ${day}`).toBe(false);
    }
    await query(pool, `update compliance_certificates set expiry_date = 'infinity'`);
    expect(await recompute(), 'expiry_date').toBe(false);
    await query(pool, `update compliance_certificates set issue_date = '2026-01-02'`);
    expect(await recompute(), 'a day that is shown').toBe(true);
  } finally {
    await drop();
  }
});

test('I1: a score that is no number is shown as none, which is a change of 0 and back', async () => {
  const scene = await createScene();
  try {
    const { pool } = scene.database;
    const inspectionId = await insertInspection(pool);
    const bookingId = await insertBooking(pool, { inspectionId });
    await scene.start();
    await scene.settle();
    for (const score of ['0', 'NaN', null, 'Infinity', '0', '-Infinity', '0.5', null]) {
      await query(pool, 'update crop_inspections set freshness_score = $1 where id = $2', [
        score,
        inspectionId,
      ]);
      await scene.settle();
      await scene.expectConverged([bookingId]);
      const found = await query(
        pool,
        `select kind, fields from market_sync.audit_look(array[$1::uuid], clock_timestamp()) where kind is not null`,
        [bookingId],
      );
      expect(found, `score ${score}`).toEqual([]);
    }
  } finally {
    await scene.stop();
  }
});

test("a certificate of the vendor that has the type of the booking's own has its place by id", async () => {
  const { pool, drop } = await createDatabase({ template: 'migrated' });
  try {
    await query(
      pool,
      `with vendor as (insert into vendors default values returning id),
         others as (insert into compliance_certificates (id, vendor_id, certificate_type)
           select given.id::uuid, vendor.id, type from vendor, (values
             ('00000000-0000-4000-8000-000000000001', 'storage_certificate'),
             ('00000000-0000-4000-8000-000000000003', 'storage_certificate'),
             ('00000000-0000-4000-8000-000000000004', 'HACCP'),
             ('00000000-0000-4000-8000-000000000005', 'zzz'),
             ('00000000-0000-4000-8000-000000000006', null)) given (id, type)),
         booking as (insert into storage_bookings (farmer_id, vendor_id, crop_type, quantity_kg, booking_status)
           select gen_random_uuid(), id, 'wheat', 1, 'active' from vendor, generate_series(1, 2) returning id)
       insert into storage_certificates (id, booking_id, certificate_status)
       select '00000000-0000-4000-8000-000000000002', id, 'issued' from booking limit 1`,
    );
    const bookings = await query<{ id: string }>(pool, 'select id from storage_bookings');
    await reconcileBookings(pool, { bookingIds: bookings.map(({ id }) => id), now: undefined });
    const rows = await query<{ ids: string; types: string[] }>(
      pool,
      `select (select string_agg(right(entry ->> 'id', 1), ' ' order by place)
           from jsonb_array_elements(certificates) with ordinality listed (entry, place)) as ids,
         certification_types as types
       from market_inventory_snapshots order by jsonb_array_length(certificates)`,
    );
    const types = ['HACCP', 'storage_certificate', 'zzz'];
    expect(rows).toEqual([
      { ids: '4 1 3 5 6', types },
      { ids: '4 1 2 3 5 6', types },
    ]);
  } finally {
    await drop();
  }
});
