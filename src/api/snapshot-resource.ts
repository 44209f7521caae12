import { z } from '@hono/zod-openapi';
import { SNAPSHOT_STATUSES, toIso } from '../domain/snapshot.ts';
import type { MarkedSnapshot } from '../store/snapshots.ts';

const EXAMPLE_BOOKING = '7f2c1a3e-9f4e-4a57-8d3b-2f9a3c1f0a11';

export const bookingIdParam = z.strictObject({
  booking_id: z
    .guid('must be a UUID')
    .toLowerCase()
    .openapi({ param: { name: 'booking_id', in: 'path' }, example: EXAMPLE_BOOKING }),
});

const id = () => z.guid().openapi({ format: 'uuid' });
const time = () =>
  // Not z.iso.datetime(): a year that RFC 3339 has no room for is written with a sign and six digits.
  z.string().nullable().openapi({ format: 'date-time', example: '2026-03-01T06:30:00.000Z' });

const sensorSchema = z
  .object({
    value: z.number().nullable().openapi({ example: 4.2 }),
    unit: z.string().nullable().openapi({ example: '°C' }),
    reading_time: time(),
    status: z.string().nullable().openapi({ example: 'active' }),
    alert_triggered: z.boolean(),
  })
  .openapi('SensorReading', { description: 'The newest reading of a type of sensor at the location.' });

const pestEventSchema = z
  .object({
    pest_type: z.string().openapi({ example: 'grain weevil' }),
    severity: z.string().openapi({ example: 'low' }),
    confidence: z.number().nullable().openapi({ example: 0.87 }),
    detected_at: time(),
    action_taken: z.string().openapi({ example: 'monitoring' }),
    resolved: z.boolean(),
  })
  .openapi('PestEvent');

const text = () => z.string().nullable();
const certificateSchema = z
  .object({
    id: id(),
    type: text().openapi({ example: 'HACCP' }),
    certificate_number: text(),
    status: text().openapi({ example: 'valid' }),
    issuer: text().optional(),
    issue_date: text().optional().openapi({ example: '2026-01-01' }),
    expiry_date: text().optional().openapi({ example: '2026-12-31' }),
    document_url: text().optional(),
    score: z.int().nullable().optional(),
    issued_date: time().optional(),
    issued_by: text().optional(),
    digital_signature: text().optional(),
  })
  .openapi('Certificate', {
    description:
      "One of the vendor's certificates, or the booking's own (type `storage_certificate`, with issued_date, issued_by and digital_signature).",
  });

const metadataSchema = z
  .object({
    is_certified: z.boolean(),
    certification_types: z.array(z.string()),
    pest_alert_active: z.boolean(),
    sensor_health: z.string().openapi({ description: 'no_data, alert, stale or good', example: 'good' }),
    last_updated: time(),
    buyer_contacts: z.array(z.unknown()),
    special_notes: z.string(),
  })
  .partial()
  .openapi('SnapshotMetadata');

export const manualStateSchema = z
  .object({
    state: z.enum(['held', 'withdrawn']),
    reason: z.string().openapi({ example: 'buyer disputes the weight' }),
    actor: z.string().openapi({ example: 'night shift' }),
    since: time(),
  })
  .openapi('ManualState', {
    description:
      'A booking that a person has taken off the market: `held` until it is released, or `withdrawn` as if it were cancelled.',
  });

