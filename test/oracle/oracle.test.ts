import { randomUUID } from 'node:crypto';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { computeSnapshot, type ExpectedContent, expectedListing, snapshotFrom } from '../support/oracle.ts';
import { createDatabase, type TestDatabase } from '../support/postgres.ts';
import { loadWorld } from './source-rows.ts';

const NOW = new Date('2026-03-10T12:00:00.000Z');
const SETTINGS = { pestWindowSeconds: 7 * 86_400, sensorStaleSeconds: 3600 };

/** Ids in the order of `n`, whatever made them random. */
const id = (n: number): string => `0000000${n}-${randomUUID().slice(9)}`;

let database: TestDatabase;

beforeAll(async () => {
  database = await createDatabase({ template: 'storage_guard' });
});

afterAll(async () => {
  await database.drop();
});

type Values = Record<string, string | number | boolean | null>;

async function insert(table: string, values: Values): Promise<string> {
  const row: Values = { id: randomUUID(), ...values };
  const names = Object.keys(row);
  const places = names.map((_, index) => `$${index + 1}`).join(', ');
  await database.pool.query(
    `insert into ${table} (${names.join(', ')}) values (${places})`,
    Object.values(row),
  );
  return String(row.id);
}

const location = () => insert('storage_locations', {});
const vendor = () => insert('vendors', {});
const booking = (values: Values = {}) =>
  insert('storage_bookings', { farmer_id: randomUUID(), crop_type: 'wheat', quantity_kg: 5, ...values });
const sensor = (values: Values) =>
  insert('iot_sensors', { sensor_type: 'temperature', created_at: '2026-03-10 11:30:00Z', ...values });
const reading = (values: Values) =>
  insert('sensor_readings', { reading_value: 4.5, reading_time: '2026-03-10 11:59:00Z', ...values });

async function compute(bookingId: string, now = NOW): Promise<ExpectedContent> {
  const client = await database.pool.connect();
  const content = await computeSnapshot(client, bookingId, now, SETTINGS).finally(() => client.release());
  if (content === null) throw new Error('no such booking');
  return content;
}

/** The snapshot of a booking at a location with these sensors and readings. */
async function withSensors(sensors: { values?: Values; readings: Values[] }[], now = NOW) {
  const location_id = await location();
  for (const { values, readings } of sensors) {
    const sensor_id = await sensor({ location_id, ...values });
    for (const one of readings) await reading({ sensor_id, ...one });
  }
  return compute(await booking({ location_id }), now);
}

const withDetections = async (detections: Values[], now = NOW) => {
  const location_id = await location();
  for (const one of detections) await insert('pest_detections', { location_id, ...one });
  return compute(await booking({ location_id }), now);
};

const withCertificates = async (certificates: Values[], now = NOW) => {
  const vendor_id = await vendor();
  for (const one of certificates) await insert('compliance_certificates', { vendor_id, ...one });
  return compute(await booking({ vendor_id }), now);
};

const withInspection = async (values: Values) =>
  compute(await booking({ ai_inspection_id: await insert('crop_inspections', values) }));

