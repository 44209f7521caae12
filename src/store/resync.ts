import type pg from 'pg';
import { type Database, inTransaction, query, queryPrepared } from '../postgres.ts';
import { type LiveWork, readLiveWork, takeTurn } from './live-work.ts';

/** `waiting`: transactions that ran when it was asked for have not ended yet. */
export type ResyncPhase = 'waiting' | 'bookings' | 'orphans' | 'ghosts';

const CHUNK = { name: 'resync_chunk', text: 'select resync_id, phase from market_sync.resync_chunk($1, $2)' };

/**
 * Recomputes the next chunk of the oldest open resync, in one transaction with its cursor. Answers the resync, the phase
 * it is in afterwards, how long the lock of all recomputes was held, and what live work there was; undefined when none is open. In phase `ghosts` there is nothing left
 * to recompute.
 */
export async function resyncChunk(
  pool: pg.Pool,
  { limit, now }: { limit: number; now: Date | undefined },
): Promise<{ id: number; phase: ResyncPhase; heldMs: number; live: LiveWork } | undefined> {
  return inTransaction(pool, async (client) => {
    await takeTurn(client);
    const startedAt = performance.now();
    const rows = await queryPrepared<{ resync_id: number | null; phase: ResyncPhase }>(client, CHUNK, [
      limit,
      now ?? null,
    ]);
    const row = rows[0];
    if (row === undefined || row.resync_id === null) return undefined;
    const live = await readLiveWork(client);
    return { id: row.resync_id, phase: row.phase, heldMs: performance.now() - startedAt, live };
  });
}

/** Asks for a recompute of everything; one request that has not begun serves all who ask. */
export async function requestResync(db: Database, reason: string): Promise<number> {
  const rows = await query<{ id: number }>(db, 'select market_sync.request_resync($1) as id', [reason]);
  const id = rows[0]?.id;
  if (id === undefined) throw new Error('request_resync answered nothing');
  return id;
}

/** Snapshots whose listing MongoDB still has in an older epoch, and the bookings that are parked on the way. */
export async function readEpochProgress(
  db: Database,
): Promise<{ epoch: number; behind: number; parked: string[] }> {
  const rows = await query<{ epoch: number; behind: number; parked: string[] }>(
    db,
    `select epoch,
       (select count(*) from market_sync.snapshot_state s where s.published_epoch < c.epoch and s.parked_at is null
          and s.revision > 0) as behind,
       (select coalesce(array_agg(booking_id), '{}') from market_sync.snapshot_state where parked_at is not null) as parked
     from market_sync.checkpoint c`,
  );
  const row = rows[0];
  if (row === undefined) throw new Error('market_sync.checkpoint is empty: its one row was deleted');
  return row;
}

/** Closes a resync. Answers how many bookings it recomputed, and in how many seconds. */
export async function finishResync(db: Database, id: number): Promise<{ bookings: number; seconds: number }> {
  const rows = await query<{ bookings: number; seconds: number }>(
    db,
    `update market_sync.resync set phase = 'done', finished_at = clock_timestamp() where id = $1
     returning bookings_done as bookings,
       extract(epoch from clock_timestamp() - coalesce(started_at, requested_at))::float8 as seconds`,
    [id],
  );
  return rows[0] ?? { bookings: 0, seconds: 0 };
}

/** The resync that is open, for people who look. */
export async function findOpenResync(
  db: Database,
): Promise<{ reason: string; phase: string; bookings: number } | undefined> {
  const rows = await query<{ reason: string; phase: string; bookings: number }>(
    db,
    `select reason, phase, bookings_done as bookings from market_sync.resync where finished_at is null order by id limit 1`,
  );
  return rows[0];
}
