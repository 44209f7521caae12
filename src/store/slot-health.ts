import { type Database, query } from '../postgres.ts';

/**
 * The replication slot, as far as losing it goes. `market_sync.judge_slot()` decides which.
 *
 * - `ok`: keeps what the consumer still needs.
 * - `filling`: less than a quarter of what PostgreSQL keeps for it is left, or the next checkpoint may remove WAL that it
 *   needs, or, without a limit, it holds 16 GiB back. The consumer does not confirm: it is stalled, or slower than the
 *   writers.
 * - `lost`: WAL it needed was removed. `missing`: somebody dropped it. The consumer begins a new history.
 * - `none`: no consumer has made one yet.
 */
export type SlotState = 'ok' | 'filling' | 'lost' | 'missing' | 'none';

export interface SlotHealth {
  state: SlotState;
  slotName: string | undefined;
  walStatus: string | undefined;
  retainedWalBytes: number | undefined;
  /** WAL that may still be written before the slot is in danger; undefined where nothing limits what is kept. */
  safeWalBytes: number | undefined;
}

export async function readSlotHealth(db: Database): Promise<SlotHealth> {
  const rows = await query<{
    state: SlotState;
    slot_name: string | null;
    wal_status: string | null;
    retained_wal_bytes: number | null;
    safe_wal_bytes: number | null;
  }>(
    db,
    'select state, slot_name, wal_status, retained_wal_bytes, safe_wal_bytes from market_sync.slot_health',
  );
  const row = rows[0];
  if (row === undefined) throw new Error('market_sync.checkpoint is empty: its one row was deleted');
  return {
    state: row.state,
    slotName: row.slot_name ?? undefined,
    walStatus: row.wal_status ?? undefined,
    retainedWalBytes: row.retained_wal_bytes ?? undefined,
    safeWalBytes: row.safe_wal_bytes ?? undefined,
  };
}

/** Has the slot keep less WAL. Answers whether PostgreSQL could be asked: from 16 on, and a right of the schema's owner. */
export async function letSlotAdvance(db: Database): Promise<boolean> {
  const rows = await query<{ asked: boolean }>(db, 'select market_sync.let_slot_advance() as asked');
  return rows[0]?.asked === true;
}
