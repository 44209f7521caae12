import type pg from 'pg';
import { type Database, inTransaction, query } from '../postgres.ts';
import { type LiveWork, readLiveWork, takeTurn } from './live-work.ts';
import { UNPUBLISHED } from './outbox.ts';
import { reconcileBookings } from './reconcile.ts';
import { TASK_COLUMNS, type Task, type TaskResult, type TaskRow } from './tasks.ts';

// How a task is worked: from its cursor on, chunk by chunk, each recorded with the cursor.

/** Results kept with a task; the counts say how many there were. */
const RESULTS_MAX = 1_000;

/** Begins an open task, or goes on with it; undefined when there is nothing to do: cancelled, or done before. */
export async function beginTask(db: Database, id: string): Promise<Task | undefined> {
  const rows = await query<TaskRow>(
    db,
    `update market_sync.task task
     set state = 'running', started_at = coalesce(started_at, clock_timestamp()),
       -- What passed while nobody worked it says nothing of how fast it is.
       advanced_at = clock_timestamp(),
       total = coalesce(total, case kind
         when 'backfill' then (select count(*) from storage_bookings)
         else (select count(*) from market_sync.snapshot_state where ${UNPUBLISHED}) end)
     where id = $1 and state in ('queued', 'running') returning ${TASK_COLUMNS}`,
    [id],
  );
  return rows[0];
}

type ChunkOutcome = 'more' | 'end' | 'paused' | 'closed';

/** `more`: so many bookings were done while the lock of all recomputes was held so long, and this is what live work there was. */
export type BackfillOutcome =
  | { outcome: 'more'; bookings: number; heldMs: number; live: LiveWork }
  | { outcome: Exclude<ChunkOutcome, 'more'> };

/**
 * Recomputes the next bookings of a backfill in one transaction with its cursor: a kill costs at most one chunk, and
 * nothing is done twice. What it changes is published after live changes. `closed`: it was cancelled.
 */
export async function backfillChunk(
  pool: pg.Pool,
  { id, limit, now }: { id: string; limit: number; now: Date | undefined },
): Promise<BackfillOutcome> {
  return inTransaction(pool, async (client) => {
    const rows = await query<{ after_booking_id: string | null; paused: boolean }>(
      client,
      `select after_booking_id, market_sync.is_paused() as paused, set_config('market_sync.background', 'on', true)
       from market_sync.task where id = $1 and state = 'running' for update`,
      [id],
    );
    const task = rows[0];
    if (task === undefined) return { outcome: 'closed' };
    if (task.paused) return { outcome: 'paused' };
    await takeTurn(client);
    const startedAt = performance.now();
    const bookingIds = await nextBookings(client, { after: task.after_booking_id, limit });
    const last = bookingIds.at(-1);
    if (last === undefined) return { outcome: 'end' };
    const reconciled = await reconcileBookings(client, { bookingIds, now });
    const parked = await findParkedAmong(client, bookingIds);
    const results: TaskResult[] = [
      ...parked.map(({ booking_id, error }) => ({
        booking_id,
        status: 'parked' as const,
        listing_id: null,
        error,
      })),
      ...reconciled
        .filter((entry) => entry.changed)
        .map(({ booking_id }) => ({ booking_id, status: 'changed' as const, listing_id: null })),
    ];
    await recordChunk(client, {
      id,
      after: task.after_booking_id,
      upto: last,
      done: bookingIds.length - parked.length,
      failed: parked.length,
      results,
    });
    // While this transaction still has the lock that live work waits for.
    const live = await readLiveWork(client);
    return { outcome: 'more', bookings: bookingIds.length, heldMs: performance.now() - startedAt, live };
  });
}

const UUID_MIN = '00000000-0000-0000-0000-000000000000';

/**
 * Every booking, and every snapshot whose booking is gone, by id. The condition is one that an index serves: with "after is
 * null or id > after" each chunk would read everything before it again.
 */
