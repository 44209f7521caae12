import { randomUUID } from 'node:crypto';
import type pg from 'pg';

/** What the Storage Guard application writes. Each call is one statement, committed unless `db` is in a transaction. */
type Db = Pick<pg.ClientBase, 'query'>;

const one = async <Row extends pg.QueryResultRow>(db: Db, text: string, values: unknown[]): Promise<Row> => {
  const { rows } = await db.query<Row>(text, values);
  if (rows[0] === undefined) throw new Error('no row');
  return rows[0];
};

const insertReturningId = async (db: Db, text: string, values: unknown[] = []): Promise<string> =>
  (await one<{ id: string }>(db, `${text} returning id`, values)).id;

export const insertVendor = (db: Db): Promise<string> =>
  insertReturningId(db, `insert into vendors (name) values ('Cold Rooms')`);

export const insertLocation = (db: Db): Promise<string> =>
  insertReturningId(db, `insert into storage_locations (name) values ('Hall 1')`);

export const insertInspection = (db: Db, visualDefects = 'none'): Promise<string> =>
  insertReturningId(
    db,
    `insert into crop_inspections (freshness, freshness_score, visual_defects, shelf_life_days)
     values ('fresh', 87.5, $1, 21)`,
    [visualDefects],
  );

export const insertBooking = (
  db: Db,
  booking: {
    id?: string;
    locationId?: string;
    vendorId?: string;
    inspectionId?: string;
    quantityKg?: number;
    status?: string;
  } = {},
): Promise<string> =>
  insertReturningId(
    db,
    `insert into storage_bookings (id, farmer_id, location_id, vendor_id, ai_inspection_id, crop_type, quantity_kg, booking_status)
     values ($1, '7e2c0a4e-6f52-4a6c-9d6e-0c9b3f3f1a01', $2, $3, $4, 'Tomato', $5, $6)`,
    [
      booking.id ?? randomUUID(),
      booking.locationId ?? null,
      booking.vendorId ?? null,
      booking.inspectionId ?? null,
      booking.quantityKg ?? 1,
      booking.status ?? 'active',
    ],
  );

export const setQuantity = (db: Db, bookingId: string, quantityKg: number): Promise<unknown> =>
  db.query('update storage_bookings set quantity_kg = $2 where id = $1', [bookingId, quantityKg]);

export const setStatus = (db: Db, bookingId: string, status: string): Promise<unknown> =>
  db.query('update storage_bookings set booking_status = $2 where id = $1', [bookingId, status]);

export const insertSensor = (db: Db, locationId: string, type = 'temperature'): Promise<string> =>
  insertReturningId(
    db,
    'insert into iot_sensors (location_id, sensor_type, created_at) values ($1, $2, $3)',
    [locationId, type, '2026-01-01T00:00:00Z'],
  );

export const insertReading = (db: Db, sensorId: string, value: number, time?: Date): Promise<string> =>
  insertReturningId(
    db,
    `insert into sensor_readings (sensor_id, reading_value, reading_unit, reading_time)
     values ($1, $2, '°C', coalesce($3, clock_timestamp()))`,
    [sensorId, value, time ?? null],
  );

export const insertDetection = (db: Db, locationId: string, detectedAt?: Date): Promise<string> =>
  insertReturningId(
    db,
    `insert into pest_detections (location_id, pest_type, severity_level, confidence_score, detected_at)
     values ($1, 'weevil', 'high', 0.9, coalesce($2, clock_timestamp()))`,
    [locationId, detectedAt ?? null],
  );

export const insertCertificate = (db: Db, vendorId: string, expiryDate: string): Promise<string> =>
  insertReturningId(
    db,
    `insert into compliance_certificates (vendor_id, certificate_type, issue_date, expiry_date)
     values ($1, 'HACCP', '2026-01-01', $2)`,
    [vendorId, expiryDate],
  );
