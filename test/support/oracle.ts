/**
 * The oracle: `domain.md`'s rules a second time, one booking at a time, in plain TypeScript over plain selects. It
 * shares no code with the program and is written to be obviously right, never to be fast. A difference between the
 * two is a bug in one of them.
 */
import type pg from 'pg';
import { INFINITY, type Instant, instantOf, isoOf } from '../oracle/instant.ts';
import { certificatesOf } from '../oracle/certificate-rules.ts';
import { isSevere, pestEvent, pestsInWindow } from '../oracle/pest-rules.ts';
import { compareBytes, finiteTime } from '../oracle/plain-values.ts';
import { latestReadings, sensorHealth, sensorsPart, summaryPart } from '../oracle/sensor-rules.ts';
import { loadWorldOfBooking, type World } from '../oracle/source-rows.ts';

export type OracleSettings = Readonly<{ pestWindowSeconds: number; sensorStaleSeconds: number }>;

export type ExpectedSensor = {
  value: number | null;
  unit: string | null;
  reading_time: string | null;
  status: string | null;
  alert_triggered: boolean;
};

export type ExpectedPestEvent = {
  pest_type: string;
  severity: string;
  confidence: number | null;
  detected_at: string | null;
  action_taken: string;
  resolved: boolean;
};

export type ExpectedMetadata = {
  is_certified: boolean;
  certification_types: string[];
  pest_alert_active: boolean;
  sensor_health: 'no_data' | 'alert' | 'stale' | 'good';
  buyer_contacts: never[];
  special_notes: string;
};

/**
 * What a snapshot must hold, in the columns' own names. `metadata.last_updated` is left out: it must equal the row's
 * `updated_at`, which nobody can compute beforehand. `status` is the one at rest, after publishing. Times are ISO
 * strings; a `start_date` or `end_date` of plus or minus infinity is those words.
 */
export type ExpectedContent = {
  booking_id: string;
  farmer_id: string;
  vendor_id: string | null;
  location_id: string | null;
  crop_type: string;
  grade: string | null;
  quantity_kg: number;
  start_date: string | null;
  end_date: string | null;
  duration_days: number | null;
  inspection_id: string | null;
  inspection_status: 'completed' | 'pending';
  quality_score: number | null;
  freshness: string;
  visual_defects: string;
  shelf_life_days: number | null;
  sensors: Record<string, ExpectedSensor>;
  sensor_summary: Record<string, number | null>;
  pest_events: ExpectedPestEvent[];
  has_pest_alerts: boolean;
  pest_count: number;
  certificates: Record<string, unknown>[];
  is_certified: boolean;
  certification_types: string[];
  metadata: ExpectedMetadata;
  status: 'published' | 'held' | 'completed' | 'withdrawn';
};

/** What follows the booking's own row even after its end; everything else is frozen then. */
export const OWN_FIELDS = [
  'farmer_id',
  'vendor_id',
  'location_id',
  'crop_type',
  'grade',
  'quantity_kg',
  'start_date',
  'end_date',
  'duration_days',
  'inspection_id',
] as const satisfies readonly (keyof ExpectedContent)[];

/**
 * The content that `bookingId` has when computed afresh at `now`; null when there is no such booking.
 *
 * An ended booking is computed like any other: what was frozen when is for the caller to know (`history.ts`). So is what
 * people have decided about it (`manual-rules.ts`).
 * Reads with several selects: nobody may write meanwhile, or `client` is in a `repeatable read` transaction.
 */
export async function computeSnapshot(
  client: pg.ClientBase,
  bookingId: string,
  now: Date,
  settings: OracleSettings,
): Promise<ExpectedContent | null> {
  return snapshotFrom(await loadWorldOfBooking(client, bookingId), bookingId, now, settings);
}