async function nextBookings(
  db: Database,
  { after, limit }: { after: string | null; limit: number },
): Promise<string[]> {
  const rows = await query<{ id: string }>(
    db,
    `select id from (
       (select b.id from storage_bookings b where b.id >= $2 and b.id is distinct from $1::uuid order by b.id limit $3)
       union
       (select s.booking_id from market_inventory_snapshots s
        where s.booking_id >= $2 and s.booking_id is distinct from $1::uuid order by s.booking_id limit $3)
     ) known order by id limit $3`,
    [after, after ?? UUID_MIN, limit],
  );
  return rows.map((row) => row.id);
}

async function findParkedAmong(
  db: Database,
  bookingIds: string[],
): Promise<{ booking_id: string; error: string }[]> {
  return query(
    db,
    `select booking_id, coalesce(last_error, '') as error from market_sync.snapshot_state
     where booking_id = any ($1) and parked_at is not null and failed_stage = 'reconcile' order by booking_id`,
    [bookingIds],
  );
}

/** The next snapshots of a sync-all that MongoDB has not confirmed, by id; undefined when it is not open any more. */
export async function nextUnpublished(
  db: Database,
  { id, limit }: { id: string; limit: number },
): Promise<{ after: string | null; bookingIds: string[]; paused: boolean } | undefined> {
  const rows = await query<{ after: string | null; booking_ids: string[]; paused: boolean }>(
    db,
    `select task.after_booking_id as after, market_sync.is_paused() as paused, array(
       select booking_id from market_sync.snapshot_state
       where ${UNPUBLISHED} and (task.after_booking_id is null or booking_id > task.after_booking_id)
       order by booking_id limit $2) as booking_ids
     from market_sync.task where id = $1 and state = 'running'`,
    [id, limit],
  );
  const row = rows[0];
  return row && { after: row.after, bookingIds: row.booking_ids, paused: row.paused };
}

/** Adds a chunk to a task's result and moves its cursor, unless somebody has set that back meanwhile. */
export async function recordChunk(
  db: Database,
  chunk: {
    id: string;
    after: string | null;
    upto: string | null;
    done: number;
    failed: number;
    results: TaskResult[];
  },
): Promise<void> {
  await query(
    db,
    `update market_sync.task task
     set done = done + $4, failed = failed + $5, error = null, advanced_at = clock_timestamp(),
       -- Of the last five seconds mostly: long enough to be read, short enough to be true.
       rate_per_second = (
         select coalesce(task.rate_per_second, now.rate) * exp(-seconds / 5) + now.rate * (1 - exp(-seconds / 5))
         from (select greatest(extract(epoch from clock_timestamp() - coalesce(advanced_at, started_at)), 0.001)::float8) passed (seconds)
         cross join lateral (select ($4::bigint + $5::bigint) / seconds) now (rate)),
       after_booking_id = case when after_booking_id is not distinct from $2 then $3 else after_booking_id end,
       results = case
         when $6::jsonb = '[]' or jsonb_array_length(results) >= ${RESULTS_MAX} then results
         else (select jsonb_agg(entry order by place)
           from jsonb_array_elements(results || $6::jsonb) with ordinality listed (entry, place)
           where place <= ${RESULTS_MAX}) end
     where id = $1`,
    [
      chunk.id,
      chunk.after,
      chunk.upto,
      chunk.done,
      chunk.failed,
      JSON.stringify(chunk.results.slice(0, RESULTS_MAX)),
    ],
  );
}

/**
 * Closes a task that came to its end, and answers it; undefined when it was not in work any more. A sync-all whose cursor
 * was set back since `after` was read is not at its end: it stays open.
 */
export async function finishTask(
  db: Database,
  { id, after }: { id: string; after?: string | null },
): Promise<Task | undefined> {
  const rows = await query<TaskRow>(
    db,
    `update market_sync.task
     set state = 'done', finished_at = clock_timestamp(), error = null,
       -- What became of the others meanwhile, published by the pipeline or deleted, is not this task's.
       total = done + failed
     where id = $1 and state = 'running' and ($2 or after_booking_id is not distinct from $3)
     returning ${TASK_COLUMNS}`,
    [id, after === undefined, after ?? null],
  );
  return rows[0];
}

/** Says why a task does not get on at the moment. */
export async function noteTaskError(
  db: Database,
  { id, error }: { id: string; error: string },
): Promise<void> {
  await query(db, `update market_sync.task set error = $2 where id = $1 and state = 'running'`, [id, error]);
}
