import pg from 'pg';
import { connect, query, types } from './postgres.ts';

/** Connections of a reader at most: those who look at many things look at a few of them at once. */
const CONNECTIONS_MAX = 4;

/** What the driver grants a statement beyond the server's own limit, for the way there and back. */
const ROUND_TRIP_MS = 1_000;

/** A look at a database that cannot change it, and leaves its connections as they were. */
export interface Reader {
  /** Runs `work` in a `read only` transaction of its own, with the limits of the reader. */
  read<Result>(work: (db: pg.ClientBase) => Promise<Result>): Promise<Result>;
  /** Of two connections open at once: the process id that the server announced, and those that answered two transactions. */
  findBackends(): Promise<{ announced: number; answering: number[] }[]>;
  /** Cuts what is under way. */
  close(): Promise<void>;
}

export interface ReaderOptions {
  url: string;
  applicationName: string;
  sourceSchema: string;
  connectTimeoutMs: number;
  statementTimeoutMs: number;
}

/**
 * Sessions of `createPool` have settings of their own, which a pooler in between would hand on to the application. Here
 * all of them are the transaction's, and so is that nothing can be written.
 */
export function openReader(options: ReaderOptions): Reader {
  const begin = [
    'begin transaction isolation level read committed, read only',
    `set local statement_timeout to ${options.statementTimeoutMs}`,
    `set local lock_timeout to ${options.statementTimeoutMs}`,
    `set local search_path to ${pg.escapeIdentifier(options.sourceSchema)}, pg_temp`,
    `set local timezone to 'UTC'`,
  ].join('; ');
  const pool = new pg.Pool({
    connectionString: options.url,
    application_name: options.applicationName,
    max: CONNECTIONS_MAX,
    connectionTimeoutMillis: options.connectTimeoutMs,
    query_timeout: options.statementTimeoutMs + ROUND_TRIP_MS,
    types,
  });
  pool.on('error', () => undefined); // Whoever reads next hears of it.
  pool.on('connect', (client) => client.on('error', () => undefined));
  const open = new Set<pg.PoolClient>();
  const withClient = async <Result>(work: (client: pg.PoolClient) => Promise<Result>): Promise<Result> => {
    const client = await connect(pool);
    open.add(client);
    let failed = true;
    try {
      const result = await work(client);
      failed = false;
      return result;
    } finally {
      open.delete(client);
      client.release(failed);
    }
  };
  const readOn = async <Result>(
    client: pg.PoolClient,
    work: (db: pg.ClientBase) => Promise<Result>,
  ): Promise<Result> => {
    await query(client, begin);
    try {
      return await work(client);
    } finally {
      await query(client, 'rollback');
    }
  };
  return {
    read: (work) => withClient((client) => readOn(client, work)),
    findBackends: () =>
      withClient((first) =>
        withClient(async (second) => {
          const clients = [first, second];
          const answering: number[][] = [[], []];
          for (let round = 0; round < 2; round += 1) {
            for (const [index, client] of clients.entries()) {
              const rows = await readOn(client, (db) =>
                query<{ pid: number }>(db, 'select pg_backend_pid() as pid'),
              );
              answering[index]?.push(rows[0]?.pid ?? 0);
            }
          }
          return clients.map((client, index) => ({
            announced: (client as pg.PoolClient & { processID: number }).processID,
            answering: answering[index] ?? [],
          }));
        }),
      ),
    close: async () => {
      for (const client of open) void (client as unknown as pg.Client).end();
      await pool.end();
    },
  };
}