/** `computeSnapshot` over rows that are already here. */
export function snapshotFrom(
  world: World,
  bookingId: string,
  now: Date,
  settings: OracleSettings,
): ExpectedContent | null {
  const booking = world.bookings.find((row) => row.id === bookingId);
  if (booking === undefined) return null;
  const at = instantOf(now);
  const sensors = latestReadings(world, booking.locationId);
  const pests = pestsInWindow(world, booking.locationId, at - seconds(settings.pestWindowSeconds));
  const certificates = certificatesOf(world, booking, at);
  const types = certificates.map((certificate) => certificate.type).filter((type) => type !== null);
  const certificationTypes = [...new Set(types)].sort(compareBytes);
  const isCertified = certificates.length > 0;
  return {
    booking_id: booking.id,
    farmer_id: booking.farmerId,
    vendor_id: booking.vendorId,
    location_id: booking.locationId,
    crop_type: booking.cropType,
    grade: booking.grade,
    quantity_kg: booking.quantityKg,
    start_date: isoOrInfinity(booking.startDate),
    end_date: isoOrInfinity(booking.endDate),
    duration_days: booking.durationDays,
    inspection_id: booking.inspectionId,
    ...inspectionPart(world, booking.inspectionId),
    sensors: sensorsPart(sensors),
    sensor_summary: summaryPart(sensors),
    pest_events: pests.map(pestEvent),
    has_pest_alerts: pests.some(isSevere),
    pest_count: pests.length,
    certificates,
    is_certified: isCertified,
    certification_types: certificationTypes,
    metadata: {
      is_certified: isCertified,
      certification_types: certificationTypes,
      pest_alert_active: pests.some((pest) => isSevere(pest) && pest.resolvedAt === null),
      sensor_health: sensorHealth(sensors, at, seconds(settings.sensorStaleSeconds)),
      buyer_contacts: [],
      special_notes: '',
    },
    status: statusOf(booking.status),
  };
}

/** What a row knows and nobody can compute: `updatedAt` in ISO. */
export type RowVersion = Readonly<{ epoch?: number; revision: number; updatedAt: string }>;

/** The listing of a snapshot; `_id` and `published_at` are the publisher's own and are left out. */
export function expectedListing(content: ExpectedContent, version: RowVersion): Record<string, unknown> {
  const { inspection_id: _id, inspection_status: _status, ...shown } = content;
  return {
    ...shown,
    start_date: finiteTime(content.start_date),
    end_date: finiteTime(content.end_date),
    metadata: { ...content.metadata, last_updated: version.updatedAt },
    revision: version.revision,
    ...(version.epoch === undefined ? {} : { epoch: version.epoch }),
  };
}

const seconds = (count: number): Instant => BigInt(count) * 1_000_000n;

function statusOf(bookingStatus: string | null): ExpectedContent['status'] {
  if (bookingStatus === 'completed') return 'completed';
  if (bookingStatus === 'cancelled') return 'withdrawn';
  return 'published';
}

function isoOrInfinity(instant: Instant | null): string | null {
  if (instant === INFINITY) return 'infinity';
  if (instant === -INFINITY) return '-infinity';
  return isoOf(instant);
}

function inspectionPart(world: World, inspectionId: string | null) {
  const inspection = world.inspections.find((row) => row.id === inspectionId);
  if (inspection === undefined) {
    return {
      inspection_status: 'pending' as const,
      quality_score: 0,
      freshness: 'unknown',
      visual_defects: '',
      shelf_life_days: null,
    };
  }
  return {
    inspection_status: 'completed' as const,
    quality_score: qualityScore(inspection.freshnessScore),
    freshness: inspection.freshness ?? 'unknown',
    visual_defects: inspection.visualDefects ?? '',
    shelf_life_days: inspection.shelfLifeDays,
  };
}

/** Two decimals, half away from zero, within ±999.99; null for what JSON cannot hold. */
function qualityScore(score: string | null): number | null {
  if (score === null) return 0;
  if (score === 'NaN' || score === 'Infinity' || score === '-Infinity') return null;
  const match = /^(-?)(\d+)(?:\.(\d+))?$/.exec(score);
  if (match === null) throw new TypeError(`not a decimal: ${JSON.stringify(score)}`);
  const [, sign, whole = '', fraction = ''] = match;
  const digits = fraction.padEnd(3, '0');
  let hundredths = BigInt(whole) * 100n + BigInt(digits.slice(0, 2));
  if (Number(digits[2]) >= 5) hundredths += 1n;
  if (hundredths > 99_999n) hundredths = 99_999n;
  const rounded = Number(hundredths) / 100;
  return sign === '-' && rounded !== 0 ? -rounded : rounded;
}
