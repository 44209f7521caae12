import type pg from 'pg';
import { query } from '../../src/postgres.ts';

/**
 * Everything that PostgreSQL's catalog says of the schemas that are not its own: relations with columns, options,
 * constraints, indexes, triggers, identity and owner; functions, types, comments, privileges, publications. Without what
 * differs between two databases that were made alike (numbers, statistics). Privileges that stand for the default are the default.
 */
export async function describeCatalog(
  pool: pg.Pool,
  options: { only?: (line: string) => boolean } = {},
): Promise<string[]> {
  const rows = await query<{ line: string }>(pool, CATALOG);
  return rows.map((row) => row.line).filter(options.only ?? (() => true));
}

const OWN_SCHEMAS = `n.nspname not in ('pg_catalog', 'information_schema') and n.nspname not like 'pg\\_t%'`;

/** Numbers of partitions are in names of their indexes. */
const name = (value: string): string => `regexp_replace(${value}, '(market_sync_\\w+?)_[0-9]+\\M', '\\1_N')`;

const CATALOG = `
  select * from (
    select 'schema ' || n.nspname || ' ' || r.rolname || ' '
      || coalesce((select string_agg(x::text, ',' order by x::text) from unnest(coalesce(n.nspacl, acldefault('n', n.nspowner))) x), '')
      || coalesce(obj_description(n.oid, 'pg_namespace'), '') as line
    from pg_namespace n join pg_roles r on r.oid = n.nspowner where ${OWN_SCHEMAS}
    union all
    select 'relation ' || ${name(`c.oid::regclass::text`)} || ' ' || jsonb_build_object(
      'kind', c.relkind, 'owner', r.rolname, 'options', c.reloptions, 'identity', c.relreplident, 'persistence', c.relpersistence,
      'bound', pg_get_expr(c.relpartbound, c.oid), 'security', c.relrowsecurity, 'tablespace', c.reltablespace,
      'acl', (select array_agg(x::text order by x::text) from unnest(coalesce(c.relacl,
        acldefault(case c.relkind when 'S' then 's'::"char" else 'r' end, c.relowner))) x),
      'comment', obj_description(c.oid, 'pg_class'),
      'view', case when c.relkind = 'v' then pg_get_viewdef(c.oid) end,
      'partition key', case when c.relkind = 'p' then pg_get_partkeydef(c.oid) end)
    from pg_class c join pg_namespace n on n.oid = c.relnamespace join pg_roles r on r.oid = c.relowner
    where ${OWN_SCHEMAS} and c.relkind <> 'i' and c.relkind <> 'I'
    union all
    select 'column ' || c.oid::regclass || '.' || a.attname || ' ' || jsonb_build_object(
      'number', a.attnum, 'type', format_type(a.atttypid, a.atttypmod), 'not null', a.attnotnull, 'identity', a.attidentity,
      'generated', a.attgenerated, 'default', pg_get_expr(d.adbin, d.adrelid), 'acl', a.attacl::text, 'options', a.attoptions,
      'storage', a.attstorage, 'comment', col_description(c.oid, a.attnum), 'statistics', nullif(to_jsonb(a) -> 'attstattarget', '-1'))
    from pg_class c join pg_namespace n on n.oid = c.relnamespace
    join pg_attribute a on a.attrelid = c.oid and a.attnum > 0 and not a.attisdropped
    left join pg_attrdef d on d.adrelid = c.oid and d.adnum = a.attnum
    where ${OWN_SCHEMAS} and c.relkind in ('r', 'p', 'v', 'c')
    union all
    select 'index ' || ${name('pg_get_indexdef(i.indexrelid)')} || jsonb_build_object('valid', i.indisvalid, 'ready', i.indisready,
      'identity', i.indisreplident, 'clustered', i.indisclustered,
      'parent', (select ${name('inhparent::regclass::text')} from pg_inherits where inhrelid = i.indexrelid),
      'comment', obj_description(i.indexrelid, 'pg_class'))
    from pg_index i join pg_class c on c.oid = i.indexrelid join pg_namespace n on n.oid = c.relnamespace where ${OWN_SCHEMAS}
    union all
    select 'constraint ' || con.conrelid::regclass || ' ' || con.conname || ' ' || pg_get_constraintdef(con.oid)
      || con.convalidated || coalesce(obj_description(con.oid, 'pg_constraint'), '')
    from pg_constraint con join pg_namespace n on n.oid = con.connamespace where ${OWN_SCHEMAS} and con.conrelid <> 0
    union all
    select 'trigger ' || t.tgrelid::regclass || ' ' || pg_get_triggerdef(t.oid) || t.tgenabled::text
      || coalesce(obj_description(t.oid, 'pg_trigger'), '')
    from pg_trigger t join pg_class c on c.oid = t.tgrelid join pg_namespace n on n.oid = c.relnamespace
    where ${OWN_SCHEMAS} and not t.tgisinternal
    union all
    select 'rule ' || r.ev_class::regclass || ' ' || pg_get_ruledef(r.oid)
    from pg_rewrite r join pg_class c on c.oid = r.ev_class join pg_namespace n on n.oid = c.relnamespace
    where ${OWN_SCHEMAS} and c.relkind <> 'v'
    union all
    select 'policy ' || polrelid::regclass || ' ' || polname from pg_policy
    union all
    select 'parent ' || i.inhrelid::regclass || ' ' || i.inhparent::regclass || i.inhseqno
    from pg_inherits i join pg_class c on c.oid = i.inhrelid and c.relkind in ('r', 'p')
    union all
    select 'function ' || p.oid::regprocedure || ' ' || md5(pg_get_functiondef(p.oid)) || ' ' || coalesce(p.proacl::text, '')
      || coalesce(obj_description(p.oid, 'pg_proc'), '')
    from pg_proc p join pg_namespace n on n.oid = p.pronamespace where ${OWN_SCHEMAS} and p.prokind in ('f', 'p')
    union all
    select 'type ' || t.oid::regtype || ' ' || t.typtype::text || coalesce((select string_agg(enumlabel, ',' order by enumsortorder)
      from pg_enum where enumtypid = t.oid), '')
    from pg_type t join pg_namespace n on n.oid = t.typnamespace where ${OWN_SCHEMAS} and t.typtype in ('e', 'd')
    union all
    select 'publication ' || (to_jsonb(p) - 'oid')::text || coalesce(obj_description(p.oid, 'pg_publication'), '') from pg_publication p
    union all
    select 'published ' || p.pubname || ' ' || r.prrelid::regclass || coalesce(pg_get_expr(r.prqual, r.prrelid), '')
      || coalesce(r.prattrs::text, '')
    from pg_publication_rel r join pg_publication p on p.oid = r.prpubid
    union all
    select 'default privileges ' || defaclacl::text from pg_default_acl
    union all
    select 'event trigger ' || evtname from pg_event_trigger
    union all
    select 'extension ' || extname from pg_extension
  ) catalog
  order by line collate "C"`;
