import type pg from 'pg';
import { query } from '../postgres.ts';
import { COLUMN_KINDS, type ColumnKind, hasUsableIdentity, SOURCE_COLUMNS } from '../source.ts';
import { type CheckDefinition, type Finding, failure, listNames, ok, skipped, statements } from './check.ts';
import type { PostgresContext } from './postgres-context.ts';
import { OTHER_COLUMNS } from './source-types.ts';

const isOf = (kind: ColumnKind, base: string): boolean => COLUMN_KINDS[kind].types.includes(base);

const typeOf = (kind: ColumnKind): string => COLUMN_KINDS[kind].wanted;

type Look = CheckDefinition<PostgresContext>['look'];

interface SourceTable {
  kind: string;
  /** By name; of a domain the type under it. */
  columns: Map<string, { type: string; base: string }>;
}

const SOURCE_TABLES = `
  select c.relname as table_name, c.relkind as kind, a.attname as column_name,
    base.oid::regtype::text as type, base.typname as base
  from pg_class c join pg_namespace n on n.oid = c.relnamespace
  join pg_attribute a on a.attrelid = c.oid and a.attnum > 0 and not a.attisdropped
  join pg_type t on t.oid = a.atttypid join pg_type base on base.oid = coalesce(nullif(t.typbasetype, 0), t.oid)
  where n.nspname = $1 and c.relname = any ($2::text[]) and c.relkind in ('r', 'p', 'v', 'm', 'f')
  order by c.relname, a.attnum`;

async function readTables(db: pg.ClientBase, sourceSchema: string): Promise<Map<string, SourceTable>> {
  const rows = await query<{
    table_name: string;
    kind: string;
    column_name: string;
    type: string;
    base: string;
  }>(db, SOURCE_TABLES, [sourceSchema, Object.keys(SOURCE_COLUMNS)]);
  const tables = new Map<string, SourceTable>();
  for (const { table_name, kind, column_name, type, base } of rows) {
    const table = tables.get(table_name) ?? { kind, columns: new Map() };
    table.columns.set(column_name, { type, base });
    tables.set(table_name, table);
  }
  return tables;
}

const lookAtTables: Look = async ({ db, sourceSchema, facts }) => {
  if (facts.schema === undefined) {
    return failure(
      `there is no schema ${sourceSchema} in the database ${facts.database}`,
      'export SOURCE_SCHEMA=…  # the schema of storage_bookings',
    );
  }
  const tables = await readTables(db, sourceSchema);
  const missing = Object.keys(SOURCE_COLUMNS).filter((name) => !tables.has(name));
  if (missing.length > 0) {
    return failure(
      `not in the schema ${sourceSchema}: ${listNames(missing)}. Is this the database of Storage Guard?`,
      'export SOURCE_SCHEMA=… DATABASE_URL=…  # where storage_bookings is',
    );
  }
  const others = [...tables].filter(([, { kind }]) => kind !== 'r' && kind !== 'p').map(([name]) => name);
  if (others.length > 0) {
    return failure(
      `no tables, but views or foreign tables: ${listNames(others)}. Their changes cannot be captured`,
      'export SOURCE_SCHEMA=… DATABASE_URL=…  # where the tables themselves are',
    );
  }
  return ok(`all ${tables.size} are there`);
};

/** The missing column's likely new name: one that nobody knows, of a type that it may have. */
function findNewName(table: SourceTable, input: { name: string; column: string }): string | undefined {
  const wanted = SOURCE_COLUMNS[input.name] ?? {};
  const family = wanted[input.column];
  if (family === undefined) return undefined;
  const known = new Set([...Object.keys(wanted), ...(OTHER_COLUMNS[input.name] ?? '').split(' ')]);
  const unknown = [...table.columns].filter(([name, { base }]) => !known.has(name) && isOf(family, base));
  return unknown.length === 1
    ? unknown[0]?.[0]
    : closest(
        input.column,
        unknown.map(([name]) => name),
      );
}

/** Of several, the one that shares a word with it. */
const closest = (column: string, names: string[]): string | undefined =>
  names.find((name) => name.split('_').some((word) => column.split('_').includes(word)));

const lookAtColumns: Look = async ({ db, sourceSchema }) => {
  const tables = await readTables(db, sourceSchema);
  if (tables.size === 0) return skipped('there are no source tables');
  const found: string[] = [];
  const remedies: string[] = [];
  for (const [name, table] of tables) {
    for (const [column, family] of Object.entries(SOURCE_COLUMNS[name] ?? {})) {
      if (table.columns.has(column)) continue;
      const renamed = findNewName(table, { name, column });
      found.push(`${name}.${column}${renamed === undefined ? '' : ` (renamed to ${renamed}?)`}`);
      remedies.push(
        renamed === undefined
          ? `alter table "${sourceSchema}".${name} add column ${column} ${typeOf(family)}`
          : `alter table "${sourceSchema}".${name} rename column "${renamed}" to ${column}`,
      );
    }
  }
  if (found.length === 0) return ok('every column that a snapshot shows is there');
  return failure(
    `missing: ${listNames(found)}. Give the column back, or run a version of market-sync that knows this table`,
    statements(remedies),
  );
};

