import { type Climate, COLD, DRY, measure, walk } from './demo-climate.ts';
import { CROPS, FARMERS, PLACES, type Place, VENDORS } from './demo-places.ts';
import { between, createRandom, pick, type Random } from './random.ts';

const SECOND_MS = 1_000;
const MINUTE_MS = 60 * SECOND_MS;
const HOUR_MS = 60 * MINUTE_MS;
const DAY_MS = 24 * HOUR_MS;

/** A row to insert, by column; every row of a table has the same columns. */
export type Row = Readonly<Record<string, unknown>>;

/** The demo's rows for every table, parents first. Only `now` (and nothing of the machine) makes two of them differ. */
export function createDemoData(now: Date): readonly { table: string; rows: readonly Row[] }[] {
  const random = createRandom(20_150_204);
  const ctx: Context = {
    random,
    ago: (ms) => new Date(now.getTime() - ms).toISOString(),
    day: (days) => new Date(now.getTime() + days * DAY_MS).toISOString().slice(0, 10),
  };
  const users = FARMERS.map((name) => ({ id: uuid(random), name, created_at: ctx.ago(400 * DAY_MS) }));
  const vendors = VENDORS.map((name) => ({ id: uuid(random), name, created_at: ctx.ago(600 * DAY_MS) }));
  const locations = createLocations(ctx, vendors);
  const sensors = createSensors(ctx, locations);
  const bookings = createBookings(ctx, { users, locations });
  return [
    { table: 'users', rows: users },
    { table: 'vendors', rows: vendors },
    { table: 'storage_locations', rows: locations },
    { table: 'crop_inspections', rows: bookings.inspections },
    { table: 'storage_bookings', rows: bookings.bookings },
    { table: 'iot_sensors', rows: sensors.sensors },
    { table: 'sensor_readings', rows: sensors.readings },
    { table: 'pest_detections', rows: createDetections(ctx, locations) },
    { table: 'compliance_certificates', rows: createComplianceCertificates(ctx, vendors) },
    { table: 'storage_certificates', rows: createStorageCertificates(ctx, bookings.bookings) },
  ];
}

type Context = {
  random: Random;
  /** An instant so many milliseconds before now. */
  ago: (ms: number) => string;
  /** A UTC day so many days from today. */
  day: (days: number) => string;
};

type Identified = { id: string };
type Location = Identified & { vendor_id: string; type: Place['type'] };

function uuid(random: Random): string {
  const hex = Array.from({ length: 32 }, () => Math.floor(random() * 16).toString(16));
  hex[12] = '4';
  hex[16] = pick(random, ['8', '9', 'a', 'b']);
  return hex.join('').replace(/^(.{8})(.{4})(.{4})(.{4})(.{12})$/, '$1-$2-$3-$4-$5');
}

const round = (value: number, digits: number): number => Number(value.toFixed(digits));

function createLocations({ ago, random }: Context, vendors: readonly Identified[]) {
  return PLACES.map((place, index) => ({
    id: uuid(random),
    vendor_id: vendors[index % vendors.length]?.id ?? '',
    ...place,
    capacity_text: `${50 * Math.ceil(between(random, 4, 60))} t`,
    price_text: `₹${Math.round(between(random, 2, 9))} per quintal and day`,
    rating: round(between(random, 3.6, 4.9), 1),
    phone: `+91 98${Math.floor(between(random, 10_000_000, 99_999_999))}`,
    hours: '06:00–20:00',
    facilities: [
      'loading dock',
      'weighbridge',
      ...(place.type === 'cold_storage' ? ['pre-cooling'] : ['fumigation']),
    ],
    created_at: ago(500 * DAY_MS),
    updated_at: ago(30 * DAY_MS),
  }));
}

const READING_INTERVAL_MS = 10 * MINUTE_MS;
const READINGS_PER_SENSOR = 36;

/** Four sensors each. The last location is new and has no readings yet; one sensor is silent, one in maintenance. */
function createSensors({ ago, random }: Context, locations: readonly Location[]) {
  const sensors: Row[] = [];
  const readings: Row[] = [];
  for (const [place, location] of locations.entries()) {
    const climates = Object.entries(location.type === 'cold_storage' ? COLD : DRY);
    for (const [kind, [type, climate]] of climates.entries()) {
      const isNew = place === locations.length - 1;
      const isSilent = place === 6 && kind === 2;
      const newestMs = isSilent ? 3 * HOUR_MS : between(random, 0, 5) * MINUTE_MS;
      const sensor = {
        id: uuid(random),
        location_id: location.id,
        sensor_type: type,
        device_id: `SG-${String(place + 1).padStart(2, '0')}-${type}`,
        status: isNew ? 'inactive' : place === 7 && kind === 3 ? 'maintenance' : 'active',
        last_reading: isNew ? null : ago(newestMs),
        battery_level: Math.round(between(random, 38, 100)),
        installation_date: ago(isNew ? DAY_MS : 300 * DAY_MS),
        created_at: ago(isNew ? DAY_MS : 300 * DAY_MS),
      };
      sensors.push(sensor);
      if (isNew) continue;
      let value = between(random, climate.low, climate.high);
      for (let age = READINGS_PER_SENSOR - 1; age >= 0; age -= 1) {
        value = walk(random, climate, value);
        const at = ago(newestMs + age * READING_INTERVAL_MS);
        readings.push(createReading({ id: uuid(random), sensorId: sensor.id, climate, value, at }));
      }
    }
  }
  return { sensors, readings };
}

