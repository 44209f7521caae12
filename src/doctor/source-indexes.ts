import { query } from '../postgres.ts';
import { SOURCE_COLUMNS } from '../source.ts';
import { isSourceIndex, planSourceIndexes } from '../source-indexes.ts';
import { type CheckDefinition, listNames, ok, skipped, statements, warning } from './check.ts';
import type { PostgresContext } from './postgres-context.ts';

type Look = CheckDefinition<PostgresContext>['look'];

async function hasTables(db: PostgresContext['db'], sourceSchema: string): Promise<boolean> {
  const names = Object.keys(SOURCE_COLUMNS);
  const rows = await query<{ count: number }>(
    db,
    `select count(*) from unnest($2::text[]) name where to_regclass(format('%I.%I', $1::text, name)) is not null`,
    [sourceSchema, names],
  );
  return rows[0]?.count === names.length;
}

/** Before installation their absence is no fault: migrate makes them. */
const lookAtIndexes: Look = async ({ db, sourceSchema, facts }) => {
  if (facts.schema === undefined || !(await hasTables(db, sourceSchema)))
    return skipped('there are no source tables');
  // One that is there and invalid is named by invalid_indexes, with the same end.
  const missing = (await planSourceIndexes(db, sourceSchema)).filter(
    ({ title }) => !title.includes('left invalid'),
  );
  if (missing.length === 0) return ok('every look-up of a recompute has its index');
  const names = listNames(missing.map(({ title }) => title.replace(/^index /, '')));
  if (!facts.installed) return ok(`market-sync migrate makes, without blocking writers: ${names}`);
  return warning(
    `none serves in the place of ${names}: recomputes read whole tables`,
    statements(
      missing.flatMap((step) => step.statements.filter((statement) => !statement.startsWith('set '))),
    ),
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
    [sourceSchema, Object.keys(SOURCE_COLUMNS)],
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
        ...(isSourceIndex(index_name)
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
