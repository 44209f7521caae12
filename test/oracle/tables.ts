import fc from 'fast-check';

/** A value in a command, fixed only when the command runs: times hang on the clock, ids on the history. */
export type Cell =
  | { literal: string | number | boolean | null }
  /** The clock's time plus so many milliseconds and microseconds. */
  | { afterMs: number; micros: number }
  /** The clock's UTC day plus so many days. */
  | { afterDays: number }
  /** The row of that index; null when it does not exist, so that no command fails on a foreign key. */
  | { row: number | null }
  /** An id that no foreign key guards. */
  | { anyRow: number }
  /** A text that is unique to this row and this choice. */
  | { unique: number };

export type TableName =
  | 'vendors'
  | 'storage_locations'
  | 'crop_inspections'
  | 'storage_bookings'
  | 'iot_sensors'
  | 'sensor_readings'
  | 'pest_detections'
  | 'compliance_certificates'
  | 'storage_certificates';

type Column = {
  type: string;
  cell: fc.Arbitrary<Cell>;
  /** The table its `row` cells point to. */
  parent?: TableName;
  /** No two rows may hold the same: never part of an update of all rows. */
  unique?: true;
};

type Table = {
  /** Named rows of a history's world: few, so that commands collide. */
  rows: number;
  columns: Record<string, Column>;
  /** How often commands choose this table. */
  weight: number;
};

const oneOf = (...values: (string | number | boolean | null)[]): fc.Arbitrary<Cell> =>
  fc.constantFrom(...values).map((literal) => ({ literal }));

/** The first few are usual, the rest absurd and seldom. */
const mostly = (usual: fc.Arbitrary<Cell>, absurd: fc.Arbitrary<Cell>): fc.Arbitrary<Cell> =>
  fc.oneof({ arbitrary: usual, weight: 4 }, { arbitrary: absurd, weight: 1 });

const rowOf = (rows: number): fc.Arbitrary<Cell> =>
  fc.oneof(
    { arbitrary: fc.nat(rows - 1).map((row) => ({ row })), weight: 9 },
    { arbitrary: fc.constant({ row: null }), weight: 1 },
  );

const SECOND = 1000;
const MINUTE = 60 * SECOND;
const HOUR = 60 * MINUTE;
const DAY = 24 * HOUR;

/** Few instants, around the borders of the pest window (7 days) and of a sensor's silence (60 minutes). */
const OFFSETS_MS = [
  0,
  -SECOND,
  -MINUTE,
  -59 * MINUTE,
  -HOUR,
  -2 * HOUR,
  -DAY,
  -7 * DAY + MINUTE,
  -7 * DAY,
  -8 * DAY,
  30 * SECOND,
  2 * HOUR,
];

const aroundNow: fc.Arbitrary<Cell> = fc.record({
  afterMs: fc.constantFrom(...OFFSETS_MS),
  micros: fc.constantFrom(0, 0, 0, 1, -1, 999),
});

const absurdTime = oneOf('infinity', '-infinity', '0001-01-01T00:00:00Z', '9999-12-31T23:59:59.999999Z');
const time = mostly(aroundNow, absurdTime);
const optionalTime = mostly(aroundNow, fc.oneof(absurdTime, oneOf(null)));
const optionalDay = mostly(
  fc.constantFrom(-1, 0, 1, 2, 7, 30).map((afterDays) => ({ afterDays })),
  oneOf(null, 'infinity', '-infinity'),
);
const words = oneOf('ok', '', 'Grünkohl 🥬', 'O\'Brien "q" \\ {}', 'a\nb\u0001', null);
const double = fc.oneof(
  { arbitrary: oneOf(4, 4.5, 12.25, 0.1, 95, -3), weight: 2 },
  { arbitrary: oneOf('NaN', 'Infinity', '-Infinity', 1.7e308, -1.7e308, '-0', 5e-324, null), weight: 1 },
);
const whole = mostly(oneOf(1, 7, 90), oneOf(0, -5, 2_147_483_647, null));
const unique = fc.nat(1).map((choice) => ({ unique: choice }));

/** Mostly alive, so that there is something to see. */
const bookingStatus = fc.oneof(
  { arbitrary: oneOf('pending', 'confirmed', 'active'), weight: 7 },
  { arbitrary: oneOf('completed', 'cancelled'), weight: 5 },
  { arbitrary: oneOf(null, 'weird', ''), weight: 1 },
);

/** `$` and `.` mean something to MongoDB, `__proto__` to JavaScript. */
const sensorType = mostly(
  oneOf('temperature', 'humidity', 'co2'),
  oneOf(null, '', 'Größe', 'co2.ppm', '$gas', '__proto__'),
);