function createReading(input: {
  id: string;
  sensorId: string;
  climate: Climate;
  value: number;
  at: string;
}): Row {
  return {
    id: input.id,
    sensor_id: input.sensorId,
    ...measure(input.climate, input.value),
    reading_time: input.at,
    created_at: input.at,
  };
}

const BOOKING_STATES = [
  ...Array<string>(7).fill('pending'),
  ...Array<string>(11).fill('confirmed'),
  ...Array<string>(12).fill('active'),
  ...Array<string>(6).fill('completed'),
  ...Array<string>(4).fill('cancelled'),
];

function createBookings(
  ctx: Context,
  parents: { users: readonly Identified[]; locations: readonly Location[] },
): { bookings: (Identified & { booking_status: string })[]; inspections: Row[] } {
  const { ago, random } = ctx;
  const inspections: Row[] = [];
  const bookings = BOOKING_STATES.map((status, index) => {
    const location = parents.locations[index % parents.locations.length] ?? pick(random, parents.locations);
    const crop = pick(random, CROPS[location.type]);
    const farmerId = pick(random, parents.users).id;
    const inspected = status !== 'pending' && index % 5 !== 0;
    const inspection = inspected ? createInspection(ctx, { farmerId, crop }) : undefined;
    if (inspection !== undefined) inspections.push(inspection);
    const durationDays = 10 * Math.ceil(between(random, 1, 9));
    const startDaysAgo =
      status === 'active' ? between(random, 1, 9) : status === 'completed' ? 95 : -between(random, 2, 20);
    const confirmed = status !== 'pending' && status !== 'cancelled';
    const pricePerDay = round(between(random, 180, 1_400), 2);
    const createdMs = (Math.max(startDaysAgo, 0) + between(random, 1, 6)) * DAY_MS;
    return {
      id: uuid(random),
      farmer_id: farmerId,
      location_id: location.id,
      vendor_id: location.vendor_id,
      crop_type: crop,
      quantity_kg: 100 * Math.ceil(between(random, 5, 240)),
      grade: pick(random, ['A', 'A', 'B', 'B', 'C']),
      duration_days: durationDays,
      start_date: ago(startDaysAgo * DAY_MS),
      end_date: ago((startDaysAgo - durationDays) * DAY_MS),
      price_per_day: pricePerDay,
      total_price: round(pricePerDay * durationDays, 2),
      booking_status: status,
      payment_status: status === 'cancelled' ? 'refunded' : confirmed ? 'paid' : 'pending',
      ai_inspection_id: inspection?.id ?? null,
      transport_required: random() < 0.4,
      vendor_confirmed: confirmed,
      vendor_confirmed_at: confirmed ? ago(createdMs - HOUR_MS) : null,
      vendor_notes: null,
      cancelled_by: status === 'cancelled' ? farmerId : null,
      cancelled_at: status === 'cancelled' ? ago(createdMs / 2) : null,
      cancellation_reason: status === 'cancelled' ? 'sold at the farm gate' : null,
      created_at: ago(createdMs),
      updated_at: ago(createdMs / 2),
    };
  });
  return { bookings, inspections };
}

function createInspection(
  { ago, random }: Context,
  input: { farmerId: string; crop: string },
): Row & Identified {
  const score = round(between(random, 58, 98), 1);
  const [grade, freshness] = score > 85 ? ['A', 'excellent'] : score > 72 ? ['B', 'good'] : ['C', 'fair'];
  return {
    id: uuid(random),
    farmer_id: input.farmerId,
    crop_detected: input.crop,
    grade,
    freshness,
    freshness_score: score,
    visual_defects: score > 85 ? '' : pick(random, ['light bruising', 'uneven size', 'surface scarring']),
    defects: [],
    recommendation: score > 72 ? 'store' : 'sell soon',
    image_urls: [],
    shelf_life_days: Math.round(between(random, 12, 140)),
    created_at: ago(between(random, 1, 10) * DAY_MS),
  };
}

