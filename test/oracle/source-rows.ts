import type pg from 'pg';
import { type Instant, parseDay, parseInstant } from './instant.ts';

/** The source rows that the oracle works on, parsed once, nothing decided yet. */
export type World = {
  bookings: ReturnType<typeof parseBooking>[];
  inspections: ReturnType<typeof parseInspection>[];
  sensors: ReturnType<typeof parseSensor>[];
  readings: ReturnType<typeof parseReading>[];
  detections: ReturnType<typeof parseDetection>[];
  complianceCertificates: ReturnType<typeof parseComplianceCertificate>[];
  storageCertificates: ReturnType<typeof parseStorageCertificate>[];
};

type TextRow = Record<string, string | null>;
type Client = Pick<pg.ClientBase, 'query'>;

const EVERYTHING = `
  begin isolation level repeatable read read only;
  set local timezone = 'UTC'; set local datestyle = 'ISO'; set local extra_float_digits = 1;
  select * from storage_bookings;
  select * from crop_inspections;
  select * from iot_sensors;
  select * from sensor_readings;
  select * from pest_detections;
  select * from compliance_certificates;
  select * from storage_certificates;
  commit`;

/** Every source row, as of one moment. For small databases; `client` must not be in a transaction. */
export async function loadWorld(client: Client): Promise<World> {
  // Several statements in one query come back as a list, which the types of pg do not know.
  const results = (await client.query({ text: EVERYTHING, types: AS_TEXT })) as unknown as {
    rows: TextRow[];
  }[];
  const [bookings, inspections, sensors, readings, detections, compliance, storage] = results
    .slice(4, 11)
    .map((result) => result.rows);
  return {
    bookings: (bookings ?? []).map(parseBooking),
    inspections: (inspections ?? []).map(parseInspection),
    sensors: (sensors ?? []).map(parseSensor),
    readings: (readings ?? []).map(parseReading),
    detections: (detections ?? []).map(parseDetection),
    complianceCertificates: (compliance ?? []).map(parseComplianceCertificate),
    storageCertificates: (storage ?? []).map(parseStorageCertificate),
  };
}

/** The source rows that one booking's snapshot is made of. In `read committed`, only sound while nobody writes. */
export const loadWorldOfBooking = (client: Client, bookingId: string): Promise<World> =>
  loadWorldOfBookings(client, [bookingId]);

/** The source rows that these bookings' snapshots are made of. In `read committed`, only sound while nobody writes. */
export async function loadWorldOfBookings(client: Client, bookingIds: readonly string[]): Promise<World> {
  const select = async (text: string, values: readonly unknown[]): Promise<TextRow[]> =>
    (await client.query<TextRow>({ text, values: [values], types: AS_TEXT })).rows;
  const bookings = await select('select * from storage_bookings where id = any ($1)', bookingIds);
  const distinct = (column: string): unknown[] => [...new Set(bookings.map((booking) => booking[column]))];
  const locationIds = distinct('location_id');
  const sensors = await select('select * from iot_sensors where location_id = any ($1)', locationIds);
  const sensorIds = sensors.map((sensor) => sensor.id);
  return {
    bookings: bookings.map(parseBooking),
    inspections: (
      await select('select * from crop_inspections where id = any ($1)', distinct('ai_inspection_id'))
    ).map(parseInspection),
    sensors: sensors.map(parseSensor),
    readings: (await select('select * from sensor_readings where sensor_id = any ($1)', sensorIds)).map(
      parseReading,
    ),
    detections: (await select('select * from pest_detections where location_id = any ($1)', locationIds)).map(
      parseDetection,
    ),
    complianceCertificates: (
      await select('select * from compliance_certificates where vendor_id = any ($1)', distinct('vendor_id'))
    ).map(parseComplianceCertificate),
    storageCertificates: (
      await select('select * from storage_certificates where booking_id = any ($1)', bookingIds)
    ).map(parseStorageCertificate),
  };
}

/** No value is parsed by pg: it would cut microseconds, and its parsers can be changed for the whole process. */
const AS_TEXT = { getTypeParser: () => (value: string) => value } as unknown as pg.CustomTypesConfig;

const parseBooking = (row: TextRow) => ({
  id: text(row.id),
  farmerId: text(row.farmer_id),
  vendorId: optional(row.vendor_id),
  locationId: optional(row.location_id),
  inspectionId: optional(row.ai_inspection_id),
  cropType: text(row.crop_type),
  grade: optional(row.grade),
  quantityKg: Number(text(row.quantity_kg)),
  durationDays: number(row.duration_days),
  startDate: instant(row.start_date),
  endDate: instant(row.end_date),
  status: optional(row.booking_status),
});

const parseInspection = (row: TextRow) => ({
  id: text(row.id),
  /** Kept as text: it is a decimal of any length, and rounding it as a double would round twice. */
  freshnessScore: optional(row.freshness_score),
  freshness: optional(row.freshness),
  visualDefects: optional(row.visual_defects),
  shelfLifeDays: number(row.shelf_life_days),
});

const parseSensor = (row: TextRow) => ({
  id: text(row.id),
  locationId: optional(row.location_id),
  type: optional(row.sensor_type),
  status: optional(row.status),
  createdAt: instant(row.created_at),
});

const parseReading = (row: TextRow) => ({
  id: text(row.id),
  sensorId: optional(row.sensor_id),
  value: number(row.reading_value),
  unit: optional(row.reading_unit),
  time: parseInstant(text(row.reading_time)),
  alertTriggered: row.alert_triggered === 't',
});

const parseDetection = (row: TextRow) => ({
  id: text(row.id),
  locationId: optional(row.location_id),
  pestType: optional(row.pest_type),
  severity: optional(row.severity_level),
  confidence: number(row.confidence_score),
  actionTaken: optional(row.action_taken),
  detectedAt: instant(row.detected_at),
  resolvedAt: instant(row.resolved_at),
  createdAt: instant(row.created_at),
});

const parseComplianceCertificate = (row: TextRow) => ({
  id: text(row.id),
  vendorId: optional(row.vendor_id),
  type: optional(row.certificate_type),
  number: optional(row.certificate_number),
  issuer: optional(row.issuing_authority),
  issueDate: optional(row.issue_date),
  expiryDate: optional(row.expiry_date),
  /** First instant at which the certificate has expired. */
  expiresAt: row.expiry_date == null ? null : parseDay(row.expiry_date) + 86_400_000_000n,
  status: optional(row.status),
  documentUrl: optional(row.document_url),
  score: number(row.score),
});

const parseStorageCertificate = (row: TextRow) => ({
  id: text(row.id),
  bookingId: optional(row.booking_id),
  number: optional(row.certificate_number),
  status: optional(row.certificate_status),
  issuedDate: instant(row.issued_date),
  issuedBy: optional(row.issued_by),
  digitalSignature: optional(row.digital_signature),
});

function text(value: string | null | undefined): string {
  if (value == null) throw new TypeError('a column that is never null is missing');
  return value;
}

/** A column that is missing altogether must not pass for null. */
function optional(value: string | null | undefined): string | null {
  if (value === undefined) throw new TypeError('a column is missing');
  return value;
}

/** NaN and the infinities stay what they are: the rules decide about them. */
function number(value: string | null | undefined): number | null {
  const found = optional(value);
  return found === null ? null : Number(found);
}

function instant(value: string | null | undefined): Instant | null {
  const found = optional(value);
  return found === null ? null : parseInstant(found);
}
