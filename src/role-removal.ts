import { type Database, query, quoteName } from './postgres.ts';
import type { Step } from './step.ts';

interface RoleRemoval {
  /** What this database gave the roles outside of market-sync's own schemas. */
  revokes: Step[];
  drops: Step[];
  kept: string[];
}

/**
 * What takes the roles `market_sync_*` away. Roles belong to the cluster: one that another database of it uses stays, and so does
 * one that somebody's login is a member of, who would lose it without a word.
 */
export async function planRoleRemoval(
  db: Database,
  { pgbossStays }: { pgbossStays: boolean },
): Promise<RoleRemoval> {
  const roles = await query<{ name: string; databases: string[]; members: string[] }>(db, ROLES);
  const names = roles.map(({ name }) => name);
  const grants = await query<{ object: string; roles: string[] }>(db, GRANTS, [
    names,
    pgbossStays ? ['market_sync'] : ['market_sync', 'pgboss'],
  ]);
  const revokes = grants.map(
    ({ object, roles: grantees }) => `revoke all on ${object} from ${grantees.join(', ')}`,
  );
  const removal: RoleRemoval = { revokes: [], drops: [], kept: [] };
  if (revokes.length > 0) {
    removal.revokes.push({
      title: "what the roles were granted on the application's schema and tables",
      locks: 'nothing that readers or writers notice.',
      statements: revokes,
      transaction: { tables: [] },
    });
  }
  for (const { name, databases, members } of roles) {
    const reasons = [
      ...(databases.length > 0 ? [`it is used in database ${databases.join(', ')}`] : []),
      ...(members.length > 0
        ? [
            `${members.join(', ')} ${members.length === 1 ? 'is a member' : 'are members'} of it (drop role ${name} takes it from them)`,
          ]
        : []),
    ];
    if (reasons.length > 0) removal.kept.push(`role ${name}: ${reasons.join('; ')}`);
    else {
      removal.drops.push({
        title: `role ${name}, which no other database of the cluster uses and no login is a member of`,
        locks: 'nothing.',
        statements: [`drop role ${quoteName(name)}`],
      });
    }
  }
  return removal;
}

// Whoever made a role is a member of it from PostgreSQL 16 on, and so is this login when it did.
const ROLES = `
  with ours as (
    select oid, rolname from pg_roles where rolname in ('market_sync_reader', 'market_sync_operator', 'market_sync_admin',
      'market_sync_consumer', 'market_sync_publisher', 'market_sync_api')
  )
  select rolname as name,
    array(select distinct d.datname::text from pg_shdepend s join pg_database d on d.oid = s.dbid
      where s.refclassid = 'pg_authid'::regclass and s.refobjid = ours.oid and d.datname <> current_database() order by 1)
      as databases,
    array(select distinct quote_ident(m.rolname) from pg_auth_members a join pg_roles m on m.oid = a.member
      where a.roleid = ours.oid and m.rolname <> current_user and m.oid not in (select oid from ours) order by 1) as members
  from ours order by rolname`;

const GRANTS = `
  select object, array_agg(distinct quote_ident(r.rolname) order by quote_ident(r.rolname)) as roles
  from (
    select 'schema ' || quote_ident(n.nspname) as object, n.nspname, n.nspacl as acl from pg_namespace n
    union all
    select format('%s %I.%I', case c.relkind when 'S' then 'sequence' else 'table' end, n.nspname, c.relname), n.nspname, c.relacl
    from pg_class c join pg_namespace n on n.oid = c.relnamespace
    union all
    select format('table %I.%I', n.nspname, c.relname), n.nspname, a.attacl
    from pg_attribute a join pg_class c on c.oid = a.attrelid join pg_namespace n on n.oid = c.relnamespace
    where a.attacl is not null
    union all
    select format('routine %s', p.oid::regprocedure), n.nspname, p.proacl
    from pg_proc p join pg_namespace n on n.oid = p.pronamespace where p.proacl is not null
  ) granted
  cross join lateral aclexplode(acl) entry
  join pg_roles r on r.oid = entry.grantee
  where r.rolname = any ($1::text[]) and nspname <> all ($2::text[])
  group by object order by object`;
