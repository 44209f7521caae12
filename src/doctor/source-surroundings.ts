import { query } from '../postgres.ts';
import { type CheckDefinition, listNames, ok, skipped, statements, warning } from './check.ts';
import type { PostgresContext } from './postgres-context.ts';
import { SOURCE_COLUMNS } from '../source.ts';

type Look = CheckDefinition<PostgresContext>['look'];

const TABLES = Object.keys(SOURCE_COLUMNS);

/** The tables that triggers capture: bookings come by publication, however they were written. */
const TRIGGERED = TABLES.filter((name) => name !== 'storage_bookings');

/** Every leaf under the source tables, and whether it has a capture of its own. */
const PARTITIONS = `
  select c.relname as parent, tree.relid::regclass::text as leaf,
    exists (select from pg_trigger t join pg_proc p on p.oid = t.tgfoid
      where t.tgrelid = tree.relid and not t.tgisinternal and p.pronamespace = to_regnamespace('market_sync')) as captured
  from pg_class c join pg_namespace n on n.oid = c.relnamespace
  cross join lateral pg_partition_tree(c.oid::regclass) tree
  where n.nspname = $1 and c.relname = any ($2::text[]) and c.relkind = 'p' and tree.isleaf
  order by 1, 2`;

const lookAtPartitions: Look = async ({ db, facts, sourceSchema }) => {
  const rows = await query<{ parent: string; leaf: string; captured: boolean }>(db, PARTITIONS, [
    sourceSchema,
    TABLES,
  ]);
  const open = rows.filter(({ parent, captured }) => !captured && TRIGGERED.includes(parent));
  const parents = [...new Set(rows.map((row) => row.parent))];
  if (open.length === 0) {
    return ok(rows.length === 0 ? 'no source table is partitioned' : `${listNames(parents)}: all is seen`);
  }
  return warning(
    `${listNames([...new Set(open.map((row) => row.parent))])} in ${open.length} partitions (${listNames(open.map((row) => row.leaf))}): ` +
      'statements on a partition itself are not seen until it has its triggers, which migrate and the pipeline give it. Now, with what was missed:',
    facts.installed ? 'market-sync migrate\nmarket-sync audit --repair' : 'market-sync migrate',
  );
};

const CHILDREN = `
  select p.relname as parent, i.inhrelid::regclass::text as child
  from pg_inherits i join pg_class p on p.oid = i.inhparent join pg_namespace n on n.oid = p.relnamespace
  where n.nspname = $1 and p.relname = any ($2::text[]) and p.relkind = 'r' order by 1, 2`;

const lookAtInheritance: Look = async ({ db, sourceSchema }) => {
  const rows = await query<{ parent: string; child: string }>(db, CHILDREN, [sourceSchema, TABLES]);
  if (rows.length === 0) return ok('no table inherits from a source table');
  return warning(
    `${listNames(rows.map((row) => `${row.child} inherits from ${row.parent}`))}: its rows count, and its writes are not seen until market-sync audit --repair`,
    statements(rows.map((row) => `alter table ${row.child} no inherit "${sourceSchema}".${row.parent}`)),
  );
};

const lookAtRules: Look = async ({ db, sourceSchema }) => {
  const rows = await query<{ table_name: string; name: string; remedy: string }>(
    db,
    `select c.relname as table_name, r.rulename as name,
       format('alter table %I.%I disable rule %I', n.nspname, c.relname, r.rulename) as remedy
     from pg_rewrite r join pg_class c on c.oid = r.ev_class join pg_namespace n on n.oid = c.relnamespace
     where n.nspname = $1 and c.relname = any ($2::text[]) and c.relkind in ('r', 'p') and r.ev_enabled <> 'D' order by 1, 2`,
    [sourceSchema, TABLES],
  );
  if (rows.length === 0) return ok('no rule rewrites statements on a source table');
  return warning(
    `${listNames(rows.map((row) => `${row.name} on ${row.table_name}`))}: a rule may turn a statement into one on another table, which is not seen`,
    statements(rows.map((row) => row.remedy)),
  );
};

const lookAtTriggers: Look = async ({ db, sourceSchema }) => {
  const rows = await query<{ name: string }>(
    db,
    `select format('%s on %s', t.tgname, c.relname) as name
     from pg_trigger t join pg_class c on c.oid = t.tgrelid join pg_namespace n on n.oid = c.relnamespace
     join pg_proc p on p.oid = t.tgfoid
     where n.nspname = $1 and c.relname = any ($2::text[]) and not t.tgisinternal and t.tgparentid = 0
       and p.pronamespace is distinct from (select oid from pg_namespace where nspname = 'market_sync') order by 1`,
    [sourceSchema, TABLES],
  );
  if (rows.length === 0) return ok('none but ours');
  return ok(`of others, harmless beside ours: ${listNames(rows.map((row) => row.name))}`);
};

