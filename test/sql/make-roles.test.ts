import pg from 'pg';
import { afterAll, afterEach, beforeAll, expect, test } from 'vitest';
import { applyStorageGuardTables } from '../../src/embedded/storage-guard.ts';
import { EnvironmentError } from '../../src/errors.ts';
import { migrate } from '../../src/migrate.ts';
import { createPool, query } from '../../src/postgres.ts';
import { applyRoles } from '../../src/roles.ts';
import { startCluster, type TestCluster } from '../support/cluster.ts';
import { recordLog } from '../support/log-recorder.ts';
import { testLog, until } from '../support/pipeline.ts';
import { createLogins, type Logins, refusalOf } from './logins.ts';

// Roles belong to a cluster: these tests have their own, which begins without them.

const MISSING = 'roles are missing, and this login may not make them';

let cluster: TestCluster;
let admin: pg.Pool;
const pools: pg.Pool[] = [];
let databases = 0;

beforeAll(async () => {
  cluster = await startCluster({ fsync: false });
  admin = createPool({
    url: cluster.url(),
    applicationName: 'admin',
    sourceSchema: 'public',
    log: testLog(),
  });
});

afterEach(async () => {
  for (const pool of pools.splice(0)) await pool.end();
  const made = await query<{ name: string }>(
    admin,
    `select datname as name from pg_database where datname like 'shop\\_%'`,
  );
  for (const { name } of made) await query(admin, `drop database ${name} with (force)`);
  await dropRoles();
});

const dropRoles = (): Promise<unknown> =>
  query(
    admin,
    `drop role if exists market_sync_reader, market_sync_operator, market_sync_admin, market_sync_consumer,
       market_sync_publisher, market_sync_api`,
  );

afterAll(async () => {
  await admin?.end();
  await cluster?.stop();
});

/** A database with the application's tables, of the superuser or of a login without special rights. */
async function createShop(
  ownerRights?: string,
): Promise<{ pool: pg.Pool; superuser: pg.Pool; logins: Logins }> {
  databases += 1;
  const name = `shop_${databases}`;
  await query(admin, `create database ${name}`);
  const url = cluster.url(name);
  const superuser = createPool({ url, applicationName: 'test', sourceSchema: 'public', log: testLog() });
  pools.push(superuser);
  const logins = createLogins({ admin: superuser, url });
  let pool = superuser;
  if (ownerRights !== undefined) {
    const owner = await logins.create([]);
    pools.push(owner.pool);
    pool = owner.pool;
    await query(
      superuser,
      `alter role ${owner.name} ${ownerRights}; alter database ${name} owner to ${owner.name}`,
    );
  }
  await applyStorageGuardTables({ pool, sourceSchema: 'public' });
  return { pool, superuser, logins };
}

const rolesThere = async (): Promise<number> =>
  (await query(admin, `select from pg_roles where rolname like 'market\\_sync\\_%'`)).length;

test('a login that may not make roles migrates all the same, and says what a DBA must run', async () => {
  const { pool, superuser, logins } = await createShop('nocreaterole');
  const log = recordLog();
  const ctx = { pool, sourceSchema: 'public', log: log.log };
  await migrate(ctx);
  expect(await rolesThere()).toBe(0);
  const missing = log.last(MISSING)?.missing as string[];
  expect(missing).toHaveLength(6);
  // Until then it is the owner's alone.
  const nobody = await logins.create([]);
  pools.push(nobody.pool);
  expect(await refusalOf(nobody.pool, 'select * from market_sync.status')).toBe('42501');
  expect(await query(pool, 'select consumer_state from market_sync.status')).toEqual([
    { consumer_state: 'absent' },
  ]);

  for (const statement of missing) await query(superuser, statement);
  expect(await migrate(ctx)).toEqual([]);
  expect(log.count(MISSING)).toBe(1);
  const operator = await logins.create(['market_sync_operator']);
  pools.push(operator.pool);
  expect(await query(operator.pool, 'select consumer_state from market_sync.status')).toHaveLength(1);
  expect(await query(operator.pool, 'select market_sync.retry_parked() as count')).toEqual([{ count: 0 }]);
});

