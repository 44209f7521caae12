import { EnvironmentError } from '../errors.ts';
import { findMissing } from '../migrate.ts';
import { findPending, readMigrations } from '../migrations.ts';
import { query } from '../postgres.ts';
import { readQueueVersion } from '../queue-schema.ts';
import {
  type CheckDefinition,
  type Finding,
  failure,
  listNames,
  ok,
  skipped,
  statements,
  warning,
} from './check.ts';
import type { PostgresContext } from './postgres-context.ts';

type Look = CheckDefinition<PostgresContext>['look'];

const MIGRATE = 'market-sync migrate';

/** What changed while capture was incomplete may have gone unseen. */
const RESYNC = `select market_sync.request_resync('capture was incomplete')`;

const lookAtMigrations: Look = async ({ db, facts }) => {
  if (!facts.installed) return ok(`not installed yet: ${MIGRATE}`);
  const migrations = readMigrations();
  try {
    const pending = await findPending(db, migrations);
    if (pending.length === 0) return ok(`all ${migrations.length} are applied`);
    return failure(`${pending.length} are missing, first ${pending[0]?.name}`, MIGRATE);
  } catch (error) {
    if (!(error instanceof EnvironmentError)) throw error;
    return failure(
      error.message.replace(/^DATABASE_URL: /, ''),
      'npm install market-sync@VERSION  # the version that applied them',
    );
  }
};

const installed =
  (look: Look): Look =>
  (ctx) =>
    ctx.facts.installed ? look(ctx) : skipped('not installed yet');

/** A part of what is missing, by what it is. */
const lookAtMissing =
  (input: { part: RegExp; well: string }): Look =>
  async ({ db }) => {
    const rows = (await findMissing(db)).filter(({ missing }) => input.part.test(missing));
    if (rows.length === 0) return ok(input.well);
    return failure(
      `missing, disabled or in the wrong mode: ${listNames(rows.map((row) => row.missing))}. Changes meanwhile may have gone unseen`,
      statements([...rows.map((row) => row.remedy), RESYNC]),
    );
  };

const COLUMN_LIST = `
  select r.prattrs is not null as listed,
    coalesce(exists (select from pg_attribute a where a.attrelid = r.prrelid and a.attname = 'id' and a.attnum = any (r.prattrs)), false) as keyed
  from pg_publication p join pg_publication_rel r on r.prpubid = p.oid and r.prrelid = to_regclass('storage_bookings')
  where p.pubname = 'market_sync'`;

const lookAtPublication: Look = async (ctx): Promise<Finding> => {
  const missing = await lookAtMissing({ part: /publication/, well: '' })(ctx);
  if (missing.status !== 'ok') return missing;
  const rows = await query<{ listed: boolean; keyed: boolean }>(ctx.db, COLUMN_LIST);
  if (rows[0]?.listed !== true) return ok('storage_bookings, all rows, columns and kinds of change');
  const remedy = statements(['alter publication market_sync set table storage_bookings']);
  if (!rows[0].keyed) return failure('its column list leaves the id of bookings out', remedy);
  return warning(
    "it has a column list: should the owner ever set replica identity full, the application's updates fail",
    remedy,
  );
};

const lookAtQueue: Look = async ({ db }) => {
  const tables = await query<{ found: boolean }>(
    db,
    `select exists (select from pg_class where relname = 'version'
       and relnamespace = (select oid from pg_namespace where nspname = 'pgboss')) as found`,
  );
  if (tables[0]?.found !== true) return failure('pg-boss has no tables here: no schedule runs', MIGRATE);
  const rows = await query<{ version: number }>(db, 'select version from pgboss.version');
  const [version, wanted] = [rows[0]?.version ?? 0, readQueueVersion()];
  if (version === wanted) return ok(`pg-boss's tables are of version ${version}`);
  if (version > wanted) {
    return failure(
      `pg-boss's tables are of version ${version}, newer than ${wanted} that this program knows`,
      'npm install market-sync@VERSION  # the version that migrated last',
    );
  }
  return failure(`pg-boss's tables are of version ${version}, the program needs ${wanted}`, MIGRATE);
};

export const CAPTURE_CHECKS: readonly CheckDefinition<PostgresContext>[] = [
  {
    name: 'migrations',
    means: 'Failure when some are missing, were edited, or are of a newer version.',
    look: lookAtMigrations,
  },
  {
    name: 'capture_triggers',
    means: 'Failure when one of the 24 is missing, disabled or not `enable always`.',
    look: installed(lookAtMissing({ part: /^trigger/, well: 'all 24 are there, enabled always' })),
  },
  {
    name: 'publication',
    means:
      'Failure when it is missing, lacks `storage_bookings` or a kind of change, or filters rows; warning when it has a column list.',
    look: installed(lookAtPublication),
  },
  {
    name: 'own_tables',
    means: 'Failure when one of the tables that everything stands on is missing.',
    look: installed(lookAtMissing({ part: /^table market/, well: 'all are there' })),
  },
  {
    name: 'queue_tables',
    means: "Failure when pg-boss's schema is missing or of another version.",
    look: installed(lookAtQueue),
  },
];
