import { type Snapshot, toIso } from './snapshot.ts';

/**
 * What buyers read: one document per booking in Market Connect's collection `market_listings`. UUIDs are strings,
 * times ISO 8601 strings in UTC, numerics numbers. `(epoch, revision)` orders the versions of one booking's listing:
 * it never goes down (I3).
 */
export interface Listing {
  booking_id: string;
  farmer_id: string;
  vendor_id: string | null;
  location_id: string | null;
  crop_type: string;
  quantity_kg: number;
  grade: string | null;
  duration_days: number | null;
  start_date: string | null;
  end_date: string | null;
  quality_score: number | null;
  freshness: string;
  visual_defects: string;
  shelf_life_days: number | null;
  sensors: Record<string, unknown>;
  sensor_summary: Record<string, unknown>;
  pest_events: unknown[];
  pest_count: number;
  has_pest_alerts: boolean;
  certificates: unknown[];
  is_certified: boolean;
  certification_types: string[];
  metadata: Record<string, unknown>;
  status: ListingStatus;
  published_at: string;
  epoch: number;
  revision: number;
}

/**
 * Buyers see `published` ones. `held` is off the market until released; `completed` and `withdrawn` listings are tombstones:
 * they stay until cleanup so that no late write revives them.
 */
type ListingStatus = 'published' | 'held' | 'completed' | 'withdrawn';

/** Whether this is the `_id` of a listing of ours: 24 hex digits. Another system's may be anything. */
export const isListingId = (id: string | null): id is string => id !== null && /^[0-9a-f]{24}$/i.test(id);

/** The listing that a snapshot says there should be. `publishedAt` is when the booking was first published, or now. */
export function toListing(snapshot: Snapshot, publishedAt: Date): Listing {
  return {
    booking_id: snapshot.booking_id,
    farmer_id: snapshot.farmer_id,
    vendor_id: snapshot.vendor_id,
    location_id: snapshot.location_id,
    crop_type: snapshot.crop_type,
    quantity_kg: snapshot.quantity_kg,
    grade: snapshot.grade,
    duration_days: snapshot.duration_days,
    start_date: toIso(snapshot.start_date),
    end_date: toIso(snapshot.end_date),
    quality_score: snapshot.quality_score,
    freshness: snapshot.freshness,
    visual_defects: snapshot.visual_defects,
    shelf_life_days: snapshot.shelf_life_days,
    sensors: snapshot.sensors,
    sensor_summary: snapshot.sensor_summary,
    pest_events: snapshot.pest_events,
    pest_count: snapshot.pest_count,
    has_pest_alerts: snapshot.has_pest_alerts,
    certificates: snapshot.certificates,
    is_certified: snapshot.is_certified,
    certification_types: snapshot.certification_types,
    metadata: snapshot.metadata,
    status: listingStatus(snapshot.status),
    published_at: publishedAt.toISOString(),
    epoch: snapshot.epoch,
    revision: snapshot.revision,
  };
}

function listingStatus(status: Snapshot['status']): ListingStatus {
  return status === 'held' || status === 'completed' || status === 'withdrawn' ? status : 'published';
}
