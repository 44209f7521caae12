import type pg from 'pg';
import { query } from '../src/postgres.ts';

/** How large a database a case is measured on. */
export interface WorldSize {
  locations: number;
  bookings: number;
  readings: number;
}

/** Sensors of each location, one of each type. */
const SENSOR_TYPES = ['temperature', 'humidity', 'moisture', 'co2', 'gas'] as const;
export const SENSORS_PER_LOCATION = SENSOR_TYPES.length;

/**
 * Ids are computed, so that a case can name a row without having read it: the `number`-th (from 1) of its kind.
 * As an SQL expression of an integer expression.
 */
export const idSql = (
  kind: 'user' | 'vendor' | 'location' | 'inspection' | 'booking' | 'sensor',
  number: string,
): string => `md5('${kind} ' || (${number}))::uuid`;

/**
 * Fills the tables of Storage Guard, which must be empty, with a market of this size: the same rows for the same seed.
 * Set-based: a million readings take some seconds.
 */
export async function fillWorld(pool: pg.Pool, size: WorldSize, seed: number): Promise<void> {
  const { locations, bookings, readings } = size;
  const vendors = Math.max(1, Math.floor(locations / 4));
  const sensors = locations * SENSORS_PER_LOCATION;
  const perSensor = Math.max(1, Math.floor(readings / sensors));
  // A number in [0, 1) that depends on the seed, the row and what it is for.
  const chance = (row: string, use: string): string =>
    `((hashtextextended('${use} ' || ${row}, ${seed}) & 1048575) / 1048576.0)`;
  const statements = [
    `insert into users (id, name) select ${idSql('user', 'i')}, 'farmer ' || i from generate_series(1, 1000) i`,
    `insert into vendors (id, name) select ${idSql('vendor', 'i')}, 'vendor ' || i from generate_series(1, ${vendors}) i`,
    `insert into storage_locations (id, vendor_id, name, type)
     select ${idSql('location', 'i')}, ${idSql('vendor', `i % ${vendors} + 1`)}, 'store ' || i, 'cold'
     from generate_series(1, ${locations}) i`,
    `insert into crop_inspections (id, farmer_id, freshness, freshness_score, visual_defects, shelf_life_days)
     select ${idSql('inspection', 'i')}, ${idSql('user', 'i % 1000 + 1')}, 'fresh', round((${chance('i', 'score')} * 100)::numeric, 1),
       'a few bruises', (${chance('i', 'life')} * 90)::int
     from generate_series(1, ${bookings}) i where i % 5 < 3`,
    `insert into storage_bookings (id, farmer_id, location_id, vendor_id, crop_type, quantity_kg, grade, duration_days,
       start_date, end_date, booking_status, ai_inspection_id)
     select ${idSql('booking', 'i')}, ${idSql('user', 'i % 1000 + 1')}, ${idSql('location', `i % ${locations} + 1`)},
       ${idSql('vendor', `(i % ${locations} + 1) % ${vendors} + 1`)},
       (array['Tomato', 'Onion', 'Potato', 'Coffee', 'Wheat'])[i % 5 + 1], 100 + (${chance('i', 'kg')} * 5000)::int, 'A', 90,
       now() - interval '10 days', now() + interval '80 days', 'active',
       case when i % 5 < 3 then ${idSql('inspection', 'i')} end
     from generate_series(1, ${bookings}) i`,
    `insert into iot_sensors (id, location_id, sensor_type, device_id)
     select ${idSql('sensor', 'i')}, ${idSql('location', `(i - 1) / ${SENSORS_PER_LOCATION} + 1`)},
       (array['${SENSOR_TYPES.join("', '")}'])[(i - 1) % ${SENSORS_PER_LOCATION} + 1], 'device ' || i
     from generate_series(1, ${sensors}) i`,
    `insert into sensor_readings (id, sensor_id, reading_value, reading_unit, reading_time)
     select gen_random_uuid(), ${idSql('sensor', 'i')}, round((20 + ${chance(`i || ' ' || n`, 'reading')} * 5)::numeric, 2), '°C',
       now() - n * interval '1 minute'
     from generate_series(${perSensor}, 1, -1) n, generate_series(1, ${sensors}) i`,
    `insert into pest_detections (location_id, pest_type, severity_level, confidence_score, detected_at)
     select ${idSql('location', 'i')}, 'weevil', (array['low', 'medium', 'high'])[n], ${chance(`i || ' ' || n`, 'pest')},
       now() - n * interval '2 days' - interval '1 hour'
     from generate_series(1, ${locations}) i, generate_series(1, 3) n`,
    `insert into pest_detections (location_id, pest_type, severity_level, confidence_score, detected_at)
     select ${idSql('location', 'i')}, 'moth', 'low', 0.5, now() - n * interval '30 days'
     from generate_series(1, ${locations}) i, generate_series(1, 3) n`,
    `insert into compliance_certificates (vendor_id, certificate_type, certificate_number, issuing_authority, issue_date,
       expiry_date, score)
     select ${idSql('vendor', 'i')}, (array['HACCP', 'ISO22000', 'FSSAI'])[n], 'C-' || i || '-' || n, 'authority',
       current_date - 100, current_date + 200, 90
     from generate_series(1, ${vendors}) i, generate_series(1, 3) n`,
    `insert into storage_certificates (booking_id, certificate_number, certificate_status, issued_date, issued_by)
     select ${idSql('booking', 'i')}, 'S-' || i, 'issued', now() - interval '5 days', 'market'
     from generate_series(1, ${bookings}) i where i % 3 = 0`,
  ];
  const client = await pool.connect();
  try {
    await query(client, 'set statement_timeout = 0');
    await query(client, 'set synchronous_commit = off');
    for (const statement of statements) await query(client, statement);
    await query(client, 'vacuum analyze');
    await query(client, 'checkpoint');
  } finally {
    client.release(true);
  }
}