const lookAtEventTriggers: Look = async ({ db, facts }) => {
  const rows = await query<{ name: string; remedy: string }>(
    db,
    `select evtname as name, format('alter event trigger %I disable', evtname) as remedy
     from pg_event_trigger where evtenabled <> 'D' order by 1`,
  );
  if (rows.length === 0) return ok('none');
  const names = listNames(rows.map((row) => row.name));
  if (facts.installed) return ok(`${names}: they did not keep migrate from working`);
  return warning(
    `${names}: may refuse or change what migrate creates. Read them, or while it runs:`,
    statements(rows.map((row) => row.remedy)),
  );
};

/** Tables that a subscription writes. Of disabled ones nothing comes. */
const SUBSCRIPTIONS = `
  select s.subname as name, string_agg(c.relname, ', ' order by c.relname) as tables,
    format('alter subscription %I disable', s.subname) as remedy
  from pg_subscription s join pg_subscription_rel r on r.srsubid = s.oid
  join pg_class c on c.oid = r.srrelid join pg_namespace n on n.oid = c.relnamespace
  where s.subdbid = (select oid from pg_database where datname = current_database()) and s.subenabled
    and n.nspname = $1 and c.relname = any ($2::text[])
  group by s.subname order by 1`;

const lookAtSubscriptions: Look = async ({ db, sourceSchema }) => {
  const rows = await query<{ name: string; tables: string; remedy: string }>(db, SUBSCRIPTIONS, [
    sourceSchema,
    TRIGGERED,
  ]);
  if (rows.length === 0) return ok('none writes a table that triggers capture');
  return warning(
    `${listNames(rows.map((row) => `${row.name} (${row.tables})`))}: apply workers do not fire statement triggers, so what comes by them is not seen. ` +
      'Run market-sync audit --repair after it, or end them:',
    statements(rows.map((row) => row.remedy)),
  );
};

const lookAtPublications: Look = async ({ db, sourceSchema }) => {
  const rows = await query<{ name: string }>(
    db,
    `select distinct pubname::text as name from pg_publication_tables
     where pubname <> 'market_sync' and schemaname = $1 and tablename = any ($2::text[]) order by 1`,
    [sourceSchema, TABLES],
  );
  if (rows.length === 0) return ok('none has a source table');
  return ok(
    `${listNames(rows.map((row) => row.name))} have source tables too: their columns and filters are theirs alone`,
  );
};

/** What nothing here depends on, but what keeps the WAL that fills the disk of all. */
const lookAtOtherSlots: Look = async ({ db, slotName, limits }) => {
  const rows = await query<{ name: string; bytes: number; remedy: string }>(
    db,
    `select slot_name::text as name, pg_wal_lsn_diff(pg_current_wal_lsn(), restart_lsn)::float8 as bytes,
       format('select pg_drop_replication_slot(%L)', slot_name) as remedy
     from pg_replication_slots where slot_name <> $1 and not active and not temporary and restart_lsn is not null order by 1`,
    [slotName],
  );
  const idle = rows.filter((row) => row.bytes >= limits.idleSlotBytes);
  if (idle.length === 0) return ok('none keeps much WAL back');
  return warning(
    `${listNames(idle.map((row) => `${row.name} (${Math.round(row.bytes / 1024 ** 2)} MB)`))}: nobody streams from it, and its WAL fills the disk. If nobody needs it:`,
    statements(idle.map((row) => row.remedy)),
  );
};

const onPrimary =
  (look: Look): Look =>
  (ctx) =>
    ctx.facts.standby ? skipped('a standby') : look(ctx);

export const SURROUNDING_CHECKS: readonly CheckDefinition<PostgresContext>[] = [
  {
    name: 'partitions',
    means:
      'Warning when a partition of a table that triggers capture has no triggers of its own yet: statements on it are not seen.',
    look: lookAtPartitions,
  },
  {
    name: 'inheritance',
    means: 'Warning when a table inherits from a source table: its rows are read, its writes are not seen.',
    look: lookAtInheritance,
  },
  {
    name: 'rules',
    means: 'Warning of rules on source tables: what they rewrite may not be seen.',
    look: lookAtRules,
  },
  { name: 'other_triggers', means: "Lists the application's own triggers.", look: lookAtTriggers },
  {
    name: 'event_triggers',
    means: 'Before installation: warning, because they may refuse what `migrate` creates.',
    look: lookAtEventTriggers,
  },
  {
    name: 'subscriptions',
    means:
      'Warning when a subscription writes a table that triggers capture: apply workers do not fire statement triggers.',
    look: lookAtSubscriptions,
  },
  {
    name: 'other_publications',
    means: 'Lists other publications with source tables, which are harmless.',
    look: lookAtPublications,
  },
  {
    name: 'other_slots',
    means: 'Warning of slots of others that keep 1 GB or more back and that nobody streams from.',
    look: onPrimary(lookAtOtherSlots),
  },
];
