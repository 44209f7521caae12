import { setTimeout as delay } from 'node:timers/promises';
import type pg from 'pg';
import { formatLsn, type Lsn, parseLsn } from '../../src/lsn.ts';
import type { Observations } from './observations.ts';

export interface Monitor {
  stop(): Promise<void>;
}

const PAUSE_MS = 20;

interface SlotState {
  confirmed: Lsn;
  sent: Lsn | undefined;
}

interface CheckpointState {
  commitLsn: Lsn;
  epoch: number;
  generation: number;
}

/**
 * Looks at slot and checkpoint all the time. The slot is read first, so the checkpoint read after it must have come at
 * least as far (I2). Between a fresh slot and the new history that begins at it, it need not: that ends in a new epoch.
 */
export function startMonitor({
  pool,
  slotName,
  observations,
}: {
  pool: pg.Pool;
  slotName: string;
  observations: Observations;
}): Monitor {
  const { tally } = observations;
  let stopped = false;
  let before: CheckpointState | undefined;
  let early: { confirmed: Lsn; epoch: number } | undefined;
  /** The farthest that the slot has sent in this epoch. */
  let sent: Lsn = 0n;

  const look = async (): Promise<void> => {
    const slot = await readSlot(pool, slotName);
    const checkpoint = await readCheckpointState(pool);
    if (checkpoint === undefined) return;
    if (before !== undefined && checkpoint.epoch !== before.epoch) {
      observations.note(`epoch ${checkpoint.epoch}`);
      sent = 0n;
    }
    if (before !== undefined && checkpoint.generation !== before.generation) {
      tally.takeovers += 1;
      // The stream begins at the checkpoint: what was sent beyond it comes once more.
      if (sent > checkpoint.commitLsn) tally.redelivered += 1;
      sent = 0n;
    }
    before = checkpoint;
    if (slot?.sent !== undefined && slot.sent > sent) sent = slot.sent;
    if (early !== undefined && checkpoint.epoch !== early.epoch) early = undefined;
    if (early !== undefined && checkpoint.commitLsn >= early.confirmed) {
      observations.violation(
        'confirmed_early',
        `the slot was at ${formatLsn(early.confirmed)} before the checkpoint`,
      );
      early = undefined;
    }
    if (slot !== undefined && slot.confirmed > checkpoint.commitLsn && checkpoint.commitLsn > 0n) {
      early ??= { confirmed: slot.confirmed, epoch: checkpoint.epoch };
    }
  };
  const run = async (): Promise<void> => {
    while (!stopped) {
      await look().catch(() => undefined); // PostgreSQL is down now and then.
      await delay(PAUSE_MS);
    }
  };
  const running = run();
  return {
    stop: async () => {
      stopped = true;
      await running;
    },
  };
}

async function readSlot(pool: pg.Pool, slotName: string): Promise<SlotState | undefined> {
  const { rows } = await pool.query<{ confirmed: string; sent: string | null }>(
    `select s.confirmed_flush_lsn::text as confirmed, r.sent_lsn::text as sent
     from pg_replication_slots s left join pg_stat_replication r on r.pid = s.active_pid
     where s.slot_name = $1 and s.confirmed_flush_lsn is not null`,
    [slotName],
  );
  const row = rows[0];
  if (row === undefined) return undefined;
  return { confirmed: parseLsn(row.confirmed), sent: row.sent === null ? undefined : parseLsn(row.sent) };
}

async function readCheckpointState(pool: pg.Pool): Promise<CheckpointState | undefined> {
  const { rows } = await pool.query<{ lsn: string | null; epoch: number; generation: string }>(
    'select commit_lsn::text as lsn, epoch, generation from market_sync.checkpoint',
  );
  const row = rows[0];
  if (row === undefined) return undefined;
  return {
    commitLsn: parseLsn(row.lsn ?? '0/0'),
    epoch: row.epoch,
    generation: Number(row.generation),
  };
}
