import { afterAll, beforeAll, beforeEach, expect, test } from 'vitest';
import { parseLsn } from '../../src/lsn.ts';
import { connectMarket, type Market } from '../../src/mongo.ts';
import { insertBooking, setQuantity } from '../support/application.ts';
import { recordLog } from '../support/log-recorder.ts';
import { until } from '../support/pipeline.ts';
import { type FaultProxy, startProxy } from '../support/proxy.ts';
import { createScene, type Scene } from '../support/scene.ts';

// MongoDB goes away on the way to it (rows 5 and 6). What it holds is looked at past the proxy.

const CANNOT_WRITE = 'mongodb cannot be written, trying again';

let scene: Scene;
let proxy: FaultProxy;
let market: Market;
const log = recordLog();
/** Messages that carried listings to MongoDB. */
let writes = 0;

beforeAll(async () => {
  scene = await createScene();
  proxy = await startProxy(scene.market.url);
  market = await connectMarket({ url: proxy.url, database: scene.market.database, timeoutMs: 1_000 });
  proxy.onRequest = (chunk) => {
    if (carriesListing(chunk)) writes += 1;
  };
  await scene.start({ market, log: log.log });
});

beforeEach(() => {
  writes = 0;
});

afterAll(async () => {
  await scene?.stop();
  await market?.close();
  await proxy?.stop();
});

const carriesListing = (chunk: Buffer): boolean =>
  chunk.includes('market_listings') && chunk.includes('farmer_id');

const confirmedLsn = async (): Promise<bigint> =>
  parseLsn(
    (
      await scene.database.pool.query<{ lsn: string }>(
        'select confirmed_flush_lsn::text as lsn from pg_replication_slots where slot_name = $1',
        [scene.config.slotName],
      )
    ).rows[0]?.lsn ?? '',
  );

test.each(['refuses', 'hangs'] as const)(
  'row 5: while MongoDB %s the slot keeps advancing, and on its return the newest state only is written',
  async (fault) => {
    const { pool } = scene.database;
    const CHANGES = 50;
    const bookingId = await insertBooking(pool, { quantityKg: 1 });
    await scene.settle();
    expect(await scene.listing(bookingId)).toMatchObject({ revision: 1 });
    if (fault === 'refuses') await proxy.refuse();
    else proxy.hang();
    writes = 0;

    for (let quantityKg = 2; quantityKg <= CHANGES; quantityKg += 1) {
      const before = await confirmedLsn();
      await setQuantity(pool, bookingId, quantityKg);
      await until('the slot advances', async () => (await confirmedLsn()) > before);
    }
    const { rows } = await pool.query(
      'select quantity_kg, revision from market_inventory_snapshots where booking_id = $1',
      [bookingId],
    );
    expect(rows).toEqual([{ quantity_kg: CHANGES, revision: CHANGES }]);
    expect(await scene.listing(bookingId)).toMatchObject({ quantity_kg: 1, revision: 1 });

    // Nothing of the outage is held against the booking (I7).
    const tried = log.count(CANNOT_WRITE);
    await until('the publisher has tried again', () => log.count(CANNOT_WRITE) > tried);
    const trouble = await pool.query(
      'select attempts, parked_at from market_sync.snapshot_state where booking_id = $1',
      [bookingId],
    );
    expect(trouble.rows).toEqual([{ attempts: 0, parked_at: null }]);

    await proxy.heal();
    await scene.settle();
    await scene.expectConverged([bookingId]);
    expect(writes).toBeLessThanOrEqual(3);
  },
);

test.each(['its first', 'a later'])(
  'row 6: a connection reset after MongoDB wrote %s listing of a booking: no duplicate, the right version, marked',
  async (which) => {
    const { pool } = scene.database;
    let bookingId = '';
    if (which === 'a later') {
      bookingId = await insertBooking(pool, { quantityKg: 1 });
      await scene.settle();
    }
    let [sent, cuts] = [false, 0];
    proxy.onRequest = (chunk) => {
      if (carriesListing(chunk)) sent = true;
    };
    // The first two replies to a write are lost, with their connection: the driver's own retry fails as well.
    proxy.onReply = () => {
      if (!sent || cuts === 2) return 'forward';
      sent = false;
      cuts += 1;
      return 'cut';
    };
    try {
      if (which === 'a later') await setQuantity(pool, bookingId, 2);
      else bookingId = await insertBooking(pool, { quantityKg: 2 });
      await scene.settle();
    } finally {
      proxy.onReply = () => 'forward';
    }
    expect(cuts).toBe(2);
    await scene.expectConverged([bookingId]);
    const { rows } = await pool.query(
      'select published_revision = revision as published, attempts from market_sync.snapshot_state where booking_id = $1',
      [bookingId],
    );
    expect(rows).toEqual([{ published: true, attempts: 0 }]);
  },
);
