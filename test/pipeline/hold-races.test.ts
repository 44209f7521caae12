import { afterAll, beforeAll, expect, test } from 'vitest';
import { createApi } from '../../src/api/app.ts';
import { query } from '../../src/postgres.ts';
import { publishBatch, publishContext } from '../../src/store/publish.ts';
import { apiContext, insertBooking } from '../api/setup.ts';
import { testLog } from '../support/pipeline.ts';
import { createScene, type Scene } from '../support/scene.ts';

let scene: Scene;
beforeAll(async () => {
  scene = await createScene();
  await scene.start();
});
afterAll(() => scene.stop());

const ROUNDS = 6;

test.each([
  ['hold', 'held'],
  ['withdraw', 'withdrawn'],
] as const)(
  'row 30: a %s that races changes, a sweep, publishes and a sync-all wins, with one effect and one audit row',
  async (action, state) => {
    const { pool } = scene.database;
    const market = scene.market.market;
    const app = createApi(apiContext({ pool, market }));
    const sweep = publishContext({
      config: scene.config,
      pool,
      market,
      log: testLog(),
      random: Math.random,
      role: 'sweep',
    });
    const post = async (path: string, body: object = {}): Promise<number> => {
      const response = await app.request(`/storage-guard/snapshots/${path}`, {
        method: 'POST',
        headers: { 'content-type': 'application/json' },
        body: JSON.stringify(body),
      });
      return response.status;
    };
    const held: string[] = [];
    for (let round = 0; round < ROUNDS; round += 1) {
      const { bookingId } = await insertBooking(pool);
      await scene.settle();
      let acted = false;
      const change = async (): Promise<void> => {
        while (!acted) {
          await query(pool, 'update storage_bookings set quantity_kg = quantity_kg + 1 where id = $1', [
            bookingId,
          ]);
        }
      };
      const publish = async (): Promise<void> => {
        while (!acted) await publishBatch(sweep, { limit: 50 });
      };
      const byHand = async (): Promise<void> => {
        while (!acted) {
          expect([200, 400, 503]).toContain(await post(`${bookingId}/publish`));
          expect([200, 503]).toContain(await post('sync-all'));
        }
      };
      const others = [change(), publish(), byHand()];
      expect(await post(`${bookingId}/${action}`, { reason: `round ${round}` })).toBe(200);
      // Nothing that comes after it, and nothing that was on its way, brings the listing back.
      await query(pool, 'update storage_bookings set quantity_kg = quantity_kg + 1 where id = $1', [
        bookingId,
      ]);
      acted = true;
      await Promise.all(others);
      expect(await post(`${bookingId}/publish`)).toBe(400);
      held.push(bookingId);
    }
    await scene.settle();
    for (const bookingId of held) {
      expect(await scene.listing(bookingId)).toMatchObject({ status: state });
      const rows = await query(
        pool,
        `select s.status, (select count(*) from market_sync.audit_log where action = $2 and booking_ids = array[$1::uuid]) as audited
       from market_inventory_snapshots s where s.booking_id = $1`,
        [bookingId, action],
      );
      expect(rows).toEqual([{ status: state, audited: 1 }]);
      // What buyers were told: once it was off the market, it never came back.
      const told = await query<{ status: string }>(
        pool,
        'select status from market_sync.revision where booking_id = $1 order by epoch, revision',
        [bookingId],
      );
      const statuses = told.map((row) => row.status);
      expect(statuses.slice(statuses.indexOf(state)).every((status) => status === state)).toBe(true);
    }
    await scene.expectConverged([]);
  },
  90_000,
);
