import { randomUUID } from 'node:crypto';
import type pg from 'pg';
import { type Database, inTransaction, query } from '../postgres.ts';
import { findOpenJobs, sendJob } from '../queue.ts';
import type { AskedQueue } from '../queue-schema.ts';

// Long manual actions. The row of market_sync.task is what is asked for, how far it is and what came of it; a job of
// pg-boss with the same id has it worked, in whichever pipeline process. One of a kind is open at a time.

export type TaskKind = 'sync_all' | 'backfill';

/** Locks by which one task of a kind is made at a time. Of two numbers: keys of one are the application's. */
const LOCK_CLASS = 5503;
const LOCK: Record<TaskKind, number> = { sync_all: 1, backfill: 2 };

type TaskState = 'queued' | 'running' | 'done' | 'failed' | 'cancelled';

/** What came of one booking. */
export interface TaskResult {
  booking_id: string;
  /** `changed`: recomputed, with a difference that a buyer can see. */
  status: 'published' | 'failed' | 'parked' | 'changed';
  listing_id: string | null;
  error?: string;
}

export interface Task {
  id: string;
  kind: TaskKind;
  state: TaskState;
  requested_by: string;
  requested_at: Date;
  started_at: Date | null;
  finished_at: Date | null;
  /** Bookings to do, as counted when it began; null until then. */
  total: number | null;
  done: number;
  failed: number;
  after_booking_id: string | null;
  /** Bookings a second at the moment; 0 when it has not moved for 10 s, null when it is not in work. */
  rate_per_second: number | null;
  /** At this rate; null when nobody can say. */
  eta_seconds: number | null;
  error: string | null;
}

const RATE = 'market_sync.current_rate(state, advanced_at, rate_per_second)';

export const TASK_COLUMNS = `id, kind, state, requested_by, requested_at, started_at, finished_at, total, done, failed,
  after_booking_id, ${RATE} as rate_per_second, market_sync.time_left(total - done - failed, ${RATE}) as eta_seconds, error`;
export type TaskRow = Task & Record<string, unknown>;

/** The queue of pg-boss that has a kind of task worked. */
export const taskQueue = (kind: TaskKind): AskedQueue => (kind === 'sync_all' ? 'sync-all' : 'backfill');

/** Longest a run may take before it counts as interrupted and is taken up anew: the most that pg-boss allows, nearly. */
export const TASK_EXPIRE_SECONDS = 23 * 3600;

/**
 * Asks for a task, in the caller's transaction: the open one of this kind, or a new one with its job. A sync-all that is
 * in work starts over, so that it finds what became unpublished since.
 */
export async function requestTask(
  client: pg.ClientBase,
  { kind, requestedBy }: { kind: TaskKind; requestedBy: string },
): Promise<{ task: Task; isNew: boolean }> {
  // Of two who ask at once, one makes the task and the other finds it.
  await query(client, 'select pg_advisory_xact_lock($1, $2)', [LOCK_CLASS, LOCK[kind]]);
  await closeLostTasks(client);
  const open = await query<TaskRow>(
    client,
    `update market_sync.task set after_booking_id = case when kind = 'sync_all' then null else after_booking_id end
     where kind = $1 and state in ('queued', 'running') returning ${TASK_COLUMNS}`,
    [kind],
  );
  if (open[0] !== undefined) return { task: open[0], isNew: false };
  const id = randomUUID();
  const made = await query<TaskRow>(
    client,
    `insert into market_sync.task (id, kind, requested_by) values ($1, $2, $3) returning ${TASK_COLUMNS}`,
    [id, kind, requestedBy],
  );
  await sendJob(client, {
    name: taskQueue(kind),
    id,
    input: { task_id: id, requested_by: requestedBy },
  });
  return { task: first(made), isNew: true };
}

export async function findTask(
  db: Database,
  id: string,
): Promise<(Task & { results: TaskResult[] }) | undefined> {
  const rows = await query<TaskRow & { results: TaskResult[] }>(
    db,
    `select ${TASK_COLUMNS}, results from market_sync.task where id = $1`,
    [id],
  );
  return rows[0];
}

/** A place in the order of `listTasks`. */
export interface TaskCursor {
  /** As PostgreSQL prints it, with microseconds. */
  requestedAt: string;
  id: string;
}

