/**
 * Where a snapshot stands on its way to MongoDB. `held`: a person has taken it off the market until it is released.
 * `completed` and `withdrawn`: its booking has ended, or a person has withdrawn it.
 */
export const SNAPSHOT_STATUSES = [
  'ready_to_publish',
  'publishing',
  'published',
  'held',
  'completed',
  'withdrawn',
] as const;
type SnapshotStatus = (typeof SNAPSHOT_STATUSES)[number];

/**
 * One row of `market_inventory_snapshots`, as the driver returns it with this project's type parsers: numerics and
 * bigints as numbers, times as `Date` (or ±Infinity, which PostgreSQL can hold and JSON cannot), json parsed.
 */
export interface Snapshot {
  id: string;
  booking_id: string;
  farmer_id: string;
  vendor_id: string | null;
  location_id: string | null;
  crop_type: string;
  grade: string | null;
  quantity_kg: number;
  start_date: DatabaseTime;
  end_date: DatabaseTime;
  duration_days: number | null;
  inspection_id: string | null;
  inspection_status: string;
  quality_score: number | null;
  freshness: string;
  visual_defects: string;
  shelf_life_days: number | null;
  sensors: Record<string, unknown>;
  sensor_summary: Record<string, unknown>;
  pest_events: unknown[];
  has_pest_alerts: boolean;
  pest_count: number;
  certificates: unknown[];
  is_certified: boolean;
  certification_types: string[];
  status: SnapshotStatus;
  market_listing_id: string | null;
  published_at: DatabaseTime;
  last_synced_at: DatabaseTime;
  metadata: Record<string, unknown>;
  created_at: DatabaseTime;
  updated_at: DatabaseTime;
  epoch: number;
  revision: number;
}

export type DatabaseTime = Date | number | null;

/** ISO 8601 in UTC with milliseconds; null for no time and for PostgreSQL's infinities, which JSON cannot hold. */
export function toIso(time: DatabaseTime): string | null {
  return time instanceof Date && !Number.isNaN(time.getTime()) ? time.toISOString() : null;
}