/** Age in days, severity, days until resolved. The third leaves the 7-day window two minutes after the start. */
const DETECTIONS: readonly (readonly [number, string, number | null])[] = [
  [0.2, 'medium', null],
  [1.1, 'high', null],
  [7 - 2 / (24 * 60), 'low', 0.5],
  [2.4, 'critical', 0.8],
  [3.2, 'low', null],
  [4.8, 'high', 1.5],
  [0.6, 'critical', null],
  [5.5, 'medium', 2],
  [6.3, 'low', 1],
  [9, 'high', 2],
  [14, 'critical', 3],
  [30, 'medium', 1],
  [45, 'low', null],
];

const PESTS = [
  'rice weevil',
  'red flour beetle',
  'Indian meal moth',
  'rodent droppings',
  'onion thrips',
  'grey mould',
];

function createDetections({ ago, random }: Context, locations: readonly Location[]): Row[] {
  return DETECTIONS.map(([ageDays, severity, resolvedAfterDays], index) => ({
    id: uuid(random),
    location_id: locations[(index * 5) % locations.length]?.id,
    job_id: uuid(random),
    pest_type: pick(random, PESTS),
    detection_method: pick(random, ['camera', 'trap', 'manual']),
    severity_level: severity,
    confidence_score: round(between(random, 0.55, 0.99), 2),
    image_url: null,
    location_details: `bay ${Math.ceil(between(random, 0, 12))}`,
    action_taken:
      resolvedAfterDays === null ? null : pick(random, ['fumigated', 'trap replaced', 'stack moved']),
    detected_at: ago(ageDays * DAY_MS),
    resolved_at: resolvedAfterDays === null ? null : ago((ageDays - resolvedAfterDays) * DAY_MS),
    created_at: ago(ageDays * DAY_MS),
  }));
}

/** Type, days until expiry, status; two or one a vendor, in the vendors' order. */
const COMPLIANCE: readonly (readonly [string, number, string])[] = [
  ['HACCP', 210, 'valid'],
  ['ISO22000', 3, 'valid'], // Expires soon.
  ['FSSAI', 400, 'valid'],
  ['Organic_NOP', -20, 'valid'], // Past its date, whatever its status says.
  ['FSSAI', 150, 'revoked'],
  ['HACCP', -90, 'expired'],
  ['ISO22000', 300, 'valid'],
  ['FSSAI', 90, 'pending'],
  ['Organic_NOP', 120, 'valid'],
  ['HACCP', 0, 'valid'], // Valid through the end of today.
  ['FSSAI', 700, 'valid'],
  ['ISO22000', 45, 'valid'],
];

const AUTHORITIES: Readonly<Record<string, string>> = {
  HACCP: 'Bureau Veritas',
  ISO22000: 'SGS',
  FSSAI: 'Food Safety and Standards Authority of India',
  Organic_NOP: 'OneCert',
};

function createComplianceCertificates({ ago, day, random }: Context, vendors: readonly Identified[]): Row[] {
  return COMPLIANCE.map(([type, daysLeft, status], index) => ({
    id: uuid(random),
    vendor_id: vendors[index % vendors.length]?.id,
    certificate_type: type,
    certificate_number: `${type.toUpperCase()}-${1_000 + index}`,
    issuing_authority: AUTHORITIES[type],
    issue_date: day(daysLeft - 730),
    expiry_date: day(daysLeft),
    status,
    document_url: `https://storage-guard.example/certificates/${1_000 + index}.pdf`,
    score: Math.round(between(random, 71, 99)),
    audit_notes: null,
    created_at: ago((730 - Math.min(daysLeft, 700)) * DAY_MS),
  }));
}

function createStorageCertificates(
  { ago, random }: Context,
  bookings: readonly (Identified & { booking_status: string })[],
): Row[] {
  const STATES = ['issued', 'issued', 'pending', 'issued', 'revoked', 'issued', 'expired', 'issued'];
  const stored = bookings.filter((booking) => ['active', 'completed'].includes(booking.booking_status));
  return STATES.map((status, index) => ({
    id: uuid(random),
    booking_id: stored[index * 2]?.id,
    certificate_number: `SGC-${2_400 + index}`,
    certificate_status: status,
    issued_date: status === 'pending' ? null : ago(between(random, 1, 8) * DAY_MS),
    issued_by: status === 'pending' ? null : 'Storage Guard',
    digital_signature: status === 'pending' ? null : uuid(random).replaceAll('-', ''),
    overall_quality_score: round(between(random, 70, 98), 2),
    temperature_avg: round(between(random, 3, 24), 2),
    humidity_avg: round(between(random, 50, 92), 2),
    created_at: ago(9 * DAY_MS),
    updated_at: ago(8 * DAY_MS),
  }));
}
