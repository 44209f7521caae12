import { BSON } from 'mongodb';
import type pg from 'pg';
import type { Market } from '../../src/mongo.ts';

// A database and a MongoDB as the old system left them: years of bookings, its own table of snapshots beside them, and
// listings with whatever `_id` the old publisher got. Filled set-based, because it is large.

export interface OldSystem {
  bookings: number;
  readings: number;
  /** Listings in MongoDB, of the first bookings by id that are live. */
  listings: number;
}

/** Bookings that share a location. */
const BOOKINGS_PER_LOCATION = 25;
const SENSORS_PER_LOCATION = 4;

/** Fills the application's tables: four of five bookings are live, the others completed or cancelled. */
export async function fillSource(pool: pg.Pool, { bookings, readings }: OldSystem): Promise<void> {
  const locations = Math.max(1, Math.round(bookings / BOOKINGS_PER_LOCATION));
  const sensors = locations * SENSORS_PER_LOCATION;
  await inOneSession(pool, [
    `select setseed(0.42)`,
    `create temporary table place on commit preserve rows as
       select n, gen_random_uuid() as location_id, gen_random_uuid() as vendor_id from generate_series(1, ${locations}) n`,
    `insert into vendors (id, name) select vendor_id, 'Vendor ' || n from place`,
    `insert into storage_locations (id, vendor_id, name) select location_id, vendor_id, 'Hall ' || n from place`,
    `insert into iot_sensors (location_id, sensor_type, status, device_id, created_at)
     select location_id, (array['temperature', 'humidity', 'co2', 'temperature'])[k], 'active', 'd-' || n || '-' || k, now() - interval '1 year'
     from place cross join generate_series(1, ${SENSORS_PER_LOCATION}) k`,
    `insert into sensor_readings (sensor_id, reading_value, reading_unit, reading_time)
     select s.id, round((random() * 40)::numeric, 1), '°C', now() - make_interval(secs => 20 + 60 * k)
     from iot_sensors s cross join generate_series(0, ${Math.max(0, Math.ceil(readings / sensors) - 1)}) k`,
    `insert into pest_detections (location_id, pest_type, severity_level, confidence_score, detected_at)
     select location_id, 'weevil', (array['low', 'high', 'medium'])[1 + n % 3], 0.5, now() - make_interval(days => n % 20)
     from place where n % 2 = 0`,
    `insert into compliance_certificates (vendor_id, certificate_type, certificate_number, issue_date, expiry_date)
     select vendor_id, (array['HACCP', 'FSSAI'])[1 + n % 2], 'C-' || n, current_date - 400, current_date + n % 300 from place`,
    `create temporary table look on commit preserve rows as
       select n, gen_random_uuid() as id from generate_series(1, ${Math.ceil(bookings / 2)}) n`,
    `insert into crop_inspections (id, freshness, freshness_score, visual_defects, shelf_life_days)
     select id, (array['fresh', 'good'])[1 + n % 2], 60 + n % 40, 'none', n % 30 from look`,
    `insert into storage_bookings (farmer_id, location_id, vendor_id, crop_type, quantity_kg, grade, duration_days,
       start_date, end_date, booking_status, ai_inspection_id, created_at)
     select gen_random_uuid(), place.location_id, place.vendor_id, (array['Rice', 'Tomato', 'Onion'])[1 + b % 3], 10 + b % 900, 'A', 30,
       now() - interval '10 days', now() + interval '20 days',
       case b % 10 when 0 then 'completed' when 5 then 'cancelled' else 'active' end, look.id, now() - interval '10 days'
     from generate_series(1, ${bookings}) b
     join place on place.n = 1 + b % ${locations}
     left join look on look.n * 2 = b`,
    `analyze`,
  ]);
}

/** The old table of snapshots: rows of the bookings that are on Market Connect, and of some that are not yet. */
export async function fillOldSnapshots(pool: pg.Pool, { listings }: OldSystem): Promise<void> {
  await inOneSession(pool, [
    OLD_SNAPSHOTS,
    `insert into market_inventory_snapshots (booking_id, farmer_id, vendor_id, location_id, crop_type, grade, quantity_kg,
       inspection_status, quality_score, freshness, visual_defects, sensors, sensor_summary, pest_events, has_pest_alerts,
       pest_count, certificates, is_certified, certification_types, status, market_listing_id, published_at, metadata)
     select b.id, b.farmer_id, b.vendor_id, b.location_id, b.crop_type, b.grade, b.quantity_kg - 1,
       'pending', 0, 'unknown', '', '{}', '{}', '[]', false, 0, '[]', false, '{}',
       case when place % 10 = 0 then 'ready_to_publish' else 'published' end,
       case when place % 10 <> 0 then left(md5('told ' || place), 24) end,
       case when place % 10 <> 0 then now() - interval '9 days' end, '{}'
     from (select *, row_number() over (order by id) as place from storage_bookings
       where booking_status = 'active') b
     where place <= ${listings}`,
    `analyze market_inventory_snapshots`,
  ]);
}

/**
 * The old listings: without a version, under the `_id` that the old snapshot names, or, every tenth, one that nothing in
 * PostgreSQL tells of (its publisher died before it could say so). Answers booking → `_id`.
 */
export async function fillOldListings(
  pool: pg.Pool,
  market: Market,
  { listings }: OldSystem,
): Promise<Map<string, string>> {
  const { rows } = await pool.query<{ booking_id: string; listing_id: string; crop_type: string }>(
    `select booking_id, coalesce(market_listing_id, left(md5('untold ' || booking_id), 24)) as listing_id, crop_type
     from market_inventory_snapshots order by booking_id limit $1`,
    [listings],
  );
  const CHUNK = 1_000;
  for (let first = 0; first < rows.length; first += CHUNK) {
    await market.client
      .db(market.listings.dbName)
      .collection(market.listings.collectionName)
      .insertMany(
        rows.slice(first, first + CHUNK).map((row) => ({
          _id: BSON.ObjectId.createFromHexString(row.listing_id),
          booking_id: row.booking_id,
          crop_type: row.crop_type,
          quantity_kg: -1,
          status: 'published',
          old_field: 'of the old publisher',
        })),
      );
  }
  return new Map(rows.map((row) => [row.booking_id, row.listing_id]));
}

/** As the old system made it: none of the columns that the pipeline needs, none of its indexes but the unique one. */
const OLD_SNAPSHOTS = `
  create table market_inventory_snapshots (
    id uuid primary key default gen_random_uuid(),
    booking_id uuid not null unique,
    farmer_id uuid not null, vendor_id uuid, location_id uuid, crop_type varchar(120) not null, grade varchar(16),
    quantity_kg int not null, start_date timestamptz, end_date timestamptz, duration_days int, inspection_id uuid,
    inspection_status varchar(32), quality_score numeric(5, 2), freshness text, visual_defects text, shelf_life_days int,
    sensors jsonb, sensor_summary jsonb, pest_events jsonb, has_pest_alerts boolean, pest_count int, certificates jsonb,
    is_certified boolean, certification_types text[], status varchar(32) not null default 'ready_to_publish',
    market_listing_id varchar(64), published_at timestamptz, last_synced_at timestamptz, metadata jsonb,
    created_at timestamptz not null default now(), updated_at timestamptz not null default now())`;

/** Without the limits of the program's own sessions: filling takes a while. */
async function inOneSession(pool: pg.Pool, statements: string[]): Promise<void> {
  const client = await pool.connect();
  try {
    await client.query('set statement_timeout to 0');
    for (const statement of statements) await client.query(statement);
  } finally {
    client.release(true);
  }
}