describe('booking', () => {
  test('a booking with nothing around it has a snapshot all the same', async () => {
    const bookingId = await booking();
    expect(await compute(bookingId)).toMatchObject({
      booking_id: bookingId,
      vendor_id: null,
      location_id: null,
      crop_type: 'wheat',
      quantity_kg: 5,
      start_date: null,
      inspection_status: 'pending',
      quality_score: 0,
      freshness: 'unknown',
      visual_defects: '',
      shelf_life_days: null,
      sensors: {},
      sensor_summary: {},
      pest_events: [],
      has_pest_alerts: false,
      pest_count: 0,
      certificates: [],
      is_certified: false,
      certification_types: [],
      metadata: {
        is_certified: false,
        certification_types: [],
        pest_alert_active: false,
        sensor_health: 'no_data',
        buyer_contacts: [],
        special_notes: '',
      },
      status: 'published',
    });
  });

  test('an unknown booking has none', async () => {
    const client = await database.pool.connect();
    expect(await computeSnapshot(client, randomUUID(), NOW, SETTINGS)).toBeNull();
    client.release();
  });

  test.for([
    ['pending', 'published'],
    ['confirmed', 'published'],
    ['active', 'published'],
    [null, 'published'],
    ['weird', 'published'],
    ['completed', 'completed'],
    ['cancelled', 'withdrawn'],
  ] as const)('a booking that is %s has a snapshot that is %s', async ([booking_status, status]) => {
    expect((await compute(await booking({ booking_status }))).status).toBe(status);
  });

  test('times are cut to milliseconds in UTC, infinite ones are null in the listing only', async () => {
    const bookingId = await booking({
      start_date: '2026-03-01 01:02:03.456789+05:30',
      end_date: 'infinity',
    });
    const content = await compute(bookingId);
    expect(content).toMatchObject({ start_date: '2026-02-28T19:32:03.456Z', end_date: 'infinity' });
    const listing = expectedListing(content, {
      epoch: 3,
      revision: 7,
      updatedAt: '2026-03-10T00:00:00.000Z',
    });
    expect(listing).toMatchObject({
      start_date: '2026-02-28T19:32:03.456Z',
      end_date: null,
      epoch: 3,
      revision: 7,
      metadata: { last_updated: '2026-03-10T00:00:00.000Z' },
    });
    const early = expectedListing({ ...content, start_date: '-infinity' }, { revision: 1, updatedAt: '' });
    expect(early.start_date).toBeNull();
    expect(Object.keys(listing)).not.toContain('inspection_id');
    expect(Object.keys(listing)).not.toContain('inspection_status');
  });

  test('the time zone of the session changes nothing', async () => {
    const bookingId = await booking({ start_date: '2026-07-01 12:00:00Z', end_date: '1890-01-01 12:00:00Z' });
    const client = await database.pool.connect();
    for (const zone of ['Asia/Kolkata', 'America/St_Johns', 'Europe/Amsterdam']) {
      await client.query(`set timezone = '${zone}'`);
      expect(await computeSnapshot(client, bookingId, NOW, SETTINGS)).toMatchObject({
        start_date: '2026-07-01T12:00:00.000Z',
        end_date: '1890-01-01T12:00:00.000Z',
      });
    }
    client.release(true);
  });

  test('a time before 1970 is cut towards the past', async () => {
    const bookingId = await booking({ start_date: '1969-12-31 23:59:59.999999+00' });
    expect((await compute(bookingId)).start_date).toBe('1969-12-31T23:59:59.999Z');
  });
});

describe('inspection', () => {
  test('is copied, with what is missing filled in', async () => {
    expect(
      await withInspection({
        freshness_score: 87.5,
        freshness: 'fresh',
        visual_defects: 'spots',
        shelf_life_days: 9,
        grade: 'Z',
      }),
    ).toMatchObject({
      inspection_status: 'completed',
      quality_score: 87.5,
      freshness: 'fresh',
      visual_defects: 'spots',
      shelf_life_days: 9,
      grade: null,
    });
    expect(await withInspection({})).toMatchObject({
      inspection_status: 'completed',
      quality_score: 0,
      freshness: 'unknown',
      visual_defects: '',
      shelf_life_days: null,
    });
  });

  test.for([
    ['12.345', 12.35],
    ['12.3449999999999999999999', 12.34],
    ['1.005', 1.01],
    ['-0.005', -0.01],
    ['-0.004', 0],
    ['999.994', 999.99],
    ['999.995', 999.99],
    ['-1000', -999.99],
    ['1e20', 999.99],
    ['100', 100],
    ['NaN', null],
    ['Infinity', null],
    ['-Infinity', null],
  ] as const)('a freshness score of %s is a quality score of %s', async ([freshness_score, expected]) => {
    expect((await withInspection({ freshness_score })).quality_score).toBe(expected);
  });
});

