import { describeError } from '../errors.ts';
import type { Market } from '../mongo.ts';
import { type Database, query } from '../postgres.ts';

/** Rows of the application as they stand there: names and values are its own. */
type SourceRow = Record<string, unknown>;

/** What a booking's snapshot is made from. Lists are cut at `SOURCE_ROWS_MAX`; `cut` names those that were. */
export interface Source {
  booking: SourceRow;
  location: SourceRow | null;
  inspection: SourceRow | null;
  /** The location's, each with its newest reading. */
  sensors: (SourceRow & { newest_reading: SourceRow | null })[];
  /** The location's, newest first, whether in the window or not. */
  pest_detections: SourceRow[];
  /** The vendor's, whether valid or not. */
  certificates: SourceRow[];
  storage_certificate: SourceRow | null;
  cut: string[];
}

export const SOURCE_ROWS_MAX = 50;

const LISTS = ['sensors', 'pest_detections', 'certificates'] as const;

/** The source rows of a booking, of one moment; undefined when the application has no such booking. */
export async function readSource(db: Database, bookingId: string): Promise<Source | undefined> {
  const rows = await query<{ source: Omit<Source, 'cut'> }>(
    db,
    `select jsonb_build_object(
       'booking', to_jsonb(b),
       'location', (select to_jsonb(l) from storage_locations l where l.id = b.location_id),
       'inspection', (select to_jsonb(i) from crop_inspections i where i.id = b.ai_inspection_id),
       'sensors', (select coalesce(jsonb_agg(entry), '[]') from (
         select to_jsonb(n) || jsonb_build_object('newest_reading', (
           select to_jsonb(r) from sensor_readings r where r.sensor_id = n.id
           order by r.reading_time desc, r.id desc limit 1)) as entry
         from iot_sensors n where n.location_id = b.location_id order by n.sensor_type, n.id limit $2) found),
       'pest_detections', (select coalesce(jsonb_agg(entry), '[]') from (
         select to_jsonb(p) as entry from pest_detections p where p.location_id = b.location_id
         order by coalesce(p.detected_at, p.created_at) desc nulls last, p.id desc limit $2) found),
       'certificates', (select coalesce(jsonb_agg(entry), '[]') from (
         select to_jsonb(c) as entry from compliance_certificates c where c.vendor_id = b.vendor_id
         order by c.certificate_type, c.id limit $2) found),
       'storage_certificate', (select to_jsonb(sc) from storage_certificates sc where sc.booking_id = b.id limit 1)
     ) as source
     from storage_bookings b where b.id = $1`,
    [bookingId, SOURCE_ROWS_MAX + 1],
  );
  const found = rows[0]?.source;
  if (found === undefined) return undefined;
  const cut = LISTS.filter((name) => found[name].length > SOURCE_ROWS_MAX);
  const source: Source = { ...found, cut };
  return {
    ...source,
    sensors: source.sensors.slice(0, SOURCE_ROWS_MAX),
    pest_detections: source.pest_detections.slice(0, SOURCE_ROWS_MAX),
    certificates: source.certificates.slice(0, SOURCE_ROWS_MAX),
  };
}

/** Where a snapshot stands on its way to MongoDB. */
export interface OutboxState {
  epoch: number;
  revision: number;
  published_epoch: number;
  published_revision: number;
  next_refresh_at: Date | null;
  claimed_by: string | null;
  lease_until: Date | null;
  attempts: number;
  first_failed_at: Date | null;
  last_failed_at: Date | null;
  last_error: string | null;
  failed_stage: 'reconcile' | 'publish' | null;
  parked_at: Date | null;
}

export async function findOutboxState(db: Database, bookingId: string): Promise<OutboxState | undefined> {
  const rows = await query<OutboxState & Record<string, unknown>>(
    db,
    `select epoch, revision, published_epoch, published_revision, next_refresh_at, claimed_by, lease_until, attempts,
       first_failed_at, last_failed_at, last_error, failed_stage, parked_at
     from market_sync.snapshot_state where booking_id = $1`,
    [bookingId],
  );
  return rows[0];
}

export type ListingRead =
  | { outcome: 'read'; listing: Record<string, unknown> | undefined }
  | { outcome: 'unavailable'; error: string };

/** The booking's document as MongoDB has it, whoever wrote it; gives up after `timeoutMs`, and never throws. */
export async function readListing(
  market: Market,
  { bookingId, timeoutMs }: { bookingId: string; timeoutMs: number },
): Promise<ListingRead> {
  let timer: NodeJS.Timeout | undefined;
  const late = new Promise<ListingRead>((resolve) => {
    const error = `MongoDB does not answer within ${timeoutMs} ms`;
    timer = setTimeout(() => resolve({ outcome: 'unavailable', error }), timeoutMs);
  });
  const read = market.listings.findOne({ booking_id: bookingId }, { maxTimeMS: timeoutMs }).then(
    (document): ListingRead => ({
      outcome: 'read',
      listing: document === null ? undefined : { ...document },
    }),
    (error: unknown): ListingRead => ({ outcome: 'unavailable', error: describeError(error) }),
  );
  try {
    return await Promise.race([read, late]);
  } finally {
    clearTimeout(timer);
  }
}
