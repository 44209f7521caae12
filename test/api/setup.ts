import type { OpenAPIHono } from '@hono/zod-openapi';
import type pg from 'pg';
import { expect } from 'vitest';
import { createApi } from '../../src/api/app.ts';
import type { ApiContext, ApiEnv } from '../../src/api/context.ts';
import { type Problem, type ProblemCode, problemSchema } from '../../src/api/problem.ts';
import type { Logger } from '../../src/log.ts';
import { ensureListingIndexes, type Market } from '../../src/mongo.ts';
import { query } from '../../src/postgres.ts';
import { reconcileBookings } from '../../src/store/reconcile.ts';
import { createMarket, type TestMarket, testLog } from '../support/pipeline.ts';
import { createDatabase, type TestDatabase } from '../support/postgres.ts';

export interface TestApi {
  database: TestDatabase;
  market: TestMarket;
  ctx: ApiContext;
  app: OpenAPIHono<ApiEnv>;
  drop(): Promise<void>;
}

/** The API on a migrated database of its own and a market, without a pipeline: nothing happens that a test did not ask for. */
export async function createTestApi(
  options: Omit<Parameters<typeof apiContext>[0], 'pool' | 'market'> = {},
): Promise<TestApi> {
  const [database, market] = await Promise.all([createDatabase({ template: 'migrated' }), createMarket()]);
  await ensureListingIndexes(market.market);
  const ctx = apiContext({ pool: database.pool, market: market.market, ...options });
  return {
    database,
    market,
    ctx,
    app: createApi(ctx),
    drop: async () => {
      await market.drop();
      await database.drop();
    },
  };
}

export function apiContext(options: {
  pool: pg.Pool;
  market: Market;
  apiKey?: string;
  requireKey?: boolean;
  oidc?: ApiContext['oidc'];
  rateLimits?: ApiContext['rateLimits'];
  clock?: () => Date;
  log?: Logger;
}): ApiContext {
  const { pool, market, clock, log = testLog() } = options;
  return {
    pool,
    market,
    log,
    publish: {
      pool,
      market,
      log,
      publisher: 'test api',
      leaseSeconds: 60,
      attemptsMax: 2,
      random: () => 0.5,
    },
    ...(clock === undefined ? {} : { clock }),
    apiKey: options.apiKey,
    requireKey: options.requireKey ?? false,
    oidc: options.oidc,
    // So many that no test meets them but those that mean to.
    rateLimits: options.rateLimits ?? { perSecond: 100_000, burst: 100_000, failuresPerMinute: 100_000 },
  };
}

export interface Booked {
  bookingId: string;
  farmerId: string;
  locationId: string;
}

/** A live booking with an inspection, a sensor with a reading, a detection and certificates: a snapshot with every part. */
export async function insertBooking(
  pool: pg.Pool,
  { cropType = 'Tomato' }: { cropType?: string } = {},
): Promise<Booked> {
  const rows = await query<{ booking_id: string; farmer_id: string; location_id: string }>(
    pool,
    `with vendor as (insert into vendors (name) values ('Cold Rooms') returning id),
     location as (insert into storage_locations (vendor_id, name) select id, 'Hall 1' from vendor returning id),
     inspection as (
       insert into crop_inspections (freshness, freshness_score, visual_defects, shelf_life_days)
       values ('fresh', 87.5, 'none', 21) returning id),
     sensor as (
       insert into iot_sensors (location_id, sensor_type) select id, 'temperature' from location returning id),
     reading as (
       insert into sensor_readings (sensor_id, reading_value, reading_unit, reading_time)
       select id, 4.2, '°C', now() from sensor),
     detection as (
       insert into pest_detections (location_id, pest_type, severity_level, confidence_score, detected_at)
       select id, 'weevil', 'high', 0.9, now() from location),
     certificate as (
       insert into compliance_certificates (vendor_id, certificate_type, issue_date, expiry_date, score)
       select id, 'HACCP', '2026-01-01', 'infinity', 90 from vendor),
     booking as (
       insert into storage_bookings (farmer_id, vendor_id, location_id, ai_inspection_id, crop_type, quantity_kg,
         booking_status, start_date, end_date)
       select gen_random_uuid(), vendor.id, location.id, inspection.id, $1, 1200, 'active', now(), 'infinity'
       from vendor, location, inspection returning id, farmer_id, location_id),
     own_certificate as (
       insert into storage_certificates (booking_id, certificate_number, certificate_status, issued_date)
       select id, 'SC-' || id, 'issued', now() from booking)
     select id as booking_id, farmer_id, location_id from booking`,
    [cropType],
  );
  const row = rows[0];
  if (row === undefined) throw new Error('no booking was inserted');
  return { bookingId: row.booking_id, farmerId: row.farmer_id, locationId: row.location_id };
}

/** As `insertBooking`, with its snapshot computed. */
export async function insertSnapshot(pool: pg.Pool, options: { cropType?: string } = {}): Promise<Booked> {
  const booked = await insertBooking(pool, options);
  await reconcileBookings(pool, { bookingIds: [booked.bookingId], now: undefined });
  return booked;
}

export async function setBookingStatus(pool: pg.Pool, bookingId: string, status: string): Promise<void> {
  await query(pool, 'update storage_bookings set booking_status = $2 where id = $1', [bookingId, status]);
  await reconcileBookings(pool, { bookingIds: [bookingId], now: undefined });
}

/** Poison: with the id of another booking's listing, this one's can never be written. */
export async function giveListingId(pool: pg.Pool, bookingId: string, listingId: string): Promise<void> {
  await query(pool, 'update market_inventory_snapshots set market_listing_id = $2 where booking_id = $1', [
    bookingId,
    listingId,
  ]);
}

/** The answer's problem, after checking that it is one as the API promises them, with this code. */
export async function expectProblem(response: Response, code: ProblemCode): Promise<Problem> {
  const body: unknown = await response.json();
  expect(body).toMatchObject({ code });
  expect(response.headers.get('content-type')).toBe('application/problem+json');
  const problem = problemSchema.parse(body);
  expect(problem.status).toBe(response.status);
  expect(problem.request_id).toBe(response.headers.get('x-request-id'));
  return problem;
}
