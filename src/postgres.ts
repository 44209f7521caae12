import pg from 'pg';
import { describeError, EnvironmentError, type ErrorKind } from './errors.ts';
import type { Logger } from './log.ts';
import { watchAnswers, whileAnswered } from './lost-answer.ts';

/** Whatever runs a query: the pool for one statement, a client inside a transaction. */
export type Database = pg.Pool | pg.ClientBase;

/** The oldest PostgreSQL with everything used here (`pg_visible_in_snapshot` on xid8, row filters, `hash_record_extended`). */
export const POSTGRES_VERSION_MIN = 150000;

/** The connection broke or could not be had; whether a statement under way took effect is unknown. */
export class ConnectionLostError extends Error {
  override name = 'ConnectionLostError';
}

// Numerics and bigints as numbers: what is read here (revisions, counts, prices) fits; LSNs are read as text.
const INT8_OID = 20;
const NUMERIC_OID = 1700;
/** Milliseconds a connection may take until it can be used. */
const CONNECT_TIMEOUT_MS = 10_000;

/** Milliseconds of silence before the operating system looks whether an idle connection is still one. */
const KEEP_ALIVE_AFTER_MS = 10_000;

export const types: pg.CustomTypesConfig = {
  getTypeParser: ((oid: number, format?: 'text' | 'binary') =>
    oid === INT8_OID || oid === NUMERIC_OID
      ? Number
      : pg.types.getTypeParser(oid, format as 'text')) as never,
};

/**
 * For one query: of its json values those of equal text are parsed once and are one object, which nobody may change. What
 * the bookings of a location share comes once for each of them.
 */
export function typesSharingJson(): pg.CustomTypesConfig {
  const JSONB_OID = 3802;
  const parsed = new Map<string, unknown>();
  const parse = (text: string): unknown => {
    if (!parsed.has(text)) parsed.set(text, JSON.parse(text));
    return parsed.get(text);
  };
  return {
    getTypeParser: ((oid: number, format?: 'text' | 'binary') =>
      oid === JSONB_OID ? parse : types.getTypeParser(oid, format as 'text')) as never,
  };
}

export interface PoolOptions {
  url: string;
  /** What `pg_stat_activity` calls these connections. */
  applicationName: string;
  /** Schema of the source tables, first in the search path. */
  sourceSchema: string;
  log: Logger;
  /** Most connections held at once. */
  connectionsMax?: number;
  /** Milliseconds a statement may take. */
  statementTimeoutMs?: number;
}

/** A name as SQL takes it: `order` and `user` are lowercase identifiers, too. */
export const quoteName = (name: string): string => pg.escapeIdentifier(name);

/** A text as SQL takes it. */
export const quoteText = (text: string): string => pg.escapeLiteral(text);

/** What decides the meaning of a statement, and would otherwise depend on the server or the role. */
export const sessionSettings = (sourceSchema: string): string =>
  [
    `set search_path to ${pg.escapeIdentifier(sourceSchema)}, pg_temp`,
    `set default_transaction_isolation to 'read committed'`,
    `set timezone to 'UTC'`,
  ].join('; ');

/**
 * A pool whose sessions agree on what must not depend on the server's or role's defaults: READ COMMITTED (reconcile
 * reads after it locks), UTC, the search path, a statement timeout.
 */
export function createPool(options: PoolOptions): pg.Pool {
  const setup = [
    sessionSettings(options.sourceSchema),
    `set statement_timeout to ${options.statementTimeoutMs ?? 60_000}`,
    `set idle_in_transaction_session_timeout to 60000`,
    `set lock_timeout to 30000`,
    `select pg_backend_pid() as pid`,
  ].join('; ');
  const route = { url: options.url, log: options.log };
  const pool = new pg.Pool({
    connectionString: options.url,
    application_name: options.applicationName,
    max: options.connectionsMax ?? 10,
    connectionTimeoutMillis: CONNECT_TIMEOUT_MS,
    keepAlive: true,
    keepAliveInitialDelayMillis: KEEP_ALIVE_AFTER_MS,
    idleTimeoutMillis: 30_000,
    types,
    onConnect: async (client) => {
      // Without a listener a checked-out client whose server dies takes the process with it.
      client.on('error', (error) =>
        options.log.debug({ error: describeError(error) }, 'postgres connection lost'),
      );
      const answers: unknown = await client.query({
        text: setup,
        query_timeout: CONNECT_TIMEOUT_MS,
      } as pg.QueryConfig);
      const last = (answers as pg.QueryResult<{ pid: number }>[]).at(-1);
      if (last?.rows[0] !== undefined) watchAnswers(client, { route, pid: last.rows[0].pid });
    },
  });
  pool.on('error', (error) =>
    options.log.debug({ error: describeError(error) }, 'idle postgres connection lost'),
  );
  return pool;
}

/**
 * Runs one statement. Throws PostgreSQL's own error (`pg.DatabaseError`, with SQLSTATE), or `ConnectionLostError` for
 * what the driver reports without a code. However long it takes, an answer that will not come is noticed.
 */
export async function query<Row extends pg.QueryResultRow>(
  db: Database,
  text: string,
  values: unknown[] = [],
): Promise<Row[]> {
  return run<Row>(db, { text, values });
}

/** As `query`, as a named prepared statement: parsed and planned once per connection. */
export async function queryPrepared<Row extends pg.QueryResultRow>(
  db: Database,
  statement: { name: string; text: string; types?: pg.CustomTypesConfig },
  values: unknown[],
): Promise<Row[]> {
  return run<Row>(db, { ...statement, values });
}

