import { readFileSync } from 'node:fs';
import { setTimeout as delay } from 'node:timers/promises';
import type pg from 'pg';
import { PgBoss } from 'pg-boss';
import { EnvironmentError } from './errors.ts';
import { whileAnswered } from './lost-answer.ts';
import { query, sqlStateOf, toConnectionError } from './postgres.ts';
import type { Step, StepContext } from './step.ts';

/**
 * Queues of the jobs that people ask for. Made with the tables: whoever asks does so inside a transaction, which pg-boss
 * would commit if it had to make the queue first.
 */
const ASKED_QUEUES = ['sync-all', 'backfill'] as const;
export type AskedQueue = (typeof ASKED_QUEUES)[number];

/** Policy `singleton`: any number may be queued, one is in work. `stately` would drop the second that is queued. */
export const ASKED_POLICY = 'singleton';

export const SCHEMA = 'pgboss';

/** Version of the tables that this version of pg-boss works with: it says so in its own package.json only. */
export function readQueueVersion(): number {
  const file = new URL('../package.json', import.meta.resolve('pg-boss'));
  return (JSON.parse(readFileSync(file, 'utf8')) as { pgboss: { schema: number } }).pgboss.schema;
}

/** Of a pg-boss that does what it is told on somebody's connection, and nothing by itself. */
export const PASSIVE = {
  schema: SCHEMA,
  supervise: false,
  schedule: false,
  registerInstance: false,
} as const;

/** Queues of what runs on a schedule. */
export type ScheduledQueue = 'publish-sweep' | 'refresh' | 'cleanup' | 'audit';

/** All queues that are ours: pg-boss's tables in which others are kept, too, are not ours alone. */
export const OWN_QUEUES: readonly (AskedQueue | ScheduledQueue)[] = [
  ...ASKED_QUEUES,
  'publish-sweep',
  'refresh',
  'cleanup',
  'audit',
];

/** How long indexes of a new version of pg-boss's tables may take to build. */
const INDEXES_WAIT_MS = 10 * 60_000;

/**
 * Makes pg-boss's tables (schema `pgboss`) or brings them to this version, as the login that migrates: the pipeline then
 * needs no right to create anything. pg-boss builds indexes of a new version beside live work, through a list of its
 * own; that list is worked off here, by the owner of the tables.
 */
export async function installQueue({ client, log, rest }: StepContext): Promise<void> {
  await requireOwnQueue(client);
  const missing = await findMissingQueues(client);
  const boss = new PgBoss({
    db: {
      executeSql: async (text, values) => {
        const startedAt = performance.now();
        const answer = await execute(client, text, values);
        // What changes tables, as opposed to what reads them.
        if (/^\s*begin;/i.test(text)) await rest?.(performance.now() - startedAt);
        return answer;
      },
    },
    ...PASSIVE,
    migrate: true,
  });
  boss.on('error', (error) => log.warn({ error: error.message }, 'queue error'));
  try {
    await boss.start();
    await untilIndexed(client);
    for (const name of missing) await boss.createQueue(name, { policy: ASKED_POLICY });
  } catch (error) {
    if (sqlStateOf(error) !== '42501') throw error;
    throw new EnvironmentError(
      `DATABASE_URL: the role may not make pg-boss's tables (${(error as Error).message}). ` +
        'Migrate as the owner of the source tables with the right to create a schema: market-sync migrate',
      { cause: error },
    );
  } finally {
    await boss.stop({ graceful: false });
  }
}

