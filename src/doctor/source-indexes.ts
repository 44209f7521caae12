import { query } from '../postgres.ts';
import { findSourceIndex, SOURCE_INDEXES } from '../source.ts';
import { type CheckDefinition, listNames, ok, statements, warning } from './check.ts';
import type { PostgresContext } from './postgres-context.ts';
import { SOURCE_TYPES } from './source-types.ts';

type Look = CheckDefinition<PostgresContext>['look'];

/** Before installation their absence is no fault: migrate makes them. */
const lookAtIndexes: Look = async ({ db, sourceSchema, facts }) => {
  const missing: { name: string; remedy: string }[] = [];
  for (const index of SOURCE_INDEXES) {
    const state = await findSourceIndex(db, { sourceSchema, index });
    if (state === undefined || state.own === 'valid' || state.served) continue;
    const { name, table, definition } = index;
    const concurrently = state.partitioned ? '' : 'concurrently ';
    const create = `create index ${concurrently}${name} on "${sourceSchema}".${table} ${definition}`;
    // One that is there and invalid is named by invalid_indexes, with the same end.
    if (state.own === null) missing.push({ name: `${name} on ${table}`, remedy: create });
  }
  if (missing.length === 0) return ok('every look-up of a recompute has its index');
  const names = listNames(missing.map(({ name }) => name));
  if (!facts.installed) return ok(`market-sync migrate makes, without blocking writers: ${names}`);
  return warning(
    `none serves in the place of ${names}: recomputes read whole tables`,
    statements(missing.map(({ remedy }) => remedy)),
  );
};

const INVALID = `
  select i.indexrelid::regclass::text as name, c.relname as index_name, pg_get_indexdef(i.indexrelid) as definition,
    exists (select from pg_stat_progress_create_index p where p.index_relid = i.indexrelid) as building
  from pg_index i join pg_class c on c.oid = i.indexrelid
  join pg_class t on t.oid = i.indrelid join pg_namespace n on n.oid = t.relnamespace
  where n.nspname = $1 and t.relname = any ($2::text[]) and t.relkind = 'r' and not i.indisvalid order by 1`;

const lookAtInvalid: Look = async ({ db, sourceSchema }) => {
  const rows = await query<{ name: string; index_name: string; definition: string; building: boolean }>(
    db,
    INVALID,
    [sourceSchema, Object.keys(SOURCE_TYPES)],
  );
  const building = rows.filter((row) => row.building);
  const broken = rows.filter((row) => !row.building);
  if (broken.length === 0) {
    return ok(
      building.length === 0 ? 'none' : `being built now: ${listNames(building.map((row) => row.name))}`,
    );
  }
  return warning(
    `left by a build that failed, costs every write and serves nobody: ${listNames(broken.map((row) => row.name))}`,
    statements(
      broken.flatMap(({ name, index_name, definition }) => [
        `drop index concurrently ${name}`,
        ...(SOURCE_INDEXES.some((index) => index.name === index_name)
          ? [definition.replace(/^CREATE (UNIQUE )?INDEX /, 'create $1index concurrently ')]
          : []),
      ]),
    ),
  );
};

export const INDEX_CHECKS: readonly CheckDefinition<PostgresContext>[] = [
  {
    name: 'source_indexes',
    means:
      "After installation: warning when no index, ours or the application's, serves the latest reading of a sensor or a key that recomputes look up.",
    look: lookAtIndexes,
  },
  {
    name: 'invalid_indexes',
    means: 'Warning of indexes of source tables that a failed `create index concurrently` left behind.',
    look: lookAtInvalid,
  },
];