/** Tasks, the last asked for first, after the cursor; at most `limit`, without their results. */
export async function listTasks(
  db: Database,
  { after, limit }: { after: TaskCursor | undefined; limit: number },
): Promise<{ tasks: Task[]; next: TaskCursor | undefined }> {
  const rows = await query<TaskRow & { cursor_requested_at: string }>(
    db,
    `select ${TASK_COLUMNS}, requested_at::text as cursor_requested_at from market_sync.task
     where $1::timestamptz is null or (requested_at, id) < ($1, $2::uuid)
     order by requested_at desc, id desc limit $3`,
    [after?.requestedAt ?? null, after?.id ?? null, limit + 1],
  );
  const page = rows.slice(0, limit);
  const last = page.at(-1);
  return {
    tasks: page.map(({ cursor_requested_at: _, ...task }) => task as Task),
    next:
      rows.length > limit && last !== undefined
        ? { requestedAt: last.cursor_requested_at, id: last.id }
        : undefined,
  };
}

/** Cancels an open task: what it has done stays, a chunk in work is finished. Undefined when it is not open. */
export async function cancelTask(db: Database, id: string): Promise<Task | undefined> {
  const rows = await query<TaskRow>(
    db,
    `update market_sync.task set state = 'cancelled', finished_at = clock_timestamp()
     where id = $1 and state in ('queued', 'running') returning ${TASK_COLUMNS}`,
    [id],
  );
  return rows[0];
}

/** Closes a task for an error that nothing can be done about. */
export async function failTask(db: Database, { id, error }: { id: string; error: string }): Promise<void> {
  await query(
    db,
    `update market_sync.task set state = 'failed', finished_at = clock_timestamp(), error = $2
     where id = $1 and state in ('queued', 'running')`,
    [id, error],
  );
}

/** Asks for a backfill as SQL does, audited with its reason; answers the id of the open one, or of a new one. */
export async function requestBackfill(db: Database, reason: string): Promise<string> {
  const rows = await query<{ id: string }>(db, 'select market_sync.backfill($1) as id', [reason]);
  const id = rows[0]?.id;
  if (id === undefined) throw new Error('backfill answered nothing');
  return id;
}

/** The backfill that is open, or undefined. */
export async function findOpenBackfill(db: Database): Promise<string | undefined> {
  const rows = await query<{ id: string }>(
    db,
    `select id from market_sync.backfills where state in ('queued', 'running')`,
  );
  return rows[0]?.id;
}

/** Cancels a task as SQL does, audited. Raises MS404 or MS409. */
export async function cancelAudited(db: Database, id: string, reason: string): Promise<void> {
  await query(db, 'select market_sync.cancel_task($1, $2)', [id, reason]);
}

/** Gives tasks that were asked for in SQL their jobs; answers their ids. Of several who do so at once, one does. */
export async function sendTaskJobs(pool: pg.Pool): Promise<string[]> {
  return inTransaction(pool, async (client) => {
    const tasks = await query<{ id: string; kind: TaskKind; requested_by: string }>(
      client,
      `update market_sync.task set has_job = true where id in (
         select id from market_sync.task where not has_job and state in ('queued', 'running') for update skip locked)
       returning id, kind, requested_by`,
    );
    for (const { id, kind, requested_by } of tasks) {
      await sendJob(client, { name: taskQueue(kind), id, input: { task_id: id, requested_by } });
    }
    return tasks.map((task) => task.id);
  });
}

/** Closes tasks whose job is gone (cancelled or deleted in pg-boss, or given up): nobody would ever work them. */
export async function closeLostTasks(db: Database): Promise<void> {
  const open = await query<{ id: string }>(
    db,
    `select id from market_sync.task where state in ('queued', 'running') and has_job`,
  );
  if (open.length === 0) return;
  const jobs = await findOpenJobs(
    db,
    open.map((task) => task.id),
  );
  for (const { id } of open) {
    if (!jobs.has(id)) await failTask(db, { id, error: 'its job ended without it: ask again' });
  }
}

/** Deletes tasks that ended longer ago than this; answers how many. */
export async function deleteOldTasks(db: Database, days: number): Promise<number> {
  const rows = await query<{ count: number }>(
    db,
    `with old as (
       delete from market_sync.task where finished_at < clock_timestamp() - make_interval(days => $1) returning id)
     select count(*) from old`,
    [days],
  );
  return rows[0]?.count ?? 0;
}

function first(rows: Task[]): Task {
  const [task] = rows;
  if (task === undefined) throw new Error('a task was not written');
  return task;
}