test('roles that a DBA has made apart from each other are named with what joins them', async () => {
  const { pool, superuser } = await createShop('nocreaterole');
  await query(
    superuser,
    ['reader', 'operator', 'admin', 'consumer', 'publisher', 'api']
      .map((role) => `create role market_sync_${role} nologin`)
      .join('; '),
  );
  const log = recordLog();
  await migrate({ pool, sourceSchema: 'public', log: log.log });
  const missing = log.last(MISSING)?.missing as string[];
  expect(missing).toEqual([
    'grant market_sync_reader to market_sync_operator',
    'grant market_sync_operator to market_sync_admin',
  ]);
  for (const statement of missing) await query(superuser, statement);
  await migrate({ pool, sourceSchema: 'public', log: log.log });
  expect(log.count(MISSING)).toBe(1);
});

test('a login that may make roles makes them itself', async () => {
  const { pool } = await createShop('createrole');
  const log = recordLog();
  await migrate({ pool, sourceSchema: 'public', log: log.log });
  expect(log.count(MISSING)).toBe(0);
  expect(await rolesThere()).toBe(6);
});

test('what the owner gives others by default, or gave them by hand, is taken back', async () => {
  const { pool, superuser, logins } = await createShop();
  const [app, other] = [await logins.create([]), await logins.create([])];
  pools.push(app.pool, other.pool);
  for (const objects of ['tables', 'sequences', 'functions', 'schemas'])
    await query(pool, `alter default privileges grant all on ${objects} to ${app.name}`);
  await query(pool, `grant select on storage_bookings to ${app.name}`);
  await migrate({ pool, sourceSchema: 'public', log: testLog() });
  const given = (): Promise<unknown[]> =>
    query(
      superuser,
      `select acl.grantee::regrole::text, acl.object from (
         select (aclexplode(nspacl)).grantee, nspname::text from pg_namespace where nspname = 'market_sync'
         union all
         select (aclexplode(relacl)).grantee, oid::regclass::text from pg_class where relnamespace = 'market_sync'::regnamespace
         union all
         select (aclexplode(attacl)).grantee, attrelid::regclass || '.' || attname from pg_attribute
         union all
         select (aclexplode(proacl)).grantee, oid::regprocedure::text from pg_proc where pronamespace = 'market_sync'::regnamespace
       ) acl (grantee, object) where acl.grantee in ('${app.name}'::regrole, '${other.name}'::regrole)`,
    );
  expect(await given()).toEqual([]);
  expect(await refusalOf(app.pool, 'select * from market_sync.api_key')).toBe('42501');
  expect(await refusalOf(app.pool, 'select market_sync.pause()')).toBe('42501');
  // What the application has of its own tables stays.
  expect(
    await query(
      superuser,
      `select has_table_privilege('${app.name}', 'storage_bookings', 'select') as reads`,
    ),
  ).toEqual([{ reads: true }]);

  await query(pool, `grant usage on schema market_sync to ${app.name} with grant option`);
  await query(app.pool, `grant usage on schema market_sync to ${other.name}`);
  await query(pool, `grant select (name) on market_sync.api_key to ${other.name}`);
  expect(await given()).toHaveLength(3);
  await applyRoles(pool, testLog());
  expect(await given()).toEqual([]);
});

test('databases of one cluster that are migrated at the same moment all get their roles', async () => {
  const shops = await Promise.all([1, 2, 3, 4, 5, 6].map(() => createShop()));
  const log = recordLog();
  await Promise.all(shops.map(({ pool }) => migrate({ pool, sourceSchema: 'public', log: log.log })));
  expect(await rolesThere()).toBe(6);
  expect(log.count(MISSING)).toBe(0);
  for (const { pool } of shops) {
    const rows = await query(
      pool,
      `select has_table_privilege('market_sync_admin', 'market_sync.status', 'select') as reads,
         has_function_privilege('market_sync_admin', 'market_sync.hold(uuid[],text)', 'execute') as holds`,
    );
    expect(rows).toEqual([{ reads: true, holds: true }]);
  }
});

