import { createHash } from 'node:crypto';
import { readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout } from 'node:timers/promises';
import type pg from 'pg';
import { crashPoint } from './crash-point.ts';
import { EnvironmentError } from './errors.ts';
import type { Logger } from './log.ts';
import { connect, inTransaction, query, sqlStateOf } from './postgres.ts';
import { installQueue } from './queue-schema.ts';
import { applyRoles } from './roles.ts';
import { ensureSourceIndexes, verifySource } from './source.ts';

const MIGRATIONS_DIRECTORY = join(import.meta.dirname, '..', 'sql', 'migrations');
const FILE_NAME = /^(\d{3})_[a-z0-9_]+\.sql$/;

/** Held while migrating, so that processes that start together do it one after the other. */
const MIGRATION_LOCK = [5501, 2] as const;

const MIGRATION_LOCK_WAIT_MS = 10 * 60_000;

/** A statement waits at most this long for a table, so that it never queues the application behind it; then it is tried again. */
const LOCK_TIMEOUT_MS = 3_000;
const LOCK_ATTEMPTS_MAX = 20;

interface Migration {
  number: number;
  name: string;
  sql: string;
  checksum: string;
}

export interface MigrateContext {
  pool: pg.Pool;
  sourceSchema: string;
  log: Logger;
}

/** The migrations of this version of the program, in order. */
export function readMigrations(directory = MIGRATIONS_DIRECTORY): Migration[] {
  return readdirSync(directory)
    .filter((name) => name.endsWith('.sql'))
    .sort()
    .map((name, index) => {
      const match = FILE_NAME.exec(name);
      if (match === null || Number(match[1]) !== index + 1) {
        throw new Error(`${name}: migrations are numbered 001, 002, … without a gap`);
      }
      const sql = readFileSync(join(directory, name), 'utf8');
      return { number: index + 1, name, sql, checksum: createHash('sha256').update(sql).digest('hex') };
    });
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
  const client = await connect(ctx.pool);
  try {
    await lockMigrations(client);
    await verifySource(client, ctx.sourceSchema);
    const applied: string[] = [];
    for (const migration of await findPending(client, migrations)) {
      await crashPoint('migrate.between_migrations');
      await applyWithRetry(ctx, migration);
      applied.push(migration.name);
      ctx.log.info({ migration: migration.name }, 'migration applied');
    }
    await ensureSourceIndexes(client, ctx);
    await verifyInstalled(client);
    await installQueue(client, ctx.log);
    await applyRoles(ctx.pool, ctx.log);
    return applied;
  } finally {
    // Closes the session: its lock goes with it, and no other user of the pool inherits its settings.
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
    const rows = await query<{ locked: boolean }>(client, 'select pg_try_advisory_lock($1, $2) as locked', [
      ...MIGRATION_LOCK,
    ]);
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

/** What is still to be applied. Throws an `EnvironmentError` for a database of a newer or an edited version. */
export async function findPending(
  db: pg.Pool | pg.ClientBase,
  migrations: Migration[],
): Promise<Migration[]> {
  const exists = await query<{ found: boolean }>(
    db,
    `select to_regclass('market_sync.migrations') is not null as found`,
  );
  if (exists[0]?.found !== true) return migrations;
  const rows = await query<{ number: number; name: string; checksum: string }>(
    db,
    'select number, name, checksum from market_sync.migrations order by number',
  );
  for (const row of rows) {
    const migration = migrations[row.number - 1];
    if (migration === undefined) {
      throw new EnvironmentError(
        `DATABASE_URL: the database was migrated by a newer version of market-sync (${row.name}). Run that version.`,
      );
    }
    if (migration.checksum !== row.checksum) {
      throw new EnvironmentError(
        `DATABASE_URL: migration ${row.name} was applied with another content. ` +
          `A merged migration is never edited: run the version of market-sync that applied it, or one with its file restored.`,
      );
    }
  }
  return migrations.slice(rows.length);
}

async function applyWithRetry(ctx: MigrateContext, migration: Migration): Promise<void> {
  for (let attempt = 1; ; attempt += 1) {
    try {
      await inTransaction(ctx.pool, (client) => apply(client, migration));
      return;
    } catch (error) {
      if (sqlStateOf(error) === '42501') {
        throw new EnvironmentError(
          `DATABASE_URL: the role may not apply ${migration.name} (${(error as Error).message}). ` +
            `Migrate as the owner of the source tables with the right to create a schema and a publication: market-sync migrate`,
          { cause: error },
        );
      }
      if (sqlStateOf(error) !== '55P03') throw error;
      if (attempt >= LOCK_ATTEMPTS_MAX) {
        throw new EnvironmentError(
          `DATABASE_URL: ${migration.name} could not lock a table within ${LOCK_TIMEOUT_MS} ms, ${attempt} times in a row. ` +
            `Find the transaction that holds it in pg_stat_activity, or migrate at a quieter time.`,
          { cause: error },
        );
      }
      ctx.log.warn({ migration: migration.name, attempt }, 'migration waits for a lock, trying again');
    }
  }
}

async function apply(client: pg.ClientBase, migration: Migration): Promise<void> {
  await query(client, `set local lock_timeout = ${LOCK_TIMEOUT_MS}`);
  await query(client, 'set local statement_timeout = 0');
  if (migration.number === 1) {
    await query(client, 'create schema if not exists market_sync');
    await query(
      client,
      `comment on schema market_sync is 'Keeps Market Connect''s listings in step with Storage Guard. See the README of market-sync.'`,
    );
    await query(
      client,
      `create table market_sync.migrations (
         number int primary key, name text not null, checksum text not null, applied_at timestamptz not null default now())`,
    );
    await query(
      client,
      `comment on table market_sync.migrations is 'The migrations applied, with the checksum of each file.'`,
    );
  }
  await query(client, migration.sql);
  await query(client, 'insert into market_sync.migrations (number, name, checksum) values ($1, $2, $3)', [
    migration.number,
    migration.name,
    migration.checksum,
  ]);
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
