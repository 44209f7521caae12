import type pg from 'pg';
import { type Database, query, queryPrepared } from '../postgres.ts';

/** Signs of live work, as somebody sees them who has the lock of all recomputes and may let others go first. */
export interface LiveWork {
  /** Somebody waits for that lock. */
  waiting: boolean;
  /** Batches of changes recomputed within the last two minutes. When it rises, live work is about. */
  batches: number;
}

const LIVE_WORK = { name: 'live_work', text: 'select waiting, batches from market_sync.live_work()' };

export async function readLiveWork(db: Database): Promise<LiveWork> {
  const rows = await queryPrepared<{ waiting: boolean; batches: number }>(db, LIVE_WORK, []);
  return rows[0] ?? { waiting: false, batches: 0 };
}

/** Rows that the application has written, by statistics that are a second behind. They begin anew when somebody resets them. */
export async function readSourceWrites(db: Database): Promise<number> {
  const rows = await query<{ rows: number }>(db, 'select market_sync.source_writes()::float8 as rows');
  return rows[0]?.rows ?? 0;
}

/**
 * Waits for the lock of all recomputes, which recomputing takes anyway, until the end of the transaction: whoever has it from
 * here on knows how long others wait for it, apart from how long it waited itself.
 */
export async function takeTurn(client: pg.ClientBase): Promise<void> {
  await query(client, 'select pg_advisory_xact_lock(5501, 1)');
}

/**
 * Sees to it that plans fit the size of tables that are being filled. Takes no lock that anybody waits for; call it outside
 * of a transaction that recomputes. True when statistics were made.
 */
export async function countGrownTables(db: Database): Promise<boolean> {
  const rows = await query<{ grown: boolean }>(db, 'select market_sync.count_grown_tables() as grown');
  return rows[0]?.grown === true;
}
