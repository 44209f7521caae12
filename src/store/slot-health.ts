import { type Database, query } from '../postgres.ts';

/**
 * Share of the WAL that PostgreSQL keeps for a slot (`max_slot_wal_keep_size`) that must be left: below it there is
 * little time to mend what keeps the consumer from confirming.
 */
const SAFE_SHARE_MIN = 0.25;

/** Where nothing limits what is kept, more than this many bytes of WAL held back are a disk that fills. */
const RETAINED_WAL_BYTES_MAX = 16 * 1024 ** 3;

/**
 * The replication slot, as far as losing it goes.
 *
 * - `ok`: keeps what the consumer still needs.
 * - `filling`: less than a quarter of what PostgreSQL keeps for it is left, or the next checkpoint may remove WAL that it
 *   needs, or, without a limit, it holds 16 GiB back. The consumer does not confirm: it is stalled, or slower than the
 *   writers.
 * - `lost`: WAL it needed was removed. `missing`: somebody dropped it. The consumer begins a new history.
 * - `none`: no consumer has made one yet.
 */
export interface SlotHealth {
  state: 'ok' | 'filling' | 'lost' | 'missing' | 'none';
  slotName: string | undefined;
  walStatus: string | undefined;
  retainedWalBytes: number | undefined;
  /** WAL that may still be written before the slot is in danger; undefined where nothing limits what is kept. */
  safeWalBytes: number | undefined;
}

const SLOT = `
  select c.slot_name, c.commit_lsn is not null as begun, s.slot_name is not null as present, s.wal_status,
    s.safe_wal_size as safe_wal_bytes, pg_current_wal_lsn() - s.restart_lsn as retained_wal_bytes,
    -- As PostgreSQL itself decides what to keep: the greater of both, in megabytes.
    (select max(setting::bigint) * 1024 * 1024 from pg_settings
      where name in ('max_slot_wal_keep_size', 'wal_keep_size')) as kept_wal_bytes
  from market_sync.checkpoint c
  left join pg_replication_slots s on s.slot_name = c.slot_name`;

export async function readSlotHealth(db: Database): Promise<SlotHealth> {
  const rows = await query<{
    slot_name: string | null;
    begun: boolean;
    present: boolean;
    wal_status: string | null;
    safe_wal_bytes: number | null;
    retained_wal_bytes: number | null;
    kept_wal_bytes: number;
  }>(db, SLOT);
  const row = rows[0];
  if (row === undefined) throw new Error('market_sync.checkpoint is empty: its one row was deleted');
  const safeWalBytes = row.safe_wal_bytes ?? undefined;
  return {
    state: judgeSlot({
      begun: row.begun,
      present: row.present,
      walStatus: row.wal_status ?? undefined,
      retainedWalBytes: row.retained_wal_bytes ?? undefined,
      safeWalBytes,
      keptWalBytes: row.kept_wal_bytes,
    }),
    slotName: row.slot_name ?? undefined,
    walStatus: row.wal_status ?? undefined,
    retainedWalBytes: row.retained_wal_bytes ?? undefined,
    safeWalBytes,
  };
}

interface SlotFacts {
  begun: boolean;
  present: boolean;
  walStatus: string | undefined;
  retainedWalBytes: number | undefined;
  safeWalBytes: number | undefined;
  keptWalBytes: number;
}

/** Pure. */
export function judgeSlot(slot: SlotFacts): SlotHealth['state'] {
  if (!slot.begun) return 'none';
  if (!slot.present) return 'missing';
  if (slot.walStatus === 'lost') return 'lost';
  if (slot.walStatus === 'unreserved') return 'filling';
  const filling =
    slot.safeWalBytes === undefined
      ? (slot.retainedWalBytes ?? 0) > RETAINED_WAL_BYTES_MAX
      : slot.safeWalBytes < SAFE_SHARE_MIN * slot.keptWalBytes;
  return filling ? 'filling' : 'ok';
}
