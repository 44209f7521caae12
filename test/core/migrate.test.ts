import { copyFileSync, mkdtempSync, readdirSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type pg from 'pg';
import { afterAll, afterEach, beforeAll, describe, expect, test } from 'vitest';
import { EnvironmentError } from '../../src/errors.ts';
import type { Logger } from '../../src/log.ts';
import { migrate, requireMigrated } from '../../src/migrate.ts';
import { readMigrations } from '../../src/migrations.ts';
import { connect, createPool, query } from '../../src/postgres.ts';
import { OLD_SNAPSHOTS } from '../support/old-system.ts';
import { testLog } from '../support/pipeline.ts';
import { createDatabase, type TestDatabase } from '../support/postgres.ts';

const SQL = join(import.meta.dirname, '..', '..', 'sql', 'migrations');
const NAMES = readdirSync(SQL).sort();

const cleanups: (() => Promise<unknown>)[] = [];
afterEach(async () => {
  for (const cleanup of cleanups.splice(0).toReversed()) await cleanup();
});

async function newDatabase(template: 'storage_guard' | 'migrated'): Promise<TestDatabase> {
  const database = await createDatabase({ template });
  cleanups.push(() => database.drop());
  return database;
}

const contextOf = ({ pool }: Pick<TestDatabase, 'pool'>, log: Logger = testLog()) => ({
  pool,
  sourceSchema: 'public',
  log,
});

async function failureOf(work: Promise<unknown>): Promise<EnvironmentError> {
  const error = await work.then(
    () => new Error('it did not fail'),
    (reason: unknown) => reason,
  );
  expect(error).toBeInstanceOf(EnvironmentError);
  return error as EnvironmentError;
}

const isInstalled = async (pool: pg.Pool): Promise<boolean> => {
  const rows = await query<{ found: boolean }>(
    pool,
    `select to_regnamespace('market_sync') is not null
       or exists (select from pg_publication where pubname = 'market_sync')
       or to_regclass('market_inventory_snapshots') is not null as found`,
  );
  return rows[0]?.found === true;
};

test('a fresh database gets every migration, and the second time nothing', async () => {
  const database = await newDatabase('storage_guard');
  await expect(requireMigrated(database.pool)).rejects.toThrow(
    /migrations are missing, first 001_.*market-sync migrate$/s,
  );
  expect(await migrate(contextOf(database))).toEqual(NAMES);
  expect(await migrate(contextOf(database))).toEqual([]);
  await requireMigrated(database.pool);
});

test('two that migrate at once do it one after the other, while the application works', async () => {
  const database = await newDatabase('storage_guard');
  const other = createPool({
    url: database.url,
    applicationName: 'other',
    sourceSchema: 'public',
    log: testLog(),
  });
  cleanups.push(() => other.end());
  const applied = await Promise.all([migrate(contextOf(database)), migrate(contextOf({ pool: other }))]);
  expect(applied.map((names) => names.length).toSorted()).toEqual([0, NAMES.length]);
});

test('a migration whose file was edited after it was applied is refused by name', async () => {
  const database = await newDatabase('migrated');
  await query(database.pool, `update market_sync.migrations set checksum = 'another' where number = 2`);
  const { message } = await failureOf(migrate(contextOf(database)));
  expect(message).toMatch(
    /^DATABASE_URL: migration 002_create_capture\.sql was applied with another content\. .*run the version/,
  );
  await failureOf(requireMigrated(database.pool));
});

test('a database of a newer version is refused, and left as it is', async () => {
  const database = await newDatabase('migrated');
  await query(
    database.pool,
    `insert into market_sync.migrations values (99, '099_from_the_future.sql', 'x')`,
  );
  const { message } = await failureOf(migrate(contextOf(database)));
  expect(message).toContain('newer version of market-sync (099_from_the_future.sql). Run that version.');
  await failureOf(requireMigrated(database.pool));
});

test('a migration that fails leaves nothing of itself, and those before it stay', async () => {
  const database = await newDatabase('storage_guard');
  const [first] = readMigrations();
  if (first === undefined) throw new Error('there is no migration');
  // It fails where it is recorded, after its own statements have run.
  const sql = `create table half (); insert into market_sync.migrations values (2, 'its', 'place')`;
  const broken = { number: 2, name: '002_broken.sql', checksum: 'x', sql };
  await expect(migrate(contextOf(database), [first, broken])).rejects.toThrow('duplicate key');
  const rows = await query(
    database.pool,
    `select number, to_regclass('half') as half from market_sync.migrations`,
  );
  expect(rows).toEqual([{ number: 1, half: null }]);
  expect(await migrate(contextOf(database))).toEqual(NAMES.slice(1));
});

describe('the files of migrations', () => {
  let directory: string;
  beforeAll(() => {
    directory = mkdtempSync(join(tmpdir(), 'market-sync-migrations-'));
  });
  afterAll(() => rmSync(directory, { recursive: true }));
  afterEach(() => {
    for (const name of readdirSync(directory)) rmSync(join(directory, name));
  });

  test('are read in order, each with a checksum of its content', () => {
    for (const name of NAMES) copyFileSync(join(SQL, name), join(directory, name));
    writeFileSync(join(directory, 'README.md'), 'not a migration');
    expect(readMigrations(directory)).toEqual(readMigrations());
    expect(readMigrations().map(({ number }) => number)).toEqual(NAMES.map((_, index) => index + 1));
    writeFileSync(join(directory, NAMES[0] ?? ''), '-- edited');
    expect(readMigrations(directory)[0]?.checksum).not.toBe(readMigrations()[0]?.checksum);
  });

  test.each([
    ['a gap', ['001_a.sql', '003_c.sql'], '003_c.sql'],
    ['a first that is not 001', ['000_a.sql'], '000_a.sql'],
    ['one number twice', ['001_a.sql', '001_b.sql'], '001_b.sql'],
    ['a name that says nothing', ['001_a.sql', '002.sql'], '002.sql'],
    ['a number of other length', ['001_a.sql', '0002_b.sql'], '0002_b.sql'],
  ])('with %s are refused', (_, names, culprit) => {
    for (const name of names) writeFileSync(join(directory, name), 'select 1');
    expect(() => readMigrations(directory)).toThrow(
      `${culprit}: migrations are numbered 001, 002, … without a gap`,
    );
  });
});

describe('a source that is not as it must be', () => {
  test('is refused with a list of what is missing, and nothing is created', async () => {
    const database = await newDatabase('storage_guard');
    await query(database.pool, 'alter table sensor_readings drop column reading_unit');
    await query(database.pool, 'alter table storage_bookings rename crop_type to crop');
    await query(database.pool, 'drop table storage_certificates');
    const { message } = await failureOf(migrate(contextOf(database)));
    expect(message).toMatch(/^SOURCE_SCHEMA=public: this is not a Storage Guard database/);
    expect(message).toContain('sensor_readings.reading_unit');
    expect(message).toContain('storage_bookings.crop_type');
    expect(message.match(/storage_certificates/g)).toHaveLength(1);
    expect(message).not.toContain('pest_detections');
    expect(await isInstalled(database.pool)).toBe(false);
  });

  test('is refused in the words of the setting when it is in another schema', async () => {
    const database = await newDatabase('storage_guard');
    const { message } = await failureOf(migrate({ ...contextOf(database), sourceSchema: 'elsewhere' }));
    expect(message).toMatch(/^SOURCE_SCHEMA=elsewhere: .*point DATABASE_URL and SOURCE_SCHEMA at it\.$/);
  });

  test.each([
    ['without a primary key', 'alter table storage_bookings drop constraint storage_bookings_pkey cascade'],
    ['with replica identity nothing', 'alter table storage_bookings replica identity nothing'],
    [
      'with a primary key on something else',
      `alter table storage_bookings drop constraint storage_bookings_pkey cascade;
       alter table storage_bookings add primary key (id, farmer_id)`,
    ],
  ])(
    'I5: bookings %s are refused, because publishing them would break the application',
    async (_, change) => {
      const database = await newDatabase('storage_guard');
      await query(database.pool, change);
      const { message } = await failureOf(migrate(contextOf(database)));
      expect(message).toContain('alter table storage_bookings add primary key (id)');
      expect(await isInstalled(database.pool)).toBe(false);
    },
  );

  test.each([
    ['full', 'alter table storage_bookings replica identity full'],
    [
      'an index that holds the id',
      `create unique index by_id on storage_bookings (id); alter table storage_bookings replica identity using index by_id`,
    ],
  ])('is taken when the replica identity of bookings is %s', async (_, change) => {
    const database = await newDatabase('storage_guard');
    await query(database.pool, change);
    expect(await migrate(contextOf(database))).toEqual(NAMES);
  });
});

describe('what a hand has taken away since', () => {
  const CHANGES = [
    [
      'alter table sensor_readings disable trigger market_sync_insert',
      'trigger market_sync_insert on sensor_readings',
    ],
    [
      'alter table iot_sensors enable trigger market_sync_update',
      'trigger market_sync_update on iot_sensors',
    ],
    ['drop trigger market_sync_delete on pest_detections', 'trigger market_sync_delete on pest_detections'],
    ['drop trigger market_sync_update on crop_inspections', 'trigger market_sync_update on crop_inspections'],
    [
      'drop trigger market_sync_insert on storage_certificates',
      'trigger market_sync_insert on storage_certificates',
    ],
    [
      'drop trigger market_sync_truncate on compliance_certificates',
      'trigger market_sync_truncate on compliance_certificates',
    ],
    ['drop publication market_sync', 'publication market_sync'],
    [
      'alter publication market_sync drop table storage_bookings',
      'table storage_bookings in publication market_sync',
    ],
    [`alter publication market_sync set (publish = 'insert')`, 'kinds of change in publication market_sync'],
    [
      `alter publication market_sync set table storage_bookings where (id is not null)`,
      'rows of storage_bookings that publication market_sync filters out',
    ],
  ] as const;

  // One database for all of them: each leaves it as it was, or fails.
  let database: TestDatabase;
  beforeAll(async () => {
    database = await createDatabase({ template: 'migrated' });
  });
  afterAll(() => database.drop());

  test.each(CHANGES)('is named with a remedy that works: %s', async (change, missing) => {
    const describeCapture = () =>
      query(
        database.pool,
        `select tgrelid::regclass::text as of, to_jsonb(pg_get_triggerdef(oid)) as definition, tgenabled::text as state
         from pg_trigger where tgname like 'market\\_sync\\_%'
         union all
         select r.prrelid::regclass::text, to_jsonb(p) - 'oid' || jsonb_build_object('filter', r.prqual), ''
         from pg_publication p join pg_publication_rel r on r.prpubid = p.oid
         order by 1, 2`,
      );
    const before = await describeCapture();
    await query(database.pool, change);
    expect(await describeCapture()).not.toEqual(before);
    const { message } = await failureOf(migrate(contextOf(database)));
    expect(message).toMatch(/^DATABASE_URL: missing or disabled: /);
    expect(message.split('\n')[0]).toContain(`: ${missing}. `);
    expect((await failureOf(requireMigrated(database.pool))).message).toBe(message);

    const [, ...remedy] = message.split('\n');
    await query(database.pool, remedy.join('\n'));
    expect(await migrate(contextOf(database))).toEqual([]);
    expect(await describeCapture()).toEqual(before);
    expect(await query(database.pool, 'select reason from market_sync.resync')).toEqual([
      { reason: 'capture was incomplete' },
    ]);
  });

  test('is named when it is a table', async () => {
    await query(database.pool, 'drop table market_sync.resync cascade');
    expect((await failureOf(migrate(contextOf(database)))).message).toContain('table market_sync.resync');
  });
});

test('a lock on a source table makes a migration wait its turn and try again, not queue the application behind it', async () => {
  const database = await newDatabase('storage_guard');
  const holder = await connect(database.pool);
  await query(holder, 'begin; lock table storage_certificates in row exclusive mode');
  const refused = Promise.withResolvers<void>();
  const ignore = (): void => undefined;
  const log: Logger = { debug: ignore, info: ignore, warn: () => refused.resolve(), error: ignore };
  try {
    const startedAt = performance.now();
    const migrating = migrate(contextOf(database, log));
    await Promise.race([refused.promise, migrating]);
    expect(performance.now() - startedAt).toBeLessThan(15_000);
    expect(await query(database.pool, `select number from market_sync.migrations`)).toEqual([{ number: 1 }]);
    // It waits for 3 s at a time: the application gets its turn in between.
    await query(database.pool, 'insert into storage_certificates (booking_id) values (null)');
    await query(holder, 'commit');
    expect(await migrating).toEqual(NAMES);
  } finally {
    holder.release();
  }
});

test('the snapshots of the system before this one are taken over in place, and computed like any other', async () => {
  const database = await newDatabase('storage_guard');
  const { pool } = database;
  await query(pool, OLD_SNAPSHOTS);
  const old = await query<{ booking_id: string }>(
    pool,
    `with booking as (
       insert into storage_bookings (farmer_id, crop_type, quantity_kg, booking_status)
       values (gen_random_uuid(), 'Okra', 700, 'active') returning *)
     insert into market_inventory_snapshots
       (booking_id, farmer_id, crop_type, quantity_kg, status, market_listing_id, published_at, created_at)
     select id, farmer_id, 'Okra, old', 1, 'published', '65a1b2c3d4e5f60718293a4b', '2024-05-06', '2024-05-05' from booking
     returning *`,
  );
  const booking = old[0]?.booking_id;
  expect(await migrate(contextOf(database))).toEqual(NAMES);

  const kept = await query(pool, 'select * from market_inventory_snapshots');
  expect(kept).toEqual([
    { ...old[0], epoch: 0, revision: 0, own_hash: null, parts_hash: null, ended_at: null },
  ]);

  await query(pool, 'select market_sync.reconcile(array[$1]::uuid[])', [booking]);
  const computed = await query(
    pool,
    `select s.*, state.revision > state.published_revision as to_publish
     from market_inventory_snapshots s join market_sync.snapshot_state state using (booking_id)`,
  );
  expect(computed).toMatchObject([
    {
      id: kept[0]?.id,
      crop_type: 'Okra',
      quantity_kg: 700,
      revision: 1,
      status: 'ready_to_publish',
      market_listing_id: '65a1b2c3d4e5f60718293a4b',
      published_at: new Date('2024-05-06T00:00:00Z'),
      to_publish: true,
    },
  ]);
});

// Not public, and a word that SQL reserves: it is a lowercase identifier all the same.
test('a source schema of any name is migrated and reconciled, whatever search path the caller has', async () => {
  const database = await newDatabase('storage_guard');
  await query(database.pool, 'alter schema public rename to "order"; create schema public');
  const pool = createPool({
    url: database.url,
    applicationName: 'order',
    sourceSchema: 'order',
    log: testLog(),
  });
  cleanups.push(() => pool.end());
  const ctx = { pool, sourceSchema: 'order', log: testLog() };
  expect(await migrate(ctx)).toEqual(NAMES);
  expect(await migrate(ctx)).toEqual([]);

  const rows = await query<{ id: string }>(
    pool,
    `with location as (insert into storage_locations (name) values ('Barn') returning id),
       sensor as (insert into iot_sensors (location_id, sensor_type) select id, 'humidity' from location returning *),
       reading as (insert into sensor_readings (sensor_id, reading_value, reading_time) select id, 61, now() from sensor)
     insert into storage_bookings (farmer_id, location_id, crop_type, quantity_kg)
     select gen_random_uuid(), id, 'Rice', 5 from location returning id`,
  );
  // database.pool is in the empty schema public.
  const reconciled = await query(
    database.pool,
    'select booking_id, changed from market_sync.reconcile(market_sync.resolve_keys($1, null, null, null, null))',
    [[rows[0]?.id]],
  );
  expect(reconciled).toEqual([{ booking_id: rows[0]?.id, changed: true }]);
  const snapshots = await query(
    pool,
    `select crop_type, sensors -> 'humidity' -> 'value' as humidity from "order".market_inventory_snapshots`,
  );
  expect(snapshots).toEqual([{ crop_type: 'Rice', humidity: 61 }]);
});

test('every table, view and function that this project adds says what it is for', async () => {
  const database = await newDatabase('migrated');
  const silent = await query<{ name: string }>(
    database.pool,
    `select c.oid::regclass::text as name from pg_class c
     where c.relkind in ('r', 'p', 'v', 'm', 'f')
       and (c.relnamespace = 'market_sync'::regnamespace or c.oid = 'market_inventory_snapshots'::regclass)
       and obj_description(c.oid, 'pg_class') is null
     union all
     select p.oid::regprocedure::text from pg_proc p
     where p.pronamespace = 'market_sync'::regnamespace and obj_description(p.oid, 'pg_proc') is null
     union all
     select 'schema ' || nspname from pg_namespace where nspname = 'market_sync' and obj_description(oid, 'pg_namespace') is null
     union all
     select 'publication ' || pubname from pg_publication where obj_description(oid, 'pg_publication') is null`,
  );
  expect(silent.map(({ name }) => name)).toEqual([]);
  const [found] = await query<{ count: number }>(
    database.pool,
    `select count(*) from pg_proc where pronamespace = 'market_sync'::regnamespace`,
  );
  expect(found?.count).toBeGreaterThan(20);
});

test('every function that names a table of the source has its search path pinned, so that no caller can bend it', async () => {
  const database = await newDatabase('migrated');
  const rows = await query<{ name: string; pinned: boolean }>(
    database.pool,
    `select oid::regprocedure::text as name, coalesce(proconfig::text like '%search_path=%', false) as pinned from pg_proc
     where pronamespace = 'market_sync'::regnamespace and proname not like 'capture\\_%'
       and (prosecdef or prosrc ~ '\\m(storage_bookings|iot_sensors|market_inventory_snapshots)\\M')`,
  );
  expect(rows.length).toBeGreaterThan(5);
  expect(rows.filter(({ pinned }) => !pinned)).toEqual([]);
});