async function run<Row extends pg.QueryResultRow>(db: Database, statement: pg.QueryConfig): Promise<Row[]> {
  if (db instanceof pg.Pool) {
    const client = await connect(db);
    try {
      const rows = await run<Row>(client, statement);
      client.release();
      return rows;
    } catch (error) {
      client.release(true);
      throw error;
    }
  }
  try {
    return (await whileAnswered(db, () => db.query<Row>(statement))).rows;
  } catch (error) {
    throw toConnectionError(error);
  }
}

/** A connection of the pool for the caller alone, who releases it. Throws `ConnectionLostError` when none can be had. */
export async function connect(pool: pg.Pool): Promise<pg.PoolClient> {
  try {
    return await pool.connect();
  } catch (error) {
    throw toConnectionError(error);
  }
}

export const BEGIN = 'begin isolation level read committed';

/**
 * Runs `work` in a READ COMMITTED transaction on one connection; commits, or rolls back and throws what it threw. `begin`:
 * sends `BEGIN` together with what comes first anyway.
 */
export async function inTransaction<Result>(
  pool: pg.Pool,
  work: (client: pg.PoolClient) => Promise<Result>,
  begin: (client: pg.PoolClient) => Promise<unknown> = (client) => query(client, BEGIN),
): Promise<Result> {
  const client = await connect(pool);
  let broken: Error | undefined;
  try {
    await begin(client);
    const result = await work(client);
    await query(client, 'commit');
    return result;
  } catch (error) {
    await query(client, 'rollback').catch((rollbackError: Error) => {
      broken = rollbackError;
    });
    throw error;
  } finally {
    client.release(broken);
  }
}

/** What is no answer of the server's is a lost connection (the driver's own errors carry no code); a slip of ours stays what it is. */
export function toConnectionError(error: unknown): unknown {
  if (error instanceof pg.DatabaseError || error instanceof TypeError || error instanceof RangeError)
    return error;
  return new ConnectionLostError('connection to PostgreSQL lost', { cause: error });
}

/** The five-character SQLSTATE of a PostgreSQL error, wherever in the chain of causes it stands. */
export function sqlStateOf(error: unknown): string | undefined {
  for (let current = error; current instanceof Error; current = current.cause) {
    if (current instanceof pg.DatabaseError && current.code !== undefined) return current.code;
  }
  return undefined;
}

const RETRYABLE = new Set([
  '40001', // serialization_failure
  '40P01', // deadlock_detected
  '55P03', // lock_not_available
  '55006', // object_in_use
  '57014', // query_canceled: statement timeout
  '57P01', // admin_shutdown
  '57P02', // crash_shutdown
  '57P03', // cannot_connect_now
  '57P05', // idle_session_timeout
  '25P03', // idle_in_transaction_session_timeout
  '25006', // read_only_sql_transaction: a failover under way
  '53100', // disk_full
  '53200', // out_of_memory
  '53300', // too_many_connections
  '53400', // configuration_limit_exceeded
]);

/** What to do after a PostgreSQL error, by SQLSTATE only. Data exceptions (class 22, 23) are one booking's; unknown is fatal. */
export function classifyPostgresError(error: unknown): ErrorKind {
  if (error instanceof ConnectionLostError) return 'retryable';
  const state = sqlStateOf(error);
  if (state === undefined) return 'fatal';
  if (RETRYABLE.has(state) || state.startsWith('08')) return 'retryable';
  if (state.startsWith('22') || state.startsWith('23') || state.startsWith('54')) return 'poison';
  return 'fatal';
}

/**
 * The URL without its password, for logs and errors. The password ends at the last @, because an unencoded @ inside of it
 * is a common slip; it may also stand among the parameters.
 */
export function redactUrl(url: string): string {
  return url.replace(/(:\/\/[^:/@]*):.*@/, '$1:***@').replace(/([?&](?:ssl)?password=)[^&]*/gi, '$1***');
}

/**
 * Checks what must be true of the server before anything is done with it.
 *
 * Throws an `EnvironmentError` that names DATABASE_URL, what was found and what to do.
 */
export async function checkPostgres(pool: pg.Pool, url: string, needs: { logical: boolean }): Promise<void> {
  const rows = await query<{ version: number; wal_level: string; can_replicate: boolean; user_name: string }>(
    pool,
    `select current_setting('server_version_num')::int as version, current_setting('wal_level') as wal_level,
       current_user as user_name,
       (select rolreplication or rolsuper from pg_roles where rolname = current_user) as can_replicate`,
  ).catch((cause: unknown) => {
    throw new EnvironmentError(
      `DATABASE_URL=${redactUrl(url)}: PostgreSQL cannot be reached (${describeError(cause)}). Start it, or mend the URL.`,
      { cause },
    );
  });
  const server = rows[0];
  if (server === undefined)
    throw new EnvironmentError(`DATABASE_URL=${redactUrl(url)}: the server did not answer.`);
  if (server.version < POSTGRES_VERSION_MIN) {
    throw new EnvironmentError(
      `DATABASE_URL=${redactUrl(url)}: PostgreSQL ${Math.floor(server.version / 10_000)} is too old. Upgrade it to 15 or later.`,
    );
  }
  if (!needs.logical) return;
  if (server.wal_level !== 'logical') {
    throw new EnvironmentError(
      `DATABASE_URL=${redactUrl(url)}: wal_level is ${server.wal_level}, it must be logical. ` +
        `Run "alter system set wal_level = 'logical'" and restart PostgreSQL.`,
    );
  }
  if (!server.can_replicate) {
    throw new EnvironmentError(
      `DATABASE_URL=${redactUrl(url)}: the role ${server.user_name} may not replicate. ` +
        `Run "alter role ${server.user_name} with replication" as a superuser.`,
    );
  }
}
