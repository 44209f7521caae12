import { setTimeout } from 'node:timers/promises';
import type pg from 'pg';
import { crashPoint } from './crash-point.ts';
import { EnvironmentError } from './errors.ts';
import type { Logger } from './log.ts';
import { findPending, readMigrations, toStep } from './migrations.ts';
import { createRest } from './migration-rests.ts';
import { planPartitionCapture } from './partition-capture.ts';
import { connect, query, sessionSettings, sqlStateOf } from './postgres.ts';
import { installQueue, planQueue } from './queue-schema.ts';
import { applyRoles, planRoles } from './roles.ts';
import { planSnapshotIndexes, verifySnapshotTable } from './snapshot-table.ts';
import { verifySource } from './source.ts';
import { planSourceIndexes } from './source-indexes.ts';
import { runStep, type Step, type StepContext } from './step.ts';

/** Held while migrating, so that processes that start together do it one after the other. */
const TRY_MIGRATION_LOCK = 'select pg_try_advisory_lock(5501, 2) as locked';

const MIGRATION_LOCK_WAIT_MS = 10 * 60_000;

export interface MigrateContext {
  pool: pg.Pool;
  sourceSchema: string;
  log: Logger;
}

/**
 * Brings the database to this version of the program: applies what is missing, each migration in a transaction of its
 * own with its checksum, under an advisory lock; creates the indexes that the source tables lack, without blocking
 * their writers; verifies that what must exist does; makes pg-boss's tables; and grants the roles of `sql/roles.sql` what
 * they need. Running it again does nothing.
 *
 * Answers the names of the migrations applied. Throws an `EnvironmentError` when the source tables are not as they
 * must be, or when the database was migrated by a newer or an edited version of the program.
 */
export async function migrate(ctx: MigrateContext, migrations = readMigrations()): Promise<string[]> {
  const { pool, sourceSchema, log } = ctx;
  const client = await connect(pool);
  try {
    await lockMigrations(client);
    const steps = { client, log, rest: await createRest(client, sourceSchema) };
    await verifySource(client, sourceSchema);
    await verifySnapshotTable(client, sourceSchema);
    const pending = await findPending(client, migrations);
    if (pending[0]?.number === 1) {
      for (const index of await planSnapshotIndexes(client, sourceSchema)) await runStep(steps, index);
    }
    for (const migration of pending) {
      await crashPoint('migrate.between_migrations');
      await apply(steps, await toStep(client, { migration, sourceSchema }));
      log.info({ migration: migration.name }, 'migration applied');
    }
    for (const index of await planSourceIndexes(client, sourceSchema)) {
      await runStep(steps, index);
      log.info({ step: index.title }, 'index created');
    }
    await verifyInstalled(client);
    for (const partition of await planPartitionCapture(client, sourceSchema)) await runStep(steps, partition);
    await installQueue(steps);
    await applyRoles(pool, log);
    return pending.map(({ name }) => name);
  } finally {
    // Closes the session: its lock goes with it, and no other user of the pool inherits its settings.
    client.release(true);
  }
}

/**
 * What `migrate` would do now, in order, as the text that it would send. Reads the catalog; changes nothing, and takes no lock that
 * anybody notices. Throws as `migrate` does for a database that cannot be migrated.
 */
export async function planMigration(
  { pool, sourceSchema }: Pick<MigrateContext, 'pool' | 'sourceSchema'>,
  migrations = readMigrations(),
): Promise<Step[]> {
  const client = await connect(pool);
  try {
    await verifySource(client, sourceSchema);
    await verifySnapshotTable(client, sourceSchema);
    const pending = await findPending(client, migrations);
    const steps: Step[] = [
      {
        title:
          'the session, and the lock that lets one migrate at a time (it answers false while another one does)',
        locks: 'no table.',
        statements: [sessionSettings(sourceSchema), TRY_MIGRATION_LOCK],
      },
    ];
    if (pending[0]?.number === 1) steps.push(...(await planSnapshotIndexes(client, sourceSchema)));
    for (const migration of pending) steps.push(await toStep(client, { migration, sourceSchema }));
    steps.push(...(await planSourceIndexes(client, sourceSchema)));
    steps.push(...(await planPartitionCapture(client, sourceSchema)));
    steps.push(...(await planQueue(client)));
    steps.push(await planRoles(client));
    return steps;
  } finally {
    client.release(true);
  }
}

/**
 * Tries and tries again instead of waiting inside PostgreSQL: a session that waits for the lock holds a snapshot, and
 * `create index concurrently` of the session that has the lock would wait for that snapshot forever.
 */