export const snapshotSchema = z
  .object({
    id: id(),
    booking_id: id(),
    farmer_id: id(),
    vendor_id: id().nullable(),
    location_id: id().nullable(),
    crop_type: z.string().openapi({ example: 'Tomato' }),
    grade: z.string().nullable().openapi({ example: 'A' }),
    quantity_kg: z.int().openapi({ example: 1200 }),
    start_date: time(),
    end_date: time(),
    duration_days: z.int().nullable().openapi({ example: 30 }),
    inspection_id: id().nullable(),
    inspection_status: z
      .string()
      .openapi({ description: '`completed`, or `pending` without an inspection.' }),
    quality_score: z.number().nullable().openapi({ example: 87.5 }),
    freshness: z.string().openapi({ example: 'fresh' }),
    visual_defects: z.string(),
    shelf_life_days: z.int().nullable().openapi({ example: 21 }),
    sensors: z.record(z.string(), sensorSchema).openapi({
      description: 'By type of sensor.',
      example: {
        temperature: {
          value: 4.2,
          unit: '°C',
          reading_time: '2026-03-01T06:30:00.000Z',
          status: 'active',
          alert_triggered: false,
        },
      },
    }),
    sensor_summary: z.record(z.string(), z.number().nullable()).openapi({
      description: 'For each type of sensor `_avg`, `_min`, `_max` and `_count` over the newest readings.',
      example: { temperature_avg: 4.1, temperature_min: 3.9, temperature_max: 4.2, temperature_count: 2 },
    }),
    pest_events: z.array(pestEventSchema),
    has_pest_alerts: z.boolean(),
    pest_count: z.int(),
    certificates: z.array(certificateSchema),
    is_certified: z.boolean(),
    certification_types: z.array(z.string()).openapi({ example: ['HACCP'] }),
    status: z.enum(SNAPSHOT_STATUSES).openapi({
      description:
        '`held`: a person has taken it off the market until it is released. `completed` and `withdrawn` are its ends.',
    }),
    market_listing_id: z.string().nullable().openapi({ example: '665f1c2ab7e4c81d2f9a3c1f' }),
    published_at: time(),
    last_synced_at: time(),
    metadata: metadataSchema,
    created_at: time(),
    updated_at: time(),
    epoch: z
      .int()
      .openapi({ description: 'Rises when history was cut, for example by a restore.', example: 1 }),
    revision: z.int().openapi({ description: 'Rises by one with every change a buyer can see.', example: 7 }),
    override: z.array(z.string()).openapi({
      description: 'Fields that an override speaks for instead of the source.',
      example: ['grade'],
    }),
    manual_state: manualStateSchema.nullable().openapi({
      description: 'Why a person has taken it off the market; null when nobody has.',
    }),
  })
  .openapi('Snapshot', {
    description:
      'What the listing of one booking must say. Times are ISO 8601 in UTC; one that JSON cannot hold (infinity) is null.',
  });

export type SnapshotResource = z.infer<typeof snapshotSchema>;

/**
 * The snapshot as JSON. Columns of a row that was taken over from the system before, and not recomputed since, may be
 * null: the defaults of missing data stand in for them.
 */
export function toSnapshotResource(snapshot: MarkedSnapshot): SnapshotResource {
  const row: { [Column in keyof MarkedSnapshot]: MarkedSnapshot[Column] | null } = snapshot;
  return {
    id: snapshot.id,
    booking_id: snapshot.booking_id,
    farmer_id: snapshot.farmer_id,
    vendor_id: snapshot.vendor_id,
    location_id: snapshot.location_id,
    crop_type: snapshot.crop_type,
    grade: snapshot.grade,
    quantity_kg: snapshot.quantity_kg,
    start_date: toIso(snapshot.start_date),
    end_date: toIso(snapshot.end_date),
    duration_days: snapshot.duration_days,
    inspection_id: snapshot.inspection_id,
    inspection_status: row.inspection_status ?? 'pending',
    quality_score: Number.isFinite(snapshot.quality_score) ? snapshot.quality_score : null,
    freshness: row.freshness ?? 'unknown',
    visual_defects: row.visual_defects ?? '',
    shelf_life_days: snapshot.shelf_life_days,
    // What is inside is made by reconcile, and not looked at again here.
    sensors: (row.sensors ?? {}) as SnapshotResource['sensors'],
    sensor_summary: (row.sensor_summary ?? {}) as SnapshotResource['sensor_summary'],
    pest_events: (row.pest_events ?? []) as SnapshotResource['pest_events'],
    has_pest_alerts: row.has_pest_alerts ?? false,
    pest_count: row.pest_count ?? 0,
    certificates: (row.certificates ?? []) as SnapshotResource['certificates'],
    is_certified: row.is_certified ?? false,
    certification_types: row.certification_types ?? [],
    status: snapshot.status,
    market_listing_id: snapshot.market_listing_id,
    published_at: toIso(snapshot.published_at),
    last_synced_at: toIso(snapshot.last_synced_at),
    metadata: (row.metadata ?? {}) as SnapshotResource['metadata'],
    created_at: toIso(snapshot.created_at),
    updated_at: toIso(snapshot.updated_at),
    epoch: snapshot.epoch,
    revision: snapshot.revision,
    override: snapshot.override,
    manual_state: snapshot.manual_state,
  };
}
