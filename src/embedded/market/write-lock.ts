import type pg from 'pg';
import { whileAnswered } from '../../lost-answer.ts';
import { BEGIN, type Database, inTransaction, query, toConnectionError } from '../../postgres.ts';

/** What is read first, as a statement prepared once in each connection. There is one in this program. */
interface FirstRead {
  prepare: string;
  execute: string;
}

/**
 * A transaction that no other writer runs beside, in any process: a guarded update reads what it decides on, and two
 * of them at once would both pass the guard. `work` gets the rows of the first read, which came in the same round trip.
 */
export async function inWrite<Result>(
  pool: pg.Pool,
  work: (client: Database, rows: pg.QueryResultRow[]) => Promise<Result>,
  first?: FirstRead,
): Promise<Result> {
  let rows: pg.QueryResultRow[] = [];
  return inTransaction(
    pool,
    (client) => work(client, rows),
    async (client) => {
      rows = await begin(client, first);
    },
  );
}

const prepared = new WeakSet<pg.ClientBase>();

/** In READ COMMITTED each statement has a snapshot of its own: the first read sees what was committed before the lock. */
async function begin(client: pg.ClientBase, first: FirstRead | undefined): Promise<pg.QueryResultRow[]> {
  const WRITER_LOCK = 7_212_021;
  if (first !== undefined && !prepared.has(client)) {
    await query(client, first.prepare);
    prepared.add(client);
  }
  const statements = [BEGIN, `select pg_advisory_xact_lock(${WRITER_LOCK})`];
  if (first !== undefined) statements.push(first.execute);
  try {
    const answers: unknown = await whileAnswered(client, () => client.query(statements.join('; ')));
    return (answers as pg.QueryResult[]).at(-1)?.rows ?? [];
  } catch (error) {
    throw toConnectionError(error);
  }
}