describe('sensors', () => {
  test('the reading with the greatest time speaks, whatever order they arrive in', async () => {
    const { sensors } = await withSensors([
      {
        values: { status: 'maintenance' },
        readings: [
          { reading_value: 3, reading_time: '2026-03-10 11:58:00Z', alert_triggered: true },
          {
            reading_value: 4,
            reading_unit: '°C',
            reading_time: '2026-03-10 11:59:00.1239Z',
            alert_triggered: null,
          },
          { reading_value: 5, reading_time: '2026-03-10 11:57:00Z' },
        ],
      },
    ]);
    expect({ ...sensors }).toEqual({
      temperature: {
        value: 4,
        unit: '°C',
        reading_time: '2026-03-10T11:59:00.123Z',
        status: 'maintenance',
        alert_triggered: false,
      },
    });
  });

  test('of readings at one time the greatest id speaks, also between sensors, to the microsecond', async () => {
    const time = '2026-03-10 11:00:00.000001Z';
    const { sensors, sensor_summary } = await withSensors([
      {
        readings: [
          { id: id(3), reading_value: 3, reading_time: time },
          { id: id(1), reading_value: 1, reading_time: time },
        ],
      },
      {
        readings: [
          { id: id(4), reading_value: 4, reading_time: time },
          { id: id(9), reading_value: 9, reading_time: '2026-03-10 11:00:00Z' },
        ],
      },
    ]);
    expect(sensors.temperature?.value).toBe(4);
    expect({ ...sensor_summary }).toEqual({
      temperature_avg: 3.5,
      temperature_min: 3,
      temperature_max: 4,
      temperature_count: 2,
    });
  });

  test('a sensor without readings or without a type is left out', async () => {
    const content = await withSensors([
      { values: { sensor_type: 'co2' }, readings: [] },
      { values: { sensor_type: null }, readings: [{ reading_value: 1 }] },
    ]);
    expect(Object.keys(content.sensors)).toEqual([]);
    expect(Object.keys(content.sensor_summary)).toEqual([]);
    expect(content.metadata.sensor_health).toBe('good');
  });

  test('what JSON cannot hold is null and does not count', async () => {
    const odd = await withSensors([{ readings: [{ reading_value: 'NaN' }] }]);
    expect(odd.sensors.temperature?.value).toBeNull();
    expect({ ...odd.sensor_summary }).toEqual({
      temperature_avg: null,
      temperature_min: null,
      temperature_max: null,
      temperature_count: 0,
    });
    const mixed = await withSensors(
      ['Infinity', '-Infinity', '-0', null, 2].map((reading_value) => ({ readings: [{ reading_value }] })),
    );
    expect({ ...mixed.sensor_summary }).toEqual({
      temperature_avg: 1,
      temperature_min: 0,
      temperature_max: 2,
      temperature_count: 2,
    });
  });

  test('the mean of huge values is not infinite', async () => {
    const { sensor_summary } = await withSensors(
      [1.7e308, 1.7e308, 0].map((reading_value) => ({ readings: [{ reading_value }] })),
    );
    expect(sensor_summary.temperature_avg).toBeCloseTo(1.7e308 * (2 / 3), -300);
    const largest = Number.MAX_VALUE;
    const same = [1, 2, 3].map(() => ({ readings: [{ reading_value: largest }] }));
    expect((await withSensors(same)).sensor_summary.temperature_avg).toBe(largest);
  });

  test('an infinite time is the newest and shown as null', async () => {
    const { sensors } = await withSensors([
      {
        readings: [
          { reading_value: 1, reading_time: 'infinity' },
          { reading_value: 2, reading_time: '9999-12-31 23:59:59Z' },
          { reading_value: 3, reading_time: '-infinity' },
        ],
      },
    ]);
    expect(sensors.temperature).toMatchObject({ value: 1, reading_time: null });
  });

  test('any type is a key, also __proto__ and the empty string', async () => {
    const { sensors, sensor_summary } = await withSensors([
      { values: { sensor_type: '__proto__' }, readings: [{}] },
      { values: { sensor_type: '' }, readings: [{}] },
    ]);
    expect(Object.keys(sensors).sort()).toEqual(['', '__proto__']);
    expect(Object.keys(sensor_summary)).toHaveLength(8);
  });
});

