/** Types that do the same here: what is read of one is the same as of the others. The first is the one to change to. */
const FAMILIES = {
  uuid: ['uuid'],
  text: ['text', 'character varying', 'character'],
  integer: ['integer', 'smallint', 'bigint'],
  number: ['double precision', 'real', 'numeric', 'integer', 'smallint', 'bigint'],
  time: ['timestamp with time zone'],
  date: ['date'],
  boolean: ['boolean'],
} as const satisfies Record<string, readonly string[]>;

type Family = keyof typeof FAMILIES;

const uuids = (...names: string[]) => of('uuid', names);
const texts = (...names: string[]) => of('text', names);
const times = (...names: string[]) => of('time', names);
const of = (family: Family, names: string[]): Record<string, Family> =>
  Object.fromEntries(names.map((name) => [name, family]));

/** What the columns of `SOURCE_COLUMNS` are made of. */
export const SOURCE_TYPES: Record<string, Record<string, Family>> = {
  storage_bookings: {
    ...uuids('id', 'farmer_id', 'location_id', 'vendor_id', 'ai_inspection_id'),
    ...texts('crop_type', 'grade', 'booking_status'),
    ...of('integer', ['quantity_kg', 'duration_days']),
    ...times('start_date', 'end_date'),
  },
  crop_inspections: {
    ...uuids('id'),
    ...texts('freshness', 'visual_defects'),
    ...of('number', ['freshness_score']),
    ...of('integer', ['shelf_life_days']),
  },
  iot_sensors: { ...uuids('id', 'location_id'), ...texts('sensor_type', 'status'), ...times('created_at') },
  sensor_readings: {
    ...uuids('id', 'sensor_id'),
    ...of('number', ['reading_value']),
    ...texts('reading_unit'),
    ...times('reading_time'),
    ...of('boolean', ['alert_triggered']),
  },
  pest_detections: {
    ...uuids('id', 'location_id'),
    ...texts('pest_type', 'severity_level', 'action_taken'),
    ...of('number', ['confidence_score']),
    ...times('detected_at', 'resolved_at', 'created_at'),
  },
  compliance_certificates: {
    ...uuids('id', 'vendor_id'),
    ...texts('certificate_type', 'certificate_number', 'issuing_authority', 'status', 'document_url'),
    ...of('date', ['issue_date', 'expiry_date']),
    ...of('integer', ['score']),
  },
  storage_certificates: {
    ...uuids('id', 'booking_id'),
    ...texts('certificate_number', 'certificate_status', 'issued_by', 'digital_signature'),
    ...times('issued_date'),
  },
};

/** Columns of the application that no snapshot shows: known, so that none is taken for another's new name. */
export const OTHER_COLUMNS: Record<string, string> = {
  storage_bookings:
    'price_per_day total_price payment_status transport_required vendor_confirmed vendor_confirmed_at vendor_notes ' +
    'cancelled_by cancelled_at cancellation_reason created_at updated_at',
  crop_inspections: 'farmer_id crop_detected grade defects recommendation image_urls created_at',
  iot_sensors: 'device_id last_reading battery_level installation_date',
  sensor_readings: 'alert_reason created_at',
  pest_detections: 'job_id detection_method image_url location_details',
  compliance_certificates: 'audit_notes created_at',
  storage_certificates: 'overall_quality_score temperature_avg humidity_avg created_at updated_at',
};

/** `text` for a domain over it is the caller's work. */
export const isOf = (family: Family, type: string): boolean =>
  (FAMILIES[family] as readonly string[]).includes(type);

export const typeOf = (family: Family): string => FAMILIES[family][0];

/** Read in the time zone of the session, which is UTC here and need not be the application's. */
export const isZoneless = (family: Family, type: string): boolean =>
  family === 'time' && type === 'timestamp without time zone';