test('roles that another database makes at the very same moment are waited for, not stumbled over', async () => {
  const [first, second] = [await createShop(), await createShop()];
  await migrate({ pool: first.pool, sourceSchema: 'public', log: testLog() });
  await migrate({ pool: second.pool, sourceSchema: 'public', log: testLog() });
  for (const { pool } of [first, second])
    await query(
      pool,
      'drop owned by market_sync_reader, market_sync_operator, market_sync_admin, market_sync_consumer, market_sync_publisher, market_sync_api',
    );
  await dropRoles();
  const holder = await first.pool.connect();
  try {
    await holder.query('begin; create role market_sync_reader nologin; create role market_sync_api nologin');
    const applied = applyRoles(second.pool, testLog());
    await until('it waits for the other', async () => {
      const waiting = await query(
        admin,
        `select from pg_stat_activity where datname = 'shop_${databases}' and wait_event_type = 'Lock'`,
      );
      return waiting.length === 1;
    });
    await holder.query('commit');
    await applied;
  } finally {
    holder.release();
  }
  expect(await rolesThere()).toBe(6);
});

test('a source schema in which every login may create is warned of', async () => {
  const { pool } = await createShop();
  const log = recordLog();
  await migrate({ pool, sourceSchema: 'public', log: log.log });
  expect(log.count('every login may create objects in the source schema')).toBe(0);
  await query(pool, 'grant create on schema public to public');
  await migrate({ pool, sourceSchema: 'public', log: log.log });
  expect(log.last('every login may create objects in the source schema')).toEqual({
    remedy: 'revoke create on schema public from public',
  });
});

test("pg-boss's tables of another login are refused by name, before anything depends on them", async () => {
  const { pool, superuser } = await createShop('nocreaterole');
  await query(superuser, 'create schema pgboss');
  const error = await migrate({ pool, sourceSchema: 'public', log: testLog() }).catch(
    (reason: unknown) => reason,
  );
  expect(error).toBeInstanceOf(EnvironmentError);
  expect((error as Error).message).toMatch(/^DATABASE_URL: the schema pgboss belongs to postgres/);
});

test("a view in the place of pg-boss's tables is not read with the rights of the owner", async () => {
  const { pool, superuser, logins } = await createShop();
  await migrate({ pool, sourceSchema: 'public', log: testLog() });
  expect(await query(pool, 'select pg_boss_version is not null as known from market_sync.status')).toEqual([
    { known: true },
  ]);
  const intruder = await logins.create(['market_sync_reader']);
  pools.push(intruder.pool);
  await query(
    superuser,
    `drop schema pgboss cascade; create schema pgboss authorization ${intruder.name};
     create table public.seen (by text); grant insert on seen to public`,
  );
  await query(
    intruder.pool,
    `create function pgboss.spy() returns text language sql as $$ insert into public.seen values (current_user) returning by $$;
     create view pgboss.job as
       select gen_random_uuid() as id, pgboss.spy() as name, 'active' as state, now() as created_on, now() as started_on,
         now() as completed_on, 0 as retry_count, '{}'::jsonb as data, '{}'::jsonb as output;
     create table pgboss.schedule (name text, cron text, timezone text)`,
  );
  expect(await query(intruder.pool, 'select * from market_sync.jobs')).toEqual([]);
  expect(await query(intruder.pool, 'select * from market_sync.schedules')).toEqual([]);
  expect(await query(superuser, 'select by from seen')).toEqual([]);
});

test('no view keeps pg-boss from altering or dropping its tables', async () => {
  const { pool } = await createShop();
  await migrate({ pool, sourceSchema: 'public', log: testLog() });
  const client = new pg.Client({ connectionString: cluster.url(`shop_${databases}`) });
  await client.connect();
  try {
    await client.query('alter table pgboss.job alter column priority type bigint');
    expect((await client.query('select * from market_sync.jobs')).rows).toEqual([]);
    await client.query('drop schema pgboss cascade');
    expect((await client.query('select * from market_sync.jobs')).rows).toEqual([]);
    expect((await client.query('select * from market_sync.schedules')).rows).toEqual([]);
    expect((await client.query('select pg_boss_version from market_sync.status')).rows).toEqual([
      { pg_boss_version: null },
    ]);
  } finally {
    await client.end();
  }
  // What was dropped is made again, and granted.
  expect(await migrate({ pool, sourceSchema: 'public', log: testLog() })).toEqual([]);
  expect(
    await query(
      pool,
      `select has_table_privilege('market_sync_consumer', 'pgboss.job', 'insert') as granted`,
    ),
  ).toEqual([{ granted: true }]);
});