/** What `installQueue` would send to this database, recorded from pg-boss itself. Nothing is changed. */
export async function planQueue(client: pg.ClientBase): Promise<Step[]> {
  await requireOwnQueue(client);
  const statements: string[] = [];
  let last: Promise<unknown> = Promise.resolve();
  const boss = new PgBoss({
    db: {
      executeSql: async (text, values) => {
        // pg-boss changes its tables in transactions that it begins and ends in the same text; the rest is reading.
        if (/^\s*begin;/i.test(text)) {
          statements.push(text);
          return { rows: [] };
        }
        // One after the other: each is a transaction of its own on the one connection.
        const answer = last.catch(() => undefined).then(() => readOnly(client, text, values));
        last = answer;
        return answer;
      },
    },
    ...PASSIVE,
    migrate: true,
  });
  boss.on('error', () => undefined); // What is not there yet cannot be read.
  try {
    await boss.start();
    for (const name of await findMissingQueues(client)) {
      // It looks for the queue that it believes to have made.
      await boss.createQueue(name, { policy: ASKED_POLICY }).catch(() => undefined);
    }
  } finally {
    await boss.stop({ graceful: false });
  }
  if (statements.length === 0) return [];
  return [
    {
      title: "pg-boss's tables: jobs that run on a schedule or were asked for",
      locks: "no table of the application; pg-boss's own, in the schema pgboss. Written by pg-boss.",
      statements,
    },
  ];
}

async function readOnly(
  client: pg.ClientBase,
  text: string,
  values: unknown[] | undefined,
): Promise<{ rows: never[] }> {
  await query(client, 'begin read only');
  try {
    return await execute(client, text, values);
  } catch (error) {
    if (!['42P01', '3F000', '42883'].includes(sqlStateOf(error) ?? '')) throw error;
    return { rows: [] }; // Its tables are not there yet.
  } finally {
    await query(client, 'rollback');
  }
}

async function findMissingQueues(client: pg.ClientBase): Promise<AskedQueue[]> {
  const [table] = await query<{ found: boolean }>(
    client,
    `select to_regclass('pgboss.queue') is not null as found`,
  );
  if (table?.found !== true) return [...ASKED_QUEUES];
  const rows = await query<{ name: string }>(client, 'select name from pgboss.queue');
  return ASKED_QUEUES.filter((name) => !rows.some((row) => row.name === name));
}

/** pg-boss sends several statements at once; it reads the rows of all of them. */
async function execute(
  client: pg.ClientBase,
  text: string,
  values: unknown[] | undefined,
): Promise<{ rows: never[] }> {
  // Without values the driver's simple protocol is used, which alone takes more than one statement.
  const single = values !== undefined && values.length > 0;
  const answer: unknown = await whileAnswered(client, () =>
    single ? client.query(text, values) : client.query(text),
  ).catch((error: unknown) => {
    throw toConnectionError(error);
  });
  const results = (Array.isArray(answer) ? answer : [answer]) as pg.QueryResult[];
  return { rows: results.flatMap((result) => result.rows) as never[] };
}

/** Tables that another login has made could be neither upgraded nor granted to the pipeline's role. */
async function requireOwnQueue(client: pg.ClientBase): Promise<void> {
  const rows = await query<{ owner: string }>(
    client,
    `select r.rolname as owner from pg_namespace n join pg_roles r on r.oid = n.nspowner
     where n.nspname = 'pgboss' and not pg_has_role(current_user, n.nspowner, 'usage')`,
  );
  if (rows[0] === undefined) return;
  const { owner } = rows[0];
  throw new EnvironmentError(
    `DATABASE_URL: the schema pgboss belongs to ${owner}, which this role is no member of. ` +
      `Migrate as ${owner}, or give it away as a superuser: reassign owned by ${owner} to the role that migrates.`,
  );
}

async function untilIndexed(client: pg.ClientBase): Promise<void> {
  const deadline = performance.now() + INDEXES_WAIT_MS;
  for (;;) {
    const rows = await query<{ left: number }>(
      client,
      `select count(*) as left from pgboss.bam where status <> 'completed'`,
    );
    if (rows[0]?.left === 0) return;
    if (performance.now() > deadline) {
      throw new EnvironmentError(
        `DATABASE_URL: indexes of pg-boss's tables are not built within ${INDEXES_WAIT_MS / 60_000} minutes. ` +
          'See select * from pgboss.bam, and migrate again: market-sync migrate',
      );
    }
    await delay(200);
  }
}
