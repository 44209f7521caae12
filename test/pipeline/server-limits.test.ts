import { afterAll, afterEach, beforeAll, expect, test } from 'vitest';
import { readCheckpoint } from '../../src/store/checkpoint.ts';
import { insertBooking, setQuantity } from '../support/application.ts';
import { recordLog } from '../support/log-recorder.ts';
import { until } from '../support/pipeline.ts';
import { createScene, type Scene } from '../support/scene.ts';

// Row 31: PostgreSQL is there and refuses. A trigger on the snapshots refuses as a full disk, a timeout or a deadlock does,
// with the same SQLSTATE from the same place, in the middle of the recompute.

let scene: Scene;

beforeAll(async () => {
  scene = await createScene();
  await scene.database.pool.query(`
    create table refusal (sqlstate text not null);
    create function refuse() returns trigger language plpgsql as $$
    declare
      v_state text;
    begin
      select sqlstate into v_state from refusal;
      if found then
        raise exception 'refused' using errcode = v_state;
      end if;
      return new;
    end
    $$;
    create trigger refuse before insert or update on market_inventory_snapshots for each row execute function refuse();
  `);
});

afterAll(() => scene?.stop());

afterEach(() => scene.stopPipelines());

// Twice: the consumer came back and tried again.
const INTERRUPTED = { message: 'consumer interrupted, coming back', times: 2 };
// Said once, after five seconds of trying.
const LOCKED = {
  message: 'a lock that a recompute needs is held; the transaction that has it keeps changes back',
  times: 1,
};

test.each([
  ['a full disk', '53100', INTERRUPTED],
  ['no memory left', '53200', INTERRUPTED],
  ['too many connections', '53300', INTERRUPTED],
  ['a statement timeout', '57014', INTERRUPTED],
  ['a lock timeout', '55P03', LOCKED],
  ['a serialization failure', '40001', INTERRUPTED],
  ['a deadlock', '40P01', INTERRUPTED],
])(
  'I2, row 31: while PostgreSQL refuses recomputes with %s nothing is confirmed, and afterwards nothing is lost',
  async (_, sqlState, { message, times }) => {
    const { pool } = scene.database;
    const { log, count } = recordLog();
    const pipeline = await scene.start({ log });
    const bookingId = await insertBooking(pool, { quantityKg: 1 });
    await scene.settle();
    await pool.query('insert into refusal (sqlstate) values ($1)', [sqlState]);
    const { rows } = await pool.query<{ lsn: string }>('select pg_current_wal_lsn()::text as lsn');
    await setQuantity(pool, bookingId, 2);
    await until('the consumer is refused', () => count(message) >= times);
    const { rows: confirmed } = await pool.query<{ early: boolean }>(
      'select confirmed_flush_lsn > $2::pg_lsn as early from pg_replication_slots where slot_name = $1',
      [scene.config.slotName, rows[0]?.lsn],
    );
    expect(confirmed).toEqual([{ early: false }]);
    await pool.query('truncate refusal');
    await scene.settle();
    await scene.expectConverged([bookingId]);
    expect(await scene.listing(bookingId)).toMatchObject({ quantity_kg: 2 });
    expect((await readCheckpoint(pool)).epoch).toBe(1);
    const { rowCount } = await pool.query('select from market_sync.parked');
    expect(rowCount).toBe(0);
    expect(pipeline.consumer.state).toBe('active');
  },
);