async function lockMigrations(client: pg.ClientBase): Promise<void> {
  const deadline = Date.now() + MIGRATION_LOCK_WAIT_MS;
  while (Date.now() < deadline) {
    const rows = await query<{ locked: boolean }>(client, TRY_MIGRATION_LOCK);
    if (rows[0]?.locked === true) return;
    await setTimeout(200);
  }
  throw new EnvironmentError(
    `DATABASE_URL: another market-sync has been migrating for ${MIGRATION_LOCK_WAIT_MS / 60_000} minutes. Wait for it, or end it.`,
  );
}

/** Throws an `EnvironmentError` unless the database is at exactly this version of the program. */
export async function requireMigrated(pool: pg.Pool): Promise<void> {
  const pending = await findPending(pool, readMigrations());
  if (pending.length > 0) {
    throw new EnvironmentError(
      `DATABASE_URL: ${pending.length} migrations are missing, first ${pending[0]?.name}. Run: market-sync migrate`,
    );
  }
  await verifyInstalled(pool);
}

async function apply(ctx: StepContext, step: Step): Promise<void> {
  try {
    await runStep(ctx, step);
  } catch (error) {
    if (sqlStateOf(error) !== '42501') throw error;
    throw new EnvironmentError(
      `DATABASE_URL: the role may not apply ${step.title} (${(error as Error).message}). ` +
        `Migrate as the owner of the source tables with the right to create a schema and a publication: market-sync migrate`,
      { cause: error },
    );
  }
}

/** What a hand has taken away since the migrations, each with the remedy. Empty when all is well. */
export function findMissing(db: pg.Pool | pg.ClientBase): Promise<{ missing: string; remedy: string }[]> {
  return query(db, MISSING);
}

/** Throws an `EnvironmentError` that names what a hand has taken away since the migrations, with the remedies. */
export async function verifyInstalled(db: pg.Pool | pg.ClientBase): Promise<void> {
  const rows = await findMissing(db);
  if (rows.length > 0) {
    throw new EnvironmentError(
      `DATABASE_URL: missing or disabled: ${rows.map((row) => row.missing).join(', ')}. ` +
        `Changes made meanwhile may have gone unseen. Restore it, then ask for a recompute of everything:\n` +
        rows.map((row) => `  ${row.remedy};\n`).join('') +
        `  select market_sync.request_resync('capture was incomplete');`,
    );
  }
}

const MISSING = `
  with publication as (
    select p.*, r.prrelid, r.prqual from pg_publication p
    left join pg_publication_rel r on r.prpubid = p.oid and r.prrelid = to_regclass('storage_bookings')
    where p.pubname = 'market_sync'
  )
  select 'publication market_sync' as missing,
    'create publication market_sync for table storage_bookings '
    || 'with (publish = ''insert, update, delete, truncate'', publish_via_partition_root = true)' as remedy
  where not exists (select from publication)
  union all
  select 'table storage_bookings in publication market_sync', 'alter publication market_sync add table storage_bookings'
  from publication where prrelid is null
  union all
  select 'rows of storage_bookings that publication market_sync filters out',
    'alter publication market_sync set table storage_bookings'
  from publication where prqual is not null
  union all
  select 'kinds of change in publication market_sync',
    'alter publication market_sync set (publish = ''insert, update, delete, truncate'', publish_via_partition_root = true)'
  from publication where not (pubinsert and pubupdate and pubdelete and pubtruncate and pubviaroot)
  union all
  select format('trigger market_sync_%s on %s', event, source_table),
    case when t.oid is null then format(
      'create trigger market_sync_%1$s after %1$s on %2$s %3$s for each statement execute function market_sync.capture_%2$s(); ',
      event, source_table, transition_tables) else '' end
    || format('alter table %2$s enable always trigger market_sync_%1$s', event, source_table)
  from unnest(array['sensor_readings', 'iot_sensors', 'pest_detections', 'crop_inspections',
      'compliance_certificates', 'storage_certificates']) source_table
  cross join (values
    ('insert', 'referencing new table as new_rows'),
    ('update', 'referencing old table as old_rows new table as new_rows'),
    ('delete', 'referencing old table as old_rows'),
    ('truncate', '')) as capture (event, transition_tables)
  left join pg_trigger t on t.tgrelid = to_regclass(source_table) and t.tgname = 'market_sync_' || event
  where t.tgenabled is distinct from 'A'
  union all
  select 'table ' || name, '-- restore table ' || name || ' from a backup'
  from unnest(array['market_sync.checkpoint', 'market_sync.snapshot_state', 'market_sync.settings',
    'market_sync.resync', 'market_inventory_snapshots']) name
  where to_regclass(name) is null`;