describe('sensor health', () => {
  const healthOf = async (...args: Parameters<typeof withSensors>) =>
    (await withSensors(...args)).metadata.sensor_health;

  test('no_data when no sensor has a reading', async () => {
    expect(await healthOf([{ readings: [] }, { values: { created_at: null }, readings: [] }])).toBe(
      'no_data',
    );
  });

  test('alert when a latest reading has its alert set, an older one does not count', async () => {
    const older = { reading_time: '2026-03-10 11:00:01Z' };
    expect(await healthOf([{ readings: [{ ...older }, { alert_triggered: true }] }])).toBe('alert');
    expect(await healthOf([{ readings: [{ ...older, alert_triggered: true }, {}] }])).toBe('good');
    const silent = { reading_time: '2026-03-01 00:00:00Z', alert_triggered: true };
    expect(await healthOf([{ values: { sensor_type: null }, readings: [silent] }])).toBe('alert');
  });

  test('stale from the very moment the silence is long enough, to the microsecond', async () => {
    expect(await healthOf([{ readings: [{ reading_time: '2026-03-10 11:00:00Z' }] }])).toBe('stale');
    expect(await healthOf([{ readings: [{ reading_time: '2026-03-10 11:00:00.000001Z' }] }])).toBe('good');
  });

  test('only an active sensor goes stale; one without readings by its creation', async () => {
    const heard = { readings: [{}] };
    const silent = [{ reading_time: '2026-03-01 00:00:00Z' }];
    expect(await healthOf([heard, { values: { status: 'inactive' }, readings: silent }])).toBe('good');
    expect(await healthOf([heard, { values: { status: null }, readings: silent }])).toBe('good');
    expect(await healthOf([heard, { values: { created_at: '2026-03-10 11:00:00Z' }, readings: [] }])).toBe(
      'stale',
    );
    expect(await healthOf([heard, { values: { created_at: '2026-03-10 11:00:01Z' }, readings: [] }])).toBe(
      'good',
    );
    expect(await healthOf([heard, { values: { created_at: null }, readings: [] }])).toBe('stale');
    expect(await healthOf([{ readings: [{ reading_time: 'infinity' }] }])).toBe('good');
    expect(await healthOf([{ readings: [{ reading_time: '-infinity' }] }])).toBe('stale');
  });
});

describe('pests', () => {
  test('are those in the window, future ones too, newest first', async () => {
    const content = await withDetections([
      { pest_type: 'at the border', detected_at: '2026-03-03 12:00:00Z' },
      { pest_type: 'just inside', detected_at: '2026-03-03 12:00:00.000001Z' },
      { pest_type: 'future', detected_at: '2026-04-01 00:00:00Z' },
      { pest_type: 'by creation', detected_at: null, created_at: '2026-03-09 00:00:00Z' },
      {
        pest_type: 'old, though created now',
        detected_at: '2026-03-01 00:00:00Z',
        created_at: NOW.toISOString(),
      },
      { pest_type: 'without any time', detected_at: null, created_at: null },
      { pest_type: 'for ever', detected_at: 'infinity' },
      { pest_type: 'never', detected_at: '-infinity' },
    ]);
    expect(content.pest_events.map((event) => [event.pest_type, event.detected_at])).toEqual([
      ['for ever', null],
      ['future', '2026-04-01T00:00:00.000Z'],
      ['by creation', null],
      ['just inside', '2026-03-03T12:00:00.000Z'],
    ]);
    expect(content.pest_count).toBe(4);
  });

  test('of one time come by descending id', async () => {
    const detected_at = '2026-03-10 00:00:00Z';
    const { pest_events } = await withDetections(
      [2, 9, 4].map((n) => ({ id: id(n), pest_type: String(n), detected_at })),
    );
    expect(pest_events.map((event) => event.pest_type)).toEqual(['9', '4', '2']);
  });

  test('have their nulls filled in', async () => {
    const detected_at = '2026-03-10 00:00:00Z';
    expect((await withDetections([{ detected_at }])).pest_events).toEqual([
      {
        pest_type: 'unknown',
        severity: 'low',
        confidence: 0,
        detected_at: '2026-03-10T00:00:00.000Z',
        action_taken: 'monitoring',
        resolved: false,
      },
    ]);
    const [event] = (
      await withDetections([
        { detected_at, confidence_score: 'NaN', action_taken: '', resolved_at: detected_at },
      ])
    ).pest_events;
    expect(event).toMatchObject({ confidence: null, action_taken: '', resolved: true });
  });

  test.for([
    ['low', null, false, false],
    ['medium', null, false, false],
    ['HIGH', null, false, false],
    ['high', null, true, true],
    ['critical', null, true, true],
    ['critical', '2026-03-09 00:00:00Z', true, false],
  ] as const)(
    'a %s one resolved at %s: alerts %s, active %s',
    async ([severity_level, resolved_at, alerts, active]) => {
      const content = await withDetections([
        { severity_level, resolved_at, detected_at: '2026-03-08 00:00:00Z' },
      ]);
      expect([content.has_pest_alerts, content.metadata.pest_alert_active]).toEqual([alerts, active]);
    },
  );
});

