import fc from 'fast-check';
import { BSON, ObjectId } from 'mongodb';
import { expect, test } from 'vitest';
import type { Listing } from '../../src/domain/listing.ts';
import { ListingEncoder, readBookingId, type SharedPart } from '../../src/store/listing-bytes.ts';

const LISTING: Listing = {
  booking_id: 'fac6d754-a26c-44cb-a47c-0dc5de58a252',
  farmer_id: '3f0e5b6c-7f11-4a55-9d0a-0b5c6a2e1f2f',
  vendor_id: null,
  location_id: null,
  crop_type: 'Tomate',
  quantity_kg: 1_200,
  grade: null,
  duration_days: null,
  start_date: null,
  end_date: null,
  quality_score: 87.5,
  freshness: 'fresh',
  visual_defects: '',
  shelf_life_days: 21,
  sensors: {},
  sensor_summary: {},
  pest_events: [],
  pest_count: 0,
  has_pest_alerts: false,
  certificates: [],
  is_certified: false,
  certification_types: [],
  metadata: { special_notes: '' },
  status: 'published',
  published_at: '2026-03-01T06:30:00.000Z',
  epoch: 1,
  revision: 2 ** 40,
};
const ID = '665f1c2ab7e4c81d2f9a3c1f';

const encodeWith = (encoder: ListingEncoder, listing: Listing): Uint8Array | undefined =>
  encoder.encode(listing, ID, (name: SharedPart) => JSON.stringify(listing[name]));

const written = (listing: Listing): Buffer =>
  Buffer.from(BSON.serialize({ _id: ObjectId.createFromHexString(ID), ...listing }));

/** As PostgreSQL keeps it: what JSON has, and no other key twice. */
const json = fc.jsonValue({ maxDepth: 3 }).map((value) => JSON.parse(JSON.stringify(value)) as unknown);
const object = fc
  .dictionary(fc.oneof(fc.string(), fc.constantFrom('7', '', 'a.b', '$c', '°C')), json)
  .map((value) => JSON.parse(JSON.stringify(value)) as Record<string, unknown>);
const listings = fc.record({
  sensors: object,
  sensor_summary: object,
  pest_events: fc.array(object, { maxLength: 3 }),
  certificates: fc.array(object, { maxLength: 3 }),
  metadata: object,
  visual_defects: fc.string({ unit: 'grapheme' }),
  quality_score: fc.option(fc.double({ noNaN: true, noDefaultInfinity: true })),
  revision: fc.maxSafeNat(),
  certification_types: fc.array(fc.string()),
});

test('a listing is encoded as the driver encodes it, also when its parts were seen before', () => {
  const encoder = new ListingEncoder();
  fc.assert(
    fc.property(listings, (parts) => {
      const listing = { ...LISTING, ...parts };
      for (let time = 0; time < 2; time += 1) {
        expect(Buffer.from(encodeWith(encoder, listing) ?? []).equals(written(listing))).toBe(true);
      }
    }),
    { numRuns: 300 },
  );
});

test('parts that share a text are told apart by name', () => {
  const encoder = new ListingEncoder();
  const listing = { ...LISTING, sensors: { a: 1 }, sensor_summary: { a: 1 } };
  expect(Buffer.from(encodeWith(encoder, listing) ?? []).equals(written(listing))).toBe(true);
});

test('I9: a large listing is not encoded, and many different ones leave the next ones as they must be', () => {
  const encoder = new ListingEncoder();
  expect(encodeWith(encoder, { ...LISTING, visual_defects: 'x'.repeat(300_000) })).toBeUndefined();
  expect(encodeWith(encoder, { ...LISTING, sensors: { a: 'x'.repeat(300_000) } })).toBeUndefined();
  for (let number = 0; number < 200; number += 1) {
    const listing = { ...LISTING, sensors: { number, text: 'x'.repeat(100_000) } };
    expect(Buffer.from(encodeWith(encoder, listing) ?? []).equals(written(listing))).toBe(true);
  }
});

test('the booking of a document is read where ours have it, and nowhere else', () => {
  expect(readBookingId(written(LISTING))).toBe(LISTING.booking_id);
  for (const document of [
    { _id: new ObjectId() },
    { _id: 'text', booking_id: LISTING.booking_id },
    { _id: new ObjectId(), booking_id: 7, other: 'a text that is long enough to read' },
    { _id: new ObjectId(), booking_id: [LISTING.booking_id] },
    { _id: new ObjectId(), booking_id: `${LISTING.booking_id}x` },
    { _id: new ObjectId(), other: 1, booking_id: LISTING.booking_id },
    { booking_id: LISTING.booking_id, _id: new ObjectId() },
  ]) {
    expect(readBookingId(BSON.serialize(document))).toBeUndefined();
  }
});
