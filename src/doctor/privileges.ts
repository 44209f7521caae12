import { readFileSync } from 'node:fs';
import type pg from 'pg';
import { query } from '../postgres.ts';
import { findMissingRoles, ROLES_FILE } from '../roles.ts';
import { SOURCE_COLUMNS } from '../source.ts';
import { type CheckDefinition, failure, listNames, ok, skipped, statements, warning } from './check.ts';
import type { PostgresContext } from './postgres-context.ts';
import { readGrants } from './role-grants.ts';

type Look = CheckDefinition<PostgresContext>['look'];

interface Memberships {
  consumer: boolean;
  publisher: boolean;
  api: boolean;
  reader: boolean;
}

/** Which of the project's roles this login has. A role that is not there nobody has. */
async function readMemberships(db: pg.ClientBase): Promise<Memberships> {
  const rows = await query<{ name: keyof Memberships }>(
    db,
    `select substr(rolname, 13) as name from pg_roles
     where rolname in ('market_sync_consumer', 'market_sync_publisher', 'market_sync_api', 'market_sync_reader')
       and pg_has_role(current_user, oid, 'usage')`,
  );
  const names = new Set(rows.map((row) => row.name));
  const has = (name: keyof Memberships): boolean => names.has(name);
  return { consumer: has('consumer'), publisher: has('publisher'), api: has('api'), reader: has('reader') };
}

const quoteLogin = async (db: pg.ClientBase): Promise<string> =>
  (await query<{ name: string }>(db, 'select quote_ident(current_user) as name'))[0]?.name ?? '';

const lookAtReplication: Look = async ({ db, facts }) => {
  const rows = await query<{ may: boolean }>(
    db,
    'select rolreplication or rolsuper as may from pg_roles where rolname = current_user',
  );
  if (rows[0]?.may === true) return ok(`${facts.login} may replicate`);
  const roles = await readMemberships(db);
  if (facts.installed && !facts.owner && !roles.consumer && roles.api) {
    return ok(`${facts.login} may not replicate, and runs no pipeline: market-sync api needs no replication`);
  }
  return failure(
    `${facts.login} may not replicate (the attribute is not inherited from roles). As a superuser:`,
    statements([`alter role ${await quoteLogin(db)} with replication`]),
  );
};

/** What migrate does not ask for when nothing is left to do. */
const MIGRATE_RIGHTS = `
  select format('grant create on database %I to %I', current_database(), current_user) as remedy,
    'may not create a schema or publication in this database' as found
  where not has_database_privilege(current_database(), 'create')
  union all
  select format('grant usage, create on schema %I to %I', nspname, current_user), format('may not create a table in the schema %s', nspname)
  from pg_namespace where nspname = $1 and not (has_schema_privilege(oid, 'create') and has_schema_privilege(oid, 'usage'))
  union all
  select format('grant %I to %I', owner.rolname, current_user),
    format('is no member of %s, who owns %s', owner.rolname, string_agg(c.relname, ', ' order by c.relname))
  from pg_class c join pg_namespace n on n.oid = c.relnamespace join pg_roles owner on owner.oid = c.relowner
  where n.nspname = $1 and c.relname = any ($2::text[]) and not pg_has_role(current_user, c.relowner, 'usage')
  group by owner.rolname
  union all
  select format('grant %I to %I', owner.rolname, current_user), format('is no member of %s, who owns the schema %s', owner.rolname, n.nspname)
  from pg_namespace n join pg_roles owner on owner.oid = n.nspowner
  where n.nspname in ('market_sync', 'pgboss') and not pg_has_role(current_user, n.nspowner, 'usage')`;

const lookAtMigrate: Look = async ({ db, facts, sourceSchema }) => {
  if (facts.installed && !facts.owner) {
    return ok(`installed; ${facts.login} is not its owner, and need not be to run it`);
  }
  const tables = Object.keys(SOURCE_COLUMNS);
  const rows = await query<{ remedy: string; found: string }>(db, MIGRATE_RIGHTS, [sourceSchema, tables]);
  if (rows.length === 0) return ok(`${facts.login} may migrate: it owns what is touched, and may create`);
  return failure(
    `${facts.login} may not migrate: it ${rows.map((row) => row.found).join('; it ')}`,
    statements([...new Set(rows.map((row) => row.remedy))]),
  );
};