describe('certificates', () => {
  test.for([
    ['valid', null, 1],
    ['valid', '2026-03-10', 1],
    ['valid', '2026-03-09', 0],
    ['valid', 'infinity', 1],
    ['valid', '-infinity', 0],
    ['pending', null, 0],
    ['VALID', null, 0],
    [null, null, 0],
  ] as const)('a certificate that is %s until %s counts %i times', async ([status, expiry_date, count]) => {
    expect((await withCertificates([{ status, expiry_date }])).certificates).toHaveLength(count);
  });

  test('are valid through the last millisecond of their last UTC day', async () => {
    const lastDay = [{ status: 'valid', expiry_date: '2026-03-10' }];
    expect((await withCertificates(lastDay, new Date('2026-03-10T23:59:59.999Z'))).is_certified).toBe(true);
    expect((await withCertificates(lastDay, new Date('2026-03-11T00:00:00.000Z'))).is_certified).toBe(false);
  });

  test('come by type in byte order, nulls last, then by id, with the storage certificate among them', async () => {
    const vendor_id = await vendor();
    const types = ['a', 'Z', null, '\u{1F955}', '\uFF5E', 'zz', 'storage_certificate'];
    for (const certificate_type of types) {
      await insert('compliance_certificates', { vendor_id, certificate_type, id: id(1) });
    }
    const last = await insert('compliance_certificates', { vendor_id, certificate_type: 'a', id: id(8) });
    const bookingId = await booking({ vendor_id });
    const storage = await insert('storage_certificates', { booking_id: bookingId, id: id(7) });
    const { certificates, certification_types, metadata } = await compute(bookingId);
    expect(certificates.map((certificate) => certificate.type)).toEqual([
      'Z',
      'a',
      'a',
      'storage_certificate',
      'storage_certificate',
      'zz',
      '\uFF5E',
      '\u{1F955}',
      null,
    ]);
    expect(certificates[2]?.id).toBe(last);
    expect(certificates[4]?.id).toBe(storage);
    expect(certification_types).toEqual(['Z', 'a', 'storage_certificate', 'zz', '\uFF5E', '\u{1F955}']);
    expect(metadata.certification_types).toEqual(certification_types);
  });

  test('carry the fields that the contract names', async () => {
    const vendor_id = await vendor();
    const compliance = await insert('compliance_certificates', {
      vendor_id,
      certificate_type: 'HACCP',
      certificate_number: 'H-1',
      issuing_authority: 'TÜV',
      issue_date: '2025-01-31',
      expiry_date: 'infinity',
      document_url: 'https://example.org/h1',
      score: 93,
    });
    const bookingId = await booking({ vendor_id });
    const storage = await insert('storage_certificates', {
      booking_id: bookingId,
      certificate_number: `S-${bookingId}`,
      certificate_status: null,
      issued_date: '2026-03-01 10:00:00.5Z',
      issued_by: 'Storage Guard',
      digital_signature: 'abc',
    });
    expect((await compute(bookingId)).certificates).toEqual([
      {
        id: compliance,
        type: 'HACCP',
        issuer: 'TÜV',
        certificate_number: 'H-1',
        issue_date: '2025-01-31',
        expiry_date: null,
        status: 'valid',
        document_url: 'https://example.org/h1',
        score: 93,
      },
      {
        id: storage,
        type: 'storage_certificate',
        certificate_number: `S-${bookingId}`,
        issued_date: '2026-03-01T10:00:00.500Z',
        status: null,
        digital_signature: 'abc',
        issued_by: 'Storage Guard',
      },
    ]);
  });

  test.for([
    ['pending', true],
    ['issued', true],
    ['revoked', false],
    ['expired', false],
  ] as const)('a storage certificate that is %s certifies: %s', async ([certificate_status, certified]) => {
    const bookingId = await booking();
    await insert('storage_certificates', { booking_id: bookingId, certificate_status });
    const { is_certified, metadata } = await compute(bookingId);
    expect([is_certified, metadata.is_certified]).toEqual([certified, certified]);
  });
});

test('what hangs on no location and no vendor belongs to no booking without one', async () => {
  await sensor({ location_id: null });
  await insert('pest_detections', { location_id: null, detected_at: NOW.toISOString() });
  await insert('compliance_certificates', { vendor_id: null });
  const bookingId = await booking();
  const client = await database.pool.connect();
  const world = await loadWorld(client);
  client.release();
  expect(world.detections.some((detection) => detection.locationId === null)).toBe(true);
  const content = snapshotFrom(world, bookingId, NOW, SETTINGS);
  expect(content).toEqual(await compute(bookingId));
  expect(content).toMatchObject({ pest_count: 0, is_certified: false });
});
