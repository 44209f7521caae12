import { setTimeout as delay } from 'node:timers/promises';
import type pg from 'pg';
import { EnvironmentError } from './errors.ts';
import type { Logger } from './log.ts';
import { BEGIN, query, sqlStateOf } from './postgres.ts';

/** A lock on a table of the application, without its partitions. `name` is quoted and has its schema. */
export interface TableLock {
  name: string;
  mode: 'share' | 'share row exclusive' | 'access exclusive';
}

/**
 * Longest that all locks of a step together may be waited for, and so longest that a writer of one of the tables queues
 * behind it. Well below `deadlock_timeout`, so that of two that wait for each other it is never the application's that ends.
 */
export const LOCK_TIMEOUT_MS = 400;

/** How long it is tried, until somebody has to look who holds the tables. */
const LOCK_WAIT_MAX_MS = 10 * 60_000;

/** Between two attempts the application has the tables to itself, several times as long as it may have waited. */
const PAUSE_MS = 1_000;

/** A transaction that has held a table this long is not about to end within the timeout. */
const LONG_MS = 2_000;

/** How often it is said again that a lock is waited for. */
const SAY_AGAIN_MS = 30_000;

/**
 * An automatic vacuum gives way to whoever has waited as long as `deadlock_timeout`, and to nobody before. Asking it costs the
 * writers that time, and a vacuum that somebody has started by hand does not give way: it is asked seldom.
 */
const VACUUM_GRACE_MS = 300;
const ASK_VACUUM_MS = 60_000;

/**
 * Begins a transaction that first takes all its locks, in one statement that takes no longer than the timeout: while
 * it waits for one table, the writers of those before wait with it.
 */
export function lockTables(tables: TableLock[], timeoutMs: number): string[] {
  const begin = [BEGIN, `set local lock_timeout = '${timeoutMs}ms'`];
  if (tables.length === 0) return [...begin, 'set local statement_timeout = 0'];
  const modes = new Set(tables.map(({ mode }) => mode));
  if (modes.size !== 1) throw new Error('one lock statement has one mode');
  const names = tables.map(({ name }) => `only ${name}`).join(', ');
  return [
    ...begin,
    `set local statement_timeout = '${timeoutMs}ms'`,
    `lock table ${names} in ${[...modes][0]} mode`,
    'set local statement_timeout = 0',
  ];
}

/** The lock modes that have to wait for this one. */
const CONFLICTS: Record<TableLock['mode'], string[]> = {
  share: [
    'RowExclusiveLock',
    'ShareUpdateExclusiveLock',
    'ShareRowExclusiveLock',
    'ExclusiveLock',
    'AccessExclusiveLock',
  ],
  'share row exclusive': [
    'RowExclusiveLock',
    'ShareUpdateExclusiveLock',
    'ShareLock',
    'ShareRowExclusiveLock',
    'ExclusiveLock',
    'AccessExclusiveLock',
  ],
  'access exclusive': [
    'AccessShareLock',
    'RowShareLock',
    'RowExclusiveLock',
    'ShareUpdateExclusiveLock',
    'ShareLock',
    'ShareRowExclusiveLock',
    'ExclusiveLock',
    'AccessExclusiveLock',
  ],
};

const NOT_TO_BE_HAD = new Set([
  '55P03', // lock_not_available: one table was not
  '57014', // query_canceled: all of them together were not within the timeout
  '40P01', // deadlock_detected
]);

interface Holder {
  pid: number | null;
  table: string;
  /** Null where this login may not see it. */
  open_ms: number | null;
  vacuum: boolean;
}

/**
 * Runs `attempt`, a transaction that takes these locks, and again while they are not to be had. A table that a long
 * transaction holds is not even asked for: nobody would queue behind a request that cannot succeed. `attempt` is given the
 * timeout for its locks, and must leave nothing behind when it throws.
 *
 * Throws an `EnvironmentError` that says who holds a table when that goes on for ten minutes.
 */
export async function withTableLocks(
  { client, log }: { client: pg.ClientBase; log: Logger },
  { what, tables }: { what: string; tables: TableLock[] },
  attempt: (lockTimeoutMs: number) => Promise<void>,
): Promise<void> {
  const deadline = performance.now() + LOCK_WAIT_MAX_MS;
  let [saidAt, vacuumAskedAt] = [Number.NEGATIVE_INFINITY, Number.NEGATIVE_INFINITY];
  for (let attempts = 1; ; attempts += 1) {
    const holders = await findHolders(client, tables);
    const vacuum = holders.find((holder) => holder.vacuum);
    const busy =
      holders.find((holder) => !holder.vacuum && holder.open_ms !== null && holder.open_ms > LONG_MS) ??
      (performance.now() - vacuumAskedAt < ASK_VACUUM_MS ? vacuum : undefined);
    let failure: unknown;
    if (busy === undefined) {
      if (vacuum !== undefined) vacuumAskedAt = performance.now();
      try {
        const timeoutMs =
          vacuum === undefined ? LOCK_TIMEOUT_MS : (await readDeadlockTimeout(client)) + VACUUM_GRACE_MS;
        return await attempt(timeoutMs);
      } catch (error) {
        if (!NOT_TO_BE_HAD.has(sqlStateOf(error) ?? '')) throw error;
        failure = error;
      }
    }
    const holder = busy ?? holders[0];
    const who = holder === undefined ? {} : { holder_pid: holder.pid, table: holder.table };
    if (performance.now() > deadline) {
      const named = holder === undefined ? '' : ` ${holder.table} is held by process ${holder.pid}.`;
      throw new EnvironmentError(
        `DATABASE_URL: ${what} could not lock its tables for ${LOCK_WAIT_MAX_MS / 60_000} minutes.${named} ` +
          'Find the transaction in pg_stat_activity and end it, or try again at a quieter time.',
        { cause: failure },
      );
    }
    if (performance.now() - saidAt > SAY_AGAIN_MS) {
      saidAt = performance.now();
      log.warn({ step: what, attempts, ...who }, 'waiting for a lock, trying again');
    }
    await delay(PAUSE_MS * (0.5 + Math.random()));
  }
}

/** Whoever holds one of these tables now in a mode that has to be waited for. */
async function findHolders(client: pg.ClientBase, tables: TableLock[]): Promise<Holder[]> {
  if (tables.length === 0) return [];
  return query<Holder>(
    client,
    `select l.pid, wanted.name as "table",
       (extract(epoch from clock_timestamp() - a.xact_start) * 1000)::float8 as open_ms,
       l.mode = 'ShareUpdateExclusiveLock' as vacuum
     from unnest($1::text[]) as wanted (name)
     join pg_locks l on l.relation = to_regclass(wanted.name) and l.locktype = 'relation' and l.granted
       and l.database = (select oid from pg_database where datname = current_database())
       and l.mode = any ($2::text[]) and l.pid is distinct from pg_backend_pid()
     left join pg_stat_activity a on a.pid = l.pid
     order by open_ms desc nulls last`,
    [tables.map(({ name }) => name), CONFLICTS[tables[0]?.mode ?? 'share']],
  );
}

async function readDeadlockTimeout(client: pg.ClientBase): Promise<number> {
  const [row] = await query<{ ms: number }>(
    client,
    `select setting::int as ms from pg_settings where name = 'deadlock_timeout'`,
  );
  return row?.ms ?? 1_000;
}