const lookAtPipeline: Look = async ({ db, facts }) => {
  if (!facts.installed) return skipped('not installed yet');
  if (facts.owner) return ok(`${facts.login} owns what is installed`);
  const roles = await readMemberships(db);
  if (roles.consumer && roles.publisher) return ok(`${facts.login} may run market-sync pipeline`);
  if (roles.api) return ok(`${facts.login} may run market-sync api, not pipeline`);
  return failure(
    `${facts.login} may run neither market-sync pipeline nor api`,
    statements([`grant market_sync_consumer, market_sync_publisher to ${await quoteLogin(db)}`]),
  );
};

/** Rights of `$1` (role, privilege, kind, object, column) that are not there; objects that are not there are left to others. */
const MISSING_GRANTS = `
  with wanted as (
    select w.* from unnest($1::text[], $2::text[], $3::text[], $4::text[], $5::text[])
      as w (role_name, privilege, kind, object, column_name)
    join pg_roles r on r.rolname = w.role_name
  ), relations as (
    select n.nspname, c.relname, c.oid, c.relkind from pg_class c join pg_namespace n on n.oid = c.relnamespace
    where n.nspname in ('market_sync', 'pgboss', current_schema()) and c.relkind in ('r', 'p', 'v', 'S')
  ), routines as (
    select p.oid, format('market_sync.%s', p.proname) as name
    from pg_proc p join pg_namespace n on n.oid = p.pronamespace where n.nspname = 'market_sync'
  )
  select distinct format('%s on %s to %s', w.privilege, w.object, w.role_name) as missing
  from wanted w
  where w.kind = 'schema' and exists (select from pg_namespace where nspname = w.object and not has_schema_privilege(w.role_name, oid, w.privilege))
  or w.kind in ('table', 'column') and exists (
    select from relations r
    where r.relname = regexp_replace(w.object, '^.*[.]', '')
      and r.nspname = case when w.object like '%.%' then split_part(w.object, '.', 1) else current_schema() end
      and case when w.kind = 'table' then not has_table_privilege(w.role_name, r.oid, w.privilege)
        else not coalesce((select has_column_privilege(w.role_name, r.oid, a.attnum, w.privilege) from pg_attribute a
          where a.attrelid = r.oid and a.attname = w.column_name), true) end)
  or w.kind = 'tables of schema' and exists (
    select from relations r where r.nspname = w.object and r.relkind in ('r', 'p', 'v') and not has_table_privilege(w.role_name, r.oid, w.privilege))
  or w.kind = 'sequences of schema' and exists (
    select from relations r where r.nspname = w.object and r.relkind = 'S' and not has_sequence_privilege(w.role_name, r.oid, w.privilege))
  or w.kind = 'function' and exists (
    select from routines f where case when w.object like '%(%' then to_regprocedure(w.object) = f.oid else w.object = f.name end
      and not has_function_privilege(w.role_name, f.oid, w.privilege))
  order by 1`;

const lookAtRoles: Look = async ({ db, facts }) => {
  if (!facts.installed) return skipped('not installed yet: market-sync migrate makes them');
  const missing = await findMissingRoles(db);
  if (missing.length > 0) {
    return warning(
      `roles are missing or apart: only the owner can work (then run market-sync migrate again)`,
      statements(missing),
    );
  }
  const grants = readGrants(readFileSync(ROLES_FILE, 'utf8'));
  const rows = await query<{ missing: string }>(db, MISSING_GRANTS, [
    grants.map((grant) => grant.role),
    grants.map((grant) => grant.privilege),
    grants.map((grant) => grant.kind),
    grants.map((grant) => grant.object),
    grants.map((grant) => grant.column),
  ]);
  if (rows.length === 0) return ok(`all six, with the ${grants.length} rights of sql/roles.sql`);
  return warning(
    `rights of sql/roles.sql are missing: ${listNames(rows.map((row) => row.missing))}`,
    'market-sync migrate',
  );
};

export const PRIVILEGE_CHECKS: readonly CheckDefinition<PostgresContext>[] = [
  {
    name: 'login_replication',
    means: 'Failure when the login has no `REPLICATION` itself, unless it runs the API only.',
    stops: true,
    look: lookAtReplication,
  },
  {
    name: 'login_migrate',
    means:
      'Before installation, and for the owner after it: failure when the login may not create a schema or publication, or does not own the source tables.',
    look: lookAtMigrate,
  },
  {
    name: 'login_pipeline',
    means:
      'After installation: failure when the login is neither the owner nor in the roles of pipeline or API.',
    look: lookAtPipeline,
  },
  {
    name: 'roles',
    means:
      'Warning when one of the six roles, a membership among them, or a right of `sql/roles.sql` is missing.',
    look: lookAtRoles,
  },
];
