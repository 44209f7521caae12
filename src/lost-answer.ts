import pg from 'pg';
import { describeError } from './errors.ts';
import type { Logger } from './log.ts';

// A statement may take long for good reasons: a slot waits for every open transaction of the cluster, a commit for a
// synchronous standby. So no timeout tells whether its answer is still to come. The server does, on another connection.

/** A statement without an answer is asked after this often, in milliseconds. */
const ASK_AFTER_MS = 5_000;

/** Milliseconds the server may take to let a connection in, and to answer the question. */
const ASK_TIMEOUT_MS = 5_000;

/** So many times in a row the server must say that it is done: the first time the answer may be under way. */
const DONE_MIN = 2;

/** One way to one server, which several connections use. */
export interface Route {
  url: string;
  log: Logger;
}

/** Process ids of the backends that work on a statement, as the server says; `silent` when it says nothing. */
type Busy = ReadonlySet<number> | 'silent' | 'unknown';

const backends = new WeakMap<object, { route: Route; pid: number }>();
const questions = new WeakMap<Route, Promise<Busy>>();

/** From now on `whileAnswered` watches over this connection. */
export function watchAnswers(client: pg.ClientBase, backend: { route: Route; pid: number }): void {
  backends.set(client, backend);
}

/**
 * Runs a statement. When the server cannot be asked after it, or works on it no more while no answer has come, the
 * connection is cut, and the statement fails as with any lost connection: a lost route is noticed within some 10 s.
 */
export async function whileAnswered<Result>(
  client: pg.ClientBase,
  statement: () => Promise<Result>,
): Promise<Result> {
  const backend = backends.get(client);
  if (backend === undefined) return statement();
  let [asking, done, answered] = [false, 0, false];
  const ask = async (): Promise<void> => {
    if (asking) return;
    asking = true;
    const busy = await askOnce(backend.route);
    asking = false;
    if (answered || busy === 'unknown') return;
    if (busy !== 'silent') done = busy.has(backend.pid) ? 0 : done + 1;
    if (busy !== 'silent' && done < DONE_MIN) return;
    backend.route.log.warn(
      { server_silent: busy === 'silent' },
      'postgres does not answer, cutting the connection',
    );
    // With a statement under way this waits for nobody.
    void (client as pg.Client).end();
  };
  const timer = setInterval(() => void ask(), ASK_AFTER_MS);
  try {
    return await statement();
  } finally {
    answered = true;
    clearInterval(timer);
  }
}

/** Many statements may wait at once; one question serves them all. */
function askOnce(route: Route): Promise<Busy> {
  let question = questions.get(route);
  if (question === undefined) {
    question = findBusy(route).finally(() => questions.delete(route));
    questions.set(route, question);
  }
  return question;
}

async function findBusy(route: Route): Promise<Busy> {
  const client = new pg.Client({
    connectionString: route.url,
    application_name: 'market-sync probe',
    connectionTimeoutMillis: ASK_TIMEOUT_MS,
    query_timeout: ASK_TIMEOUT_MS,
  });
  client.on('error', () => undefined);
  try {
    await client.connect();
    const { rows } = await client.query<{ pid: number }>(
      // `disabled`: track_activities is off, and nobody knows.
      `select pid from pg_stat_activity where usename = current_user and state in ('active', 'disabled')`,
    );
    return new Set(rows.map((row) => row.pid));
  } catch (error) {
    route.log.debug({ error: describeError(error) }, 'postgres could not be asked after a statement');
    // A server that says why it lets nobody in (too many connections, starting up) is there.
    return error instanceof pg.DatabaseError ? 'unknown' : 'silent';
  } finally {
    // Not waited for: it would be for the server.
    void client.end().catch(() => undefined);
  }
}
