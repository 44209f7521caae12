import { randomUUID } from 'node:crypto';
import { ObjectId } from 'mongodb';
import type pg from 'pg';
import type { Market } from '../../src/mongo.ts';
import { query } from '../../src/postgres.ts';

/** What the system before this one does in a round: so many of them at most. */
const ROUND_MAX = 50;

interface Row extends Record<string, unknown> {
  booking_id: string;
  crop_type: string;
  quantity_kg: number;
  market_listing_id: string | null;
}

interface Poller {
  pool: pg.Pool;
  market: Market;
}

/** A booking's snapshot as the old system makes it: no version, no hash, waiting to be published. */
export async function insertOldSnapshot(pool: pg.Pool, bookingId: string): Promise<void> {
  await query(
    pool,
    `insert into market_inventory_snapshots (booking_id, farmer_id, crop_type, quantity_kg, status)
     select id, farmer_id, crop_type, quantity_kg, 'ready_to_publish' from storage_bookings where id = $1`,
    [bookingId],
  );
}

/** Every 5 minutes: publishes what is ready, without a guard of any kind. Answers how many it found. */
export async function pollReady({ pool, market }: Poller): Promise<number> {
  const rows = await query<Row>(
    pool,
    `select booking_id, crop_type, quantity_kg, market_listing_id from market_inventory_snapshots
     where status = 'ready_to_publish' order by created_at limit $1`,
    [ROUND_MAX],
  );
  for (const row of rows) {
    const listingId = row.market_listing_id ?? new ObjectId().toHexString();
    await writeOldListing(market, { ...row, market_listing_id: listingId });
    await query(
      pool,
      `update market_inventory_snapshots set status = 'published', market_listing_id = $2, published_at = now()
       where booking_id = $1`,
      [row.booking_id, listingId],
    );
  }
  return rows.length;
}

/** Every 30 minutes: reads sources again, for what is published, and writes row and listing. */
export async function pollPublished({ pool, market }: Poller): Promise<void> {
  const rows = await query<Row>(
    pool,
    `update market_inventory_snapshots s set quantity_kg = b.quantity_kg, crop_type = b.crop_type, last_synced_at = now()
     from storage_bookings b
     where b.id = s.booking_id and s.status = 'published'
       and s.booking_id in (select booking_id from market_inventory_snapshots where status = 'published'
         order by last_synced_at limit $1)
     returning s.booking_id, s.crop_type, s.quantity_kg, s.market_listing_id`,
    [ROUND_MAX],
  );
  for (const row of rows) await writeOldListing(market, row);
}

/** The whole document, by the id that it remembers. Throws the driver's error. */
export async function writeOldListing(market: Market, row: Row): Promise<void> {
  const { booking_id, crop_type, quantity_kg, market_listing_id } = row;
  const document = {
    booking_id,
    crop_type,
    quantity_kg,
    status: 'published',
    written_by: `poller ${randomUUID()}`,
  };
  await market.listings.replaceOne(
    { _id: ObjectId.createFromHexString(market_listing_id ?? new ObjectId().toHexString()) } as never,
    document as never,
    { upsert: true },
  );
}