const column = (type: string, cell: fc.Arbitrary<Cell>): Column => ({ type, cell });
const reference = (parent: TableName, rows: number): Column => ({ type: 'uuid', cell: rowOf(rows), parent });

/** The tables as far as histories write them. Columns that no snapshot shows are here too: they must cost nothing. */
export const TABLES: Record<TableName, Table> = {
  vendors: { rows: 3, weight: 1, columns: { name: column('text', words) } },
  storage_locations: {
    rows: 4,
    weight: 1,
    columns: { vendor_id: reference('vendors', 3), name: column('text', words) },
  },
  crop_inspections: {
    rows: 3,
    weight: 2,
    columns: {
      freshness_score: column(
        'numeric',
        mostly(oneOf(87.5, 60, 0), oneOf('NaN', 'Infinity', '12.345', '-0.005', '999.995', '1e20', null)),
      ),
      freshness: column('text', oneOf('fresh', 'fair', '', null)),
      visual_defects: column('text', words),
      shelf_life_days: column('int', whole),
      recommendation: column('text', words),
    },
  },
  storage_bookings: {
    rows: 8,
    weight: 6,
    columns: {
      farmer_id: column(
        'uuid',
        fc.nat(1).map((anyRow) => ({ anyRow })),
      ),
      location_id: reference('storage_locations', 4),
      vendor_id: reference('vendors', 3),
      ai_inspection_id: reference('crop_inspections', 3),
      crop_type: column('text', oneOf('wheat', 'rice', '', 'Grünkohl 🥬', 'a\nb\u0001')),
      grade: column('text', oneOf('A', 'B', '', null)),
      quantity_kg: column('int', oneOf(100, 250, 0, -1, 2_147_483_647)),
      duration_days: column('int', whole),
      start_date: column('timestamptz', optionalTime),
      end_date: column('timestamptz', optionalTime),
      booking_status: column('text', bookingStatus),
      vendor_notes: column('text', words),
    },
  },
  iot_sensors: {
    rows: 6,
    weight: 3,
    columns: {
      location_id: reference('storage_locations', 4),
      sensor_type: column('text', sensorType),
      device_id: { type: 'text', cell: unique, unique: true },
      status: column('text', mostly(oneOf('active'), oneOf('inactive', 'maintenance', '', null))),
      last_reading: column('timestamptz', optionalTime),
      battery_level: column('float8', double),
      created_at: column('timestamptz', optionalTime),
    },
  },
  sensor_readings: {
    rows: 12,
    weight: 6,
    columns: {
      sensor_id: reference('iot_sensors', 6),
      reading_value: column('float8', double),
      reading_unit: column('text', oneOf('°C', '%', '', null)),
      reading_time: column('timestamptz', time),
      alert_triggered: column('boolean', oneOf(false, false, false, true, null)),
      alert_reason: column('text', words),
    },
  },
  pest_detections: {
    rows: 8,
    weight: 4,
    columns: {
      location_id: reference('storage_locations', 4),
      pest_type: column('text', oneOf('weevil', 'moth', '', null)),
      severity_level: column('text', oneOf('low', 'medium', 'high', 'critical', 'HIGH', null)),
      confidence_score: column('float8', double),
      action_taken: column('text', words),
      detected_at: column('timestamptz', optionalTime),
      resolved_at: column('timestamptz', fc.oneof(oneOf(null), optionalTime)),
      created_at: column('timestamptz', optionalTime),
      image_url: column('text', words),
    },
  },
  compliance_certificates: {
    rows: 6,
    weight: 3,
    columns: {
      vendor_id: reference('vendors', 3),
      certificate_type: column(
        'text',
        mostly(oneOf('HACCP', 'FSSAI', 'ISO22000'), oneOf('fssai', 'Öko', '', 'storage_certificate', null)),
      ),
      certificate_number: column('text', words),
      issuing_authority: column('text', words),
      issue_date: column('date', optionalDay),
      expiry_date: column('date', optionalDay),
      status: column('text', mostly(oneOf('valid'), oneOf('expired', 'revoked', 'pending', 'VALID', null))),
      document_url: column('text', words),
      score: column('int', whole),
      audit_notes: column('text', words),
    },
  },
  storage_certificates: {
    rows: 5,
    weight: 2,
    columns: {
      booking_id: { ...reference('storage_bookings', 8), unique: true },
      certificate_number: { type: 'text', cell: unique, unique: true },
      certificate_status: column('text', oneOf('pending', 'issued', 'issued', 'revoked', 'expired', null)),
      issued_date: column('timestamptz', optionalTime),
      issued_by: column('text', words),
      digital_signature: column('text', words),
      temperature_avg: column('float8', double),
    },
  },
};

export const TABLE_NAMES = Object.keys(TABLES) as TableName[];
