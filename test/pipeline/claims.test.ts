import { once } from 'node:events';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { ConnectionLostError, createPool } from '../../src/postgres.ts';
import { releaseClaims } from '../../src/store/outbox.ts';
import { publishBookings, publishContext } from '../../src/store/publish.ts';
import { insertBooking } from '../support/application.ts';
import { testLog } from '../support/pipeline.ts';
import { type FaultProxy, startProxy } from '../support/proxy.ts';
import { createScene, type Scene } from '../support/scene.ts';

let scene: Scene;
let proxy: FaultProxy;

beforeAll(async () => {
  scene = await createScene();
  proxy = await startProxy(scene.database.url);
});

afterAll(async () => {
  await proxy?.stop();
  await scene?.stop();
});

test.each(['claim_listings', 'mark_published'])(
  'rows 3 and 31: a manual publish whose answer to %s is lost leaves no claim behind that would hold the booking back',
  async (statement) => {
    const { pool: direct } = scene.database;
    const pool = createPool({
      url: proxy.url,
      applicationName: 'api',
      sourceSchema: 'public',
      log: testLog(),
    });
    const bookingId = await insertBooking(direct);
    await direct.query('select market_sync.reconcile(array[$1::uuid])', [bookingId]);
    let [sent, cuts] = [false, 0];
    proxy.onRequest = (chunk) => {
      if (chunk.includes(statement)) sent = true;
    };
    proxy.onReply = () => {
      if (!sent || cuts === 1) return 'forward';
      cuts += 1;
      return 'cut';
    };
    const context = publishContext({
      config: scene.config,
      pool,
      market: scene.market.market,
      log: testLog(),
      random: Math.random,
      role: 'api',
    });
    await expect(publishBookings(context, [bookingId])).rejects.toThrow(ConnectionLostError);
    expect(cuts).toBe(1);
    const { rows } = await direct.query(
      'select claimed_by, attempts from market_sync.snapshot_state where booking_id = $1',
      [bookingId],
    );
    expect(rows).toEqual([{ claimed_by: null, attempts: 0 }]);
    await pool.end();
    await scene.start();
    await scene.settle();
    await scene.expectConverged([bookingId]);
    await scene.stopPipelines();
  },
);

test('I7: claims that are given back wake the publishers, which otherwise sleep until the lease runs out', async () => {
  const { pool } = scene.database;
  const bookingId = await insertBooking(pool);
  await pool.query('select market_sync.reconcile(array[$1::uuid])', [bookingId]);
  await pool.query(
    `update market_sync.snapshot_state set claimed_by = 'sweep', lease_until = clock_timestamp() + interval '1 hour'
     where booking_id = $1`,
    [bookingId],
  );
  const publisher = await pool.connect();
  try {
    await publisher.query('listen market_sync_publish');
    const woken = once(publisher, 'notification', { signal: AbortSignal.timeout(20_000) });
    await releaseClaims(pool, { publisher: 'nobody' });
    await releaseClaims(pool, { publisher: 'sweep' });
    await woken;
    const { rows } = await pool.query(
      'select claimed_by from market_sync.snapshot_state where booking_id = $1',
      [bookingId],
    );
    expect(rows).toEqual([{ claimed_by: null }]);
  } finally {
    publisher.release(true);
  }
});
