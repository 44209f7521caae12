/** The snapshot table as the polling system before this one made it. */
export const OLD_SNAPSHOTS = `
  create table market_inventory_snapshots (
    id uuid primary key default gen_random_uuid(), booking_id uuid unique, farmer_id uuid, vendor_id uuid,
    location_id uuid, crop_type varchar(120), grade varchar(16), quantity_kg int, start_date timestamptz,
    end_date timestamptz, duration_days int, inspection_id uuid, inspection_status varchar(32),
    quality_score numeric(5, 2), freshness varchar(64), visual_defects text, shelf_life_days int, sensors jsonb,
    sensor_summary jsonb, pest_events jsonb, has_pest_alerts boolean, pest_count int, certificates jsonb,
    is_certified boolean, certification_types text[], status varchar(32), market_listing_id varchar(64),
    published_at timestamptz, last_synced_at timestamptz, metadata jsonb, created_at timestamptz,
    updated_at timestamptz);
  create index on market_inventory_snapshots (status)`;