const lookAtTypes: Look = async ({ db, sourceSchema }): Promise<Finding> => {
  const tables = await readTables(db, sourceSchema);
  if (tables.size === 0) return skipped('there are no source tables');
  const [wrong, remedies] = [[] as string[], [] as string[]];
  for (const [name, table] of tables) {
    for (const [column, family] of Object.entries(SOURCE_COLUMNS[name] ?? {})) {
      const type = table.columns.get(column);
      if (type === undefined || isOf(family, type.base)) continue;
      const cast =
        type.base === 'timestamp' ? `${column} at time zone 'UTC'` : `${column}::text::${typeOf(family)}`;
      wrong.push(`${name}.${column} is ${type.type}`);
      remedies.push(
        `alter table "${sourceSchema}".${name} alter column ${column} type ${typeOf(family)} using ${cast}`,
      );
    }
  }
  if (wrong.length > 0) return failure(`of another type: ${listNames(wrong)}`, statements(remedies));
  return ok('every column that a snapshot shows has its type');
};

const lookAtIdentity: Look = async ({ db, sourceSchema }) => {
  const tables = await readTables(db, sourceSchema);
  if (!tables.has('storage_bookings')) return skipped('there is no table storage_bookings');
  if (await hasUsableIdentity(db, sourceSchema)) return ok('storage_bookings is identified by its id');
  const keys = await query(
    db,
    `select from pg_index where indisprimary and indrelid = to_regclass(format('%I.storage_bookings', $1::text))`,
    [sourceSchema],
  );
  return failure(
    `storage_bookings has no replica identity that holds its id: published, the application's updates and deletes fail`,
    statements([
      ...(keys.length === 0 ? [`alter table "${sourceSchema}".storage_bookings add primary key (id)`] : []),
      `alter table "${sourceSchema}".storage_bookings replica identity default`,
    ]),
  );
};

/** Ours, the application's, and whatever else a publication of anybody's holds: whose updates fail is all the same. */
const WITHOUT_IDENTITY = `
  with published as (
    select c.oid, string_agg(distinct p.pubname, ', ') as publications
    from pg_publication p join pg_publication_tables t on t.pubname = p.pubname
    join pg_namespace n on n.nspname = t.schemaname join pg_class c on c.relnamespace = n.oid and c.relname = t.tablename
    where p.pubupdate or p.pubdelete
    group by 1
  ), leaves as (
    select oid, publications from published
    union
    select tree.relid::oid, p.publications from published p cross join lateral pg_partition_tree(p.oid::regclass) tree where tree.isleaf
  )
  select c.oid::regclass::text as name, l.publications,
    exists (select from pg_index i where i.indrelid = c.oid and i.indisprimary) as keyed
  from leaves l join pg_class c on c.oid = l.oid and c.relkind = 'r'
  where c.relreplident = 'n'
    or c.relreplident = 'd' and not exists (select from pg_index i where i.indrelid = c.oid and i.indisprimary)
    or c.relreplident = 'i' and not exists (select from pg_index i where i.indrelid = c.oid and i.indisreplident)
  order by 1`;

const lookAtPublished: Look = async ({ db }) => {
  const rows = await query<{ name: string; publications: string; keyed: boolean }>(db, WITHOUT_IDENTITY);
  if (rows.length === 0) return ok('every published table has a replica identity');
  return failure(
    `published without a replica identity, so updates and deletes of them fail: ${listNames(rows.map((row) => `${row.name} (in ${row.publications})`))}`,
    statements(
      rows.map(({ name, keyed }) => `alter table ${name} replica identity ${keyed ? 'default' : 'full'}`),
    ),
  );
};

export const SOURCE_TABLE_CHECKS: readonly CheckDefinition<PostgresContext>[] = [
  {
    name: 'source_tables',
    means: 'Failure when a source table is missing in `SOURCE_SCHEMA`, or is no table.',
    stops: true,
    look: lookAtTables,
  },
  {
    name: 'source_columns',
    means: 'Failure when a column that a snapshot shows is missing; a likely new name is named.',
    look: lookAtColumns,
  },
  {
    name: 'source_types',
    means:
      'Failure when such a column has a type that cannot be used: a time without a zone means another instant in each session.',
    look: lookAtTypes,
  },
  {
    name: 'booking_identity',
    means: 'Failure when `storage_bookings` has no replica identity that holds its `id`.',
    stops: true,
    look: lookAtIdentity,
  },
  {
    name: 'published_identity',
    means:
      "Failure when any publication of updates or deletes, ours or not, holds a table without replica identity: the application's updates of it fail.",
    look: lookAtPublished,
  },
];
