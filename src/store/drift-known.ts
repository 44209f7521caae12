import { type Listing, toListing } from '../domain/listing.ts';
import type { Snapshot } from '../domain/snapshot.ts';
import { type Database, queryPrepared } from '../postgres.ts';
import type { SharedPart } from './listing-bytes.ts';

/** What PostgreSQL knows of a booking's listing. */
export interface Known extends Omit<Snapshot, SharedPart>, Record<SharedPart, string | null> {
  key: string;
  /** `quiet`: MongoDB has confirmed this very version, and nobody is writing. `none`: there is no snapshot, and none is to come. */
  standing: 'quiet' | 'in_flight' | 'parked' | 'none';
}

// What many listings share comes as text: it is read once for all of them, or not at all.
const READ_KNOWN = {
  name: 'audit_read_known',
  text: `
    select key.booking_id::text as key, s.booking_id, s.farmer_id, s.vendor_id, s.location_id, s.crop_type, s.grade,
      s.quantity_kg, s.start_date, s.end_date, s.duration_days, s.quality_score, s.freshness, s.visual_defects,
      s.shelf_life_days, s.sensors::text as sensors, s.sensor_summary::text as sensor_summary,
      s.pest_events::text as pest_events, s.pest_count, s.has_pest_alerts, s.certificates::text as certificates,
      s.is_certified, s.certification_types, s.metadata, s.status, s.market_listing_id, s.published_at, s.epoch, s.revision,
      case
        when s.booking_id is null then
          case when state.booking_id is not null or (b.id is not null
              and (b.booking_status is null or b.booking_status not in ('completed', 'cancelled')))
            then 'in_flight' else 'none' end
        when state.parked_at is not null then 'parked'
        when s.revision > 0 and (state.epoch, state.revision, state.published_epoch, state.published_revision)
            = (s.epoch, s.revision, s.epoch, s.revision)
          and (state.lease_until is null or state.lease_until < clock_timestamp() - interval '5 minutes') then 'quiet'
        else 'in_flight'
      end as standing
    from unnest($1::uuid[]) as key (booking_id)
    left join market_inventory_snapshots s on s.booking_id = key.booking_id
    left join market_sync.snapshot_state state on state.booking_id = key.booking_id
    left join storage_bookings b on b.id = key.booking_id and s.booking_id is null`,
};

/** What PostgreSQL knows of these bookings' listings, at one moment, by booking. */
export async function readKnown(db: Database, bookingIds: readonly string[]): Promise<Map<string, Known>> {
  const rows = await queryPrepared<Known & Record<string, unknown>>(db, READ_KNOWN, [bookingIds]);
  return new Map(rows.map((row) => [row.key, row]));
}

/** Null where somebody has emptied the column. */
const parseText = (text: string | null): unknown => JSON.parse(text ?? 'null');

/** The listing that there must be, whose shared parts are what `partOf` makes of their texts. */
export function toExpected(known: Known, partOf: (text: string | null) => unknown = parseText): Listing {
  const snapshot = {
    ...known,
    sensors: partOf(known.sensors),
    sensor_summary: partOf(known.sensor_summary),
    pest_events: partOf(known.pest_events),
    certificates: partOf(known.certificates),
  } as Snapshot;
  return toListing(snapshot, known.published_at instanceof Date ? known.published_at : new Date(0));
}
