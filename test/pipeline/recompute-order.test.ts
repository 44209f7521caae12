import type pg from 'pg';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { insertBooking, setQuantity } from '../support/application.ts';
import { until } from '../support/pipeline.ts';
import { createDatabase, type TestDatabase } from '../support/postgres.ts';

// D3b: consumer, refresh, manual actions and resync may recompute one booking at once. Whoever writes last has read last.

let database: TestDatabase;

beforeAll(async () => {
  database = await createDatabase({ template: 'migrated' });
});

afterAll(() => database?.drop());

const RECOMPUTES = {
  'a manual reconcile, or the refresh': (db: pg.PoolClient, id: string) =>
    db.query('select market_sync.reconcile(array[$1::uuid])', [id]),
  'a batch of the consumer': (db: pg.PoolClient, id: string) =>
    db.query(
      `select market_sync.reconcile_batch((select generation from market_sync.checkpoint), '0/0', '{}',
         array[$1::uuid], '{}', '{}', '{}', '{}', 10, interval '1 minute')`,
      [id],
    ),
  'a chunk of a resync': async (db: pg.PoolClient) => {
    await db.query(`select market_sync.request_resync('test')`);
    return db.query('select market_sync.resync_chunk(1000)');
  },
} satisfies Record<string, (db: pg.PoolClient, id: string) => Promise<unknown>>;

test.each(Object.keys(RECOMPUTES) as (keyof typeof RECOMPUTES)[])(
  'row 32: %s that waits for another recompute reads after it, not before',
  async (name) => {
    const { pool } = database;
    const [bookingId, other] = [await insertBooking(pool, { quantityKg: 1 }), await insertBooking(pool)];
    const [first, second] = [await pool.connect(), await pool.connect()];
    try {
      await first.query('begin');
      await first.query('select market_sync.reconcile(array[$1::uuid])', [other]);
      const { rows } = await second.query<{ pid: number }>('select pg_backend_pid() as pid');
      const recompute = RECOMPUTES[name](second, bookingId);
      await until('it waits for the first one', async () => {
        const { rows: waiting } = await pool.query<{ blocked: boolean }>(
          'select cardinality(pg_blocking_pids($1)) > 0 as blocked',
          [rows[0]?.pid],
        );
        return waiting[0]?.blocked === true;
      });
      await setQuantity(pool, bookingId, 2);
      await first.query('commit');
      await recompute;
    } finally {
      first.release();
      second.release();
    }
    const { rows } = await pool.query(
      'select quantity_kg from market_inventory_snapshots where booking_id = $1',
      [bookingId],
    );
    expect(rows).toEqual([{ quantity_kg: 2 }]);
  },
);
