import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import type pg from 'pg';
import { EnvironmentError } from './errors.ts';
import type { Logger } from './log.ts';
import { connect, type Database, query, sqlStateOf } from './postgres.ts';
import { runStep, type Step } from './step.ts';

/** Who may do what. */
export const ROLES_FILE = join(import.meta.dirname, '..', 'sql', 'roles.sql');

/** The roles of `sql/roles.sql`: whoever may not make roles has these made by a DBA. */
const STATEMENTS = [
  'create role market_sync_reader nologin',
  'create role market_sync_operator nologin in role market_sync_reader',
  'create role market_sync_admin nologin in role market_sync_operator',
  'create role market_sync_consumer nologin',
  'create role market_sync_publisher nologin',
  'create role market_sync_api nologin',
];

const ATTEMPTS_MAX = 20;

/** `sql/roles.sql` as it is executed, with what its blocks would make now in words. */
export async function planRoles(db: Database): Promise<Step> {
  const missing = await findMissingRoles(db);
  return {
    title: `roles.sql: who may do what. ${
      missing.length === 0
        ? 'Every role is there.'
        : `Its blocks make what is missing: ${missing.join('; ')}.`
    } Grants and revokes on market_sync, pgboss and market_inventory_snapshots; usage of the source schema and select on source tables to market_sync_api and market_sync_consumer`,
    locks: 'nothing that readers or writers notice. Applied every time; applying it again changes nothing.',
    statements: [readFileSync(ROLES_FILE, 'utf8')],
    transaction: { tables: [] },
  };
}

/** What migrations of other databases of the cluster run into at the same moment. */
const RACES = new Set(['XX000', '40001', '40P01', '23505', '42710']);

/**
 * Applies `sql/roles.sql`: makes the roles that are missing and grants exactly what they need. Where this login may not
 * make roles, everything else still works, for the owner; the log says what a DBA must run.
 */
export async function applyRoles(pool: pg.Pool, log: Logger): Promise<void> {
  const client = await connect(pool);
  try {
    await applyStep({ client, log });
  } finally {
    client.release(true);
  }
  await warnOfOpenSchema(pool, log);
  const missing = await findMissingRoles(pool);
  if (missing.length > 0) {
    log.warn(
      { missing, remedy: `${missing.join('; ')}; then again: market-sync migrate` },
      'roles are missing, and this login may not make them',
    );
  }
}

async function applyStep({ client, log }: { client: pg.ClientBase; log: Logger }): Promise<void> {
  const step = await planRoles(client);
  for (let attempt = 1; ; attempt += 1) {
    try {
      await runStep({ client, log }, step);
      break;
    } catch (error) {
      if (sqlStateOf(error) === '42501') {
        throw new EnvironmentError(
          `DATABASE_URL: the role may not grant what roles.sql grants (${(error as Error).message}). ` +
            'Migrate as the owner of market_sync, pgboss and market_inventory_snapshots: market-sync migrate',
          { cause: error },
        );
      }
      if (attempt >= ATTEMPTS_MAX || !RACES.has(sqlStateOf(error) ?? '')) throw error;
    }
  }
}

/** What a DBA must run for the roles to be there, each in the next. Empty when all is well. */
export async function findMissingRoles(db: Database): Promise<string[]> {
  const rows = await query<{ name: string }>(db, 'select rolname as name from pg_roles');
  const known = new Set(rows.map((row) => row.name));
  const missing = STATEMENTS.filter((statement) => !known.has(statement.split(' ')[2] ?? ''));
  const apart = await query<{ statement: string }>(
    db,
    `select format('grant %I to %I', r.rolname, m.rolname) as statement
     from (values ('market_sync_reader', 'market_sync_operator'), ('market_sync_operator', 'market_sync_admin')) as t (role, member)
     join pg_roles r on r.rolname = t.role
     join pg_roles m on m.rolname = t.member
     where not pg_has_role(m.oid, r.oid, 'usage')`,
  );
  return [...missing, ...apart.map((row) => row.statement)];
}

/**
 * Functions that run with the rights of their owner look names up in the source schema: whoever may put a function there
 * may put one in the place of PostgreSQL's own. The default of PostgreSQL 14 and before, in databases upgraded since.
 */
async function warnOfOpenSchema(pool: pg.Pool, log: Logger): Promise<void> {
  const rows = await query<{ remedy: string }>(
    pool,
    `select format('revoke create on schema %I from public', current_schema()) as remedy
     where has_schema_privilege('public', current_schema(), 'create')`,
  );
  if (rows[0] !== undefined) {
    log.warn({ remedy: rows[0].remedy }, 'every login may create objects in the source schema');
  }
}
