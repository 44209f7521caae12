import { expect, test } from 'vitest';
import { beginHistory } from '../../src/store/checkpoint.ts';
import { readMarketEpoch, writeListings } from '../../src/store/listings.ts';
import { claimListings, releaseClaims } from '../../src/store/outbox.ts';
import { reconcileBookings } from '../../src/store/reconcile.ts';
import { makeListing } from '../market/factories.ts';
import { createMarket, startTestPipeline } from '../support/pipeline.ts';
import { createDatabase, type TestDatabase } from '../support/postgres.ts';

async function book(pool: TestDatabase['pool']): Promise<string> {
  const { rows } = await pool.query<{ id: string }>(
    `insert into storage_bookings (farmer_id, crop_type, quantity_kg, booking_status)
     values (gen_random_uuid(), 'wheat', 1, 'active') returning id`,
  );
  return rows[0]?.id ?? '';
}

test.each([
  ['dropped', 'drop publication market_sync', /publication market_sync/],
  [
    'altered, so that it has no bookings any more,',
    'alter publication market_sync drop table storage_bookings',
    /publication market_sync/,
  ],
])(
  'I2, row 12: a publication %s while streaming stops the consumer within 10 s and leads to a resync',
  async (_, change, message) => {
    const running = await startTestPipeline();
    try {
      const droppedAt = performance.now();
      await running.database.pool.query(change);
      await expect(running.pipeline.failed).rejects.toThrow(message);
      expect(performance.now() - droppedAt).toBeLessThan(10_000);
      await running.pipeline.stop().catch(() => undefined);
      const { rows } = await running.database.pool.query(
        `select reason from market_sync.resync where finished_at is null or reason = 'capture was incomplete'`,
      );
      expect(rows).toEqual([{ reason: 'capture was incomplete' }]);
    } finally {
      await running.stop().catch(() => undefined);
    }
  },
);

test('I1: a snapshot that another system inserted is taken over when its booking is next computed', async () => {
  const database = await createDatabase({ template: 'migrated' });
  const { pool } = database;
  try {
    const id = await book(pool);
    await pool.query(
      `insert into market_inventory_snapshots (booking_id, farmer_id, crop_type, quantity_kg, market_listing_id)
       values ($1, gen_random_uuid(), 'rice', 9, '665f1c2ab7e4c81d2f9a3c1f')`,
      [id],
    );
    await reconcileBookings(pool, { bookingIds: [id], now: undefined });
    const { rows } = await pool.query(
      `select crop_type, s.revision, state.revision as to_publish, market_listing_id
       from market_inventory_snapshots s join market_sync.snapshot_state state using (booking_id)`,
    );
    expect(rows).toEqual([
      { crop_type: 'wheat', revision: 1, to_publish: 1, market_listing_id: '665f1c2ab7e4c81d2f9a3c1f' },
    ]);
  } finally {
    await database.drop();
  }
});

test('I3: a new history begins above every epoch that MongoDB has a listing of', async () => {
  const database = await createDatabase({ template: 'migrated' });
  const market = await createMarket();
  try {
    expect(await readMarketEpoch(market.market)).toBe(0);
    await writeListings(
      market.market,
      [3, 7, 5].map((epoch) => ({
        listing: makeListing({ booking_id: `epoch ${epoch}`, epoch }),
        listingId: null,
      })),
    );
    const marketEpoch = await readMarketEpoch(market.market);
    expect(marketEpoch).toBe(7);
    const history = {
      generation: 0,
      slotName: 'none',
      systemIdentifier: '1',
      timeline: 1,
      commitLsn: 1n,
      reason: 'test',
    };
    expect(await beginHistory(database.pool, { ...history, cut: false, marketEpoch: 0 })).toBe(1);
    expect(await beginHistory(database.pool, { ...history, cut: true, marketEpoch: 0 })).toBe(2);
    expect(await beginHistory(database.pool, { ...history, cut: false, marketEpoch })).toBe(8);
    expect(await beginHistory(database.pool, { ...history, cut: true, marketEpoch })).toBe(9);
  } finally {
    await market.drop();
    await database.drop();
  }
});

test('a published snapshot that is claimed by hand and given back stays published', async () => {
  const database = await createDatabase({ template: 'migrated' });
  const { pool } = database;
  try {
    const id = await book(pool);
    await reconcileBookings(pool, { bookingIds: [id], now: undefined });
    await pool.query(
      `update market_sync.snapshot_state set published_epoch = epoch, published_revision = revision`,
    );
    await pool.query(`update market_inventory_snapshots set status = 'published'`);
    await claimListings(pool, { publisher: 'by hand', leaseSeconds: 5, limit: 1, bookingIds: [id] });
    await releaseClaims(pool, { publisher: 'by hand', bookingIds: [id] });
    const { rows } = await pool.query('select status from market_inventory_snapshots');
    expect(rows).toEqual([{ status: 'published' }]);
  } finally {
    await database.drop();
  }
});
