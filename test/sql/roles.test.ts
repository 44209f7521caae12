import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { query } from '../../src/postgres.ts';
import { applyRoles } from '../../src/roles.ts';
import { testLog } from '../support/pipeline.ts';
import { createDatabase, type TestDatabase } from '../support/postgres.ts';

// Who may do what, decided here and compared with the catalog both ways: an object without a line here fails, and so
// does a line without an object. An empty line says that nobody but the owner may.

const ROLES = ['reader', 'operator', 'admin', 'consumer', 'publisher', 'api'] as const;
type Role = (typeof ROLES)[number];

const NOBODY = '';
const LOOK = 'reader operator admin api';
const OPERATE = 'operator admin api';

const FUNCTIONS: Record<string, string> = {
  // Looked at through views, which run functions with the rights of whoever looks.
  'judge_slot(boolean,boolean,text,numeric,numeric,numeric)': 'reader operator admin consumer api',
  'latency_bound(integer)': LOOK,
  'read_jobs()': LOOK,
  'read_schedules()': LOOK,
  'pg_boss_version()': LOOK,
  'current_rate(text,timestamp with time zone,double precision)': 'reader operator admin consumer api',
  'time_left(bigint,double precision)': 'reader operator admin consumer api',
  'iso(timestamp with time zone)': LOOK,
  // What people do.
  'reconcile(uuid[])': OPERATE,
  'publish_now(uuid[])': OPERATE,
  'retry_parked(uuid[])': OPERATE,
  'hold(uuid[],text)': OPERATE,
  'release(uuid[],text)': OPERATE,
  'withdraw(uuid[],text)': OPERATE,
  'set_override(uuid,text,text,numeric,text,text,text,timestamp with time zone,bigint)': OPERATE,
  'end_override(uuid,text,bigint)': OPERATE,
  'trace_latency(uuid,interval)': 'operator admin',
  'pause(text)': 'admin api',
  'resume()': 'admin api',
  'resync(text)': 'admin api',
  'audit(text,text)': 'admin api',
  'backfill(text)': 'admin api',
  'cancel_task(uuid,text)': 'admin api',
  'record_action(text,uuid[],text,jsonb)': 'api',
  // What the pipeline does.
  'acquire_consumer(text,text,interval)': 'consumer',
  'renew_consumer(bigint,interval,timestamp with time zone)': 'consumer',
  'release_consumer(bigint)': 'consumer',
  'follow_timeline(bigint,integer)': 'consumer',
  'begin_history(bigint,text,text,integer,pg_lsn,boolean,integer,text)': 'consumer',
  'reconcile_batch(bigint,pg_lsn,bigint[],uuid[],uuid[],uuid[],uuid[],uuid[],integer,interval,timestamp with time zone,text,timestamp with time zone,double precision,text,interval)':
    'consumer',
  'reconcile_and_claim(uuid[],timestamp with time zone,timestamp with time zone,bigint,text,interval)':
    'consumer',
  'let_slot_advance()': 'consumer',
  'reconcile_bookings(uuid[],timestamp with time zone,timestamp with time zone)': 'consumer api',
  'resync_chunk(integer,timestamp with time zone)': 'consumer',
  'request_resync(text)': 'consumer',
  'request_audit(text,text,text,text)': 'consumer',
  'audit_keys(uuid,integer)': 'consumer',
  'audit_snapshots(uuid[],timestamp with time zone)': 'consumer',
  'repair_snapshots(uuid[],bigint[],text[],timestamp with time zone)': 'consumer',
  'mark_stream()': 'consumer',
  'claim_expired(timestamp with time zone,interval,integer)': 'consumer',
  'delete_ended(uuid[],bigint[])': 'consumer',
  'fold_measurements()': 'consumer',
  'note_source_shape(bigint,text,text)': 'consumer',
  'capture_partition(regclass)': 'consumer',
  'compare_partitions()': 'consumer',
  'list_partitions()': 'reader operator admin consumer api',
  'is_paused()': 'consumer publisher api',
  'release_claims(text,uuid[])': 'consumer publisher api',
  'claim_listings(text,interval,integer,uuid[],text)': 'publisher api',
  'claim_snapshots(text,interval,integer,uuid[],text)': 'publisher api',
  'mark_published(uuid[],integer[],bigint[],text[],text[],double precision)': 'publisher api',
  'live_work()': 'consumer',
  'source_writes()': 'consumer',
  'count_grown_tables()': 'consumer',
  'record_failure(uuid,text,interval,integer,integer,bigint)': 'publisher api',
  'find_unknown_versions(uuid[],integer[],bigint[],text[])': 'publisher api',
  'cut_unless_known(uuid[],integer[],bigint[],text[],text,integer)': 'publisher api',
  // What only these functions call.
  'all_visible(bigint[])': NOBODY,
  'audit_look(uuid[],timestamp with time zone)': NOBODY,
  'capture_compliance_certificates()': NOBODY,
  'capture_crop_inspections()': NOBODY,
  'capture_iot_sensors()': NOBODY,
  'capture_pest_detections()': NOBODY,
  'capture_sensor_readings()': NOBODY,
  'capture_storage_certificates()': NOBODY,
  'claim_bookings(text,interval,integer,uuid[],text)': NOBODY,
  'cut_history(text,integer)': NOBODY,
  'few_ids(uuid[])': NOBODY,
  'enforce_manual_state(uuid[])': NOBODY,
  'earlier_action()': NOBODY,
  'lock_by_hand()': NOBODY,
  'named_actor()': NOBODY,
  'ask_for_recompute(uuid[])': NOBODY,
  'ask_for_sensors(timestamp with time zone,timestamp with time zone,boolean)': NOBODY,
  'reconcile(uuid[],timestamp with time zone)': NOBODY,
  'reconcile_by_hand(uuid[])': NOBODY,
  'find_pgboss_table(text)': NOBODY,
  'finite(double precision)': NOBODY,
  'iso(date)': NOBODY,
  'lock_reconcile()': NOBODY,
  'may_name_actor()': NOBODY,
  'ms_between(timestamp with time zone,timestamp with time zone)': NOBODY,
  'note_advance()': NOBODY,
  'note_background()': NOBODY,
  'recompute(uuid[],timestamp with time zone,timestamp with time zone,text,interval)': NOBODY,
  'record_activity(text,bigint,bigint,bigint,double precision)': NOBODY,
  'record_latency(text,double precision[],bigint)': NOBODY,
  'require_bookings(uuid[])': NOBODY,
  'require_on_market(uuid[],boolean)': NOBODY,
  'require_override_version(uuid,bigint)': NOBODY,
  'require_reason(text)': NOBODY,
  'resolve_keys(uuid[],uuid[],uuid[],uuid[],uuid[])': NOBODY,
  'shown(timestamp with time zone)': NOBODY,
  'distinct_ids(uuid[])': NOBODY,
  'snapshot_metadata(boolean,text[],boolean,text,text,text)': NOBODY,
  'take_off_market(text,uuid[],text)': NOBODY,
};

type Privileges = Partial<Record<Role, string>>;

const VIEW: Privileges = { reader: 'select', operator: 'select', admin: 'select', api: 'select' };
const EVERYBODY: Privileges = { ...VIEW, consumer: 'select', publisher: 'select' };

const RELATIONS: Record<string, Privileges> = {
  market_inventory_snapshots: { ...VIEW, consumer: 'select (booking_id)', publisher: 'select' },
  // Views.
  audit_log: VIEW,
  audits: VIEW,
  backfills: VIEW,
  drift: VIEW,
  drift_findings: VIEW,
  held: VIEW,
  jobs: VIEW,
  latency: VIEW,
  overrides: VIEW,
  parked: VIEW,
  partitions: { ...VIEW, consumer: 'select' },
  queue: VIEW,
  revisions: VIEW,
  schedules: VIEW,
  slot_health: { ...VIEW, consumer: 'select' },
  status: VIEW,
  throughput: VIEW,
  // Tables.
  activity: { api: 'select' },
  api_key: { api: 'select, update (last_used_at)' },
  audit_run: { consumer: 'select, update, delete' },
  checkpoint: {
    consumer: 'select, update (malformed_messages)',
    publisher: 'select, update (history_checked_for)',
    api: 'select, update (history_checked_for)',
  },
  drift_check: { publisher: 'insert' },
  finding: { consumer: 'select, insert, update, delete' },
  finding_count: { consumer: 'select, insert, update, delete' },
  idempotency: {
    consumer: 'select (caller, created_at, key, lease_until), update (lease_until), delete',
    api: 'select, insert, update, delete',
  },
  latency_histogram: { api: 'select' },
  latency_trace: VIEW,
  manual_action: {},
  manual_state: { api: 'select' },
  migrations: EVERYBODY,
  override: { api: 'select' },
  resync: { consumer: 'select, update (finished_at, phase)', api: 'select' },
  revision: { api: 'select' },
  settings: { consumer: 'select, update (pest_window, publish_interval, retention, sensor_stale_after)' },
  source_partition: {},
  snapshot_state: { consumer: 'select', publisher: 'select', api: 'select' },
  traced: {},
  task: { consumer: 'select, update, delete', api: 'select, insert, update' },
};

/** Identity columns draw from these by themselves; nobody else does. */
const SEQUENCES = [
  'audit_run_id_seq',
  'drift_check_id_seq',
  'finding_id_seq',
  'latency_trace_id_seq',
  'manual_action_id_seq',
  'override_version_seq',
  'resync_id_seq',
];

let database: TestDatabase;
beforeAll(async () => {
  database = await createDatabase({ template: 'migrated' });
});
afterAll(() => database?.drop());

test('every function may be called by the roles that were decided on, and by nobody else', async () => {
  const rows = await query<{ name: string; roles: string }>(
    database.pool,
    `select replace(p.oid::regprocedure::text, 'market_sync.', '') as name,
       coalesce(string_agg(r.role, ' ' order by r.place)
         filter (where has_function_privilege('market_sync_' || r.role, p.oid, 'execute')), '') as roles
     from pg_proc p cross join unnest($1::text[]) with ordinality r (role, place)
     where p.pronamespace = 'market_sync'::regnamespace group by p.oid`,
    [ROLES],
  );
  expect(Object.fromEntries(rows.map(({ name, roles }) => [name, roles]))).toEqual(FUNCTIONS);
});

test('every table and view may be read and written by the roles that were decided on, and by nobody else', async () => {
  const rows = await query<{ name: string; role: Role; privileges: string | null }>(
    database.pool,
    `with held as (
       select c.relname as name, c.oid, r.role, k.kind, k.place,
         has_table_privilege('market_sync_' || r.role, c.oid, k.kind) as whole,
         (select string_agg(a.attname, ', ' order by a.attname) from pg_attribute a
          where a.attrelid = c.oid and a.attnum > 0 and not a.attisdropped and k.place <= 3
            and has_column_privilege('market_sync_' || r.role, c.oid, a.attnum, case when k.place <= 3 then k.kind else 'select' end)
         ) as columns
       from pg_class c
       cross join unnest($1::text[]) r (role)
       cross join unnest(array['select', 'insert', 'update', 'delete', 'truncate', 'references', 'trigger'])
         with ordinality k (kind, place)
       where c.relkind not in ('S', 'i', 'I', 'c', 't')
         and (c.relnamespace = 'market_sync'::regnamespace or c.oid = 'market_inventory_snapshots'::regclass))
     select name, role, string_agg(case when whole then kind else kind || ' (' || columns || ')' end, ', ' order by place)
       filter (where whole or columns is not null) as privileges
     from held group by name, role`,
    [ROLES],
  );
  const found: Record<string, Privileges> = {};
  for (const { name, role, privileges } of rows) {
    found[name] = { ...found[name], ...(privileges === null ? {} : { [role]: privileges }) };
  }
  expect(found).toEqual(RELATIONS);
});

test('no role draws from a sequence, or creates anything', async () => {
  const sequences = await query<{ name: string; used: boolean }>(
    database.pool,
    `select c.relname as name, bool_or(has_sequence_privilege('market_sync_' || r.role, c.oid, 'usage, select, update')) as used
     from pg_class c cross join unnest($1::text[]) r (role)
     where c.relnamespace = 'market_sync'::regnamespace and c.relkind = 'S' group by c.relname order by 1`,
    [ROLES],
  );
  expect(sequences).toEqual(SEQUENCES.map((name) => ({ name, used: false })));
  const schemas = await query<{ name: string; role: Role; usage: boolean; creates: boolean }>(
    database.pool,
    `select n.nspname as name, r.role, has_schema_privilege('market_sync_' || r.role, n.oid, 'usage') as usage,
       has_schema_privilege('market_sync_' || r.role, n.oid, 'create') as creates
     from pg_namespace n cross join unnest($1::text[]) r (role) where n.nspname in ('market_sync', 'pgboss')`,
    [ROLES],
  );
  expect(schemas.filter(({ creates }) => creates)).toEqual([]);
  const used = schemas.filter(({ usage }) => usage).map(({ name, role }) => `${name} ${role}`);
  expect(used.toSorted()).toEqual(
    [...ROLES.map((role) => `market_sync ${role}`), 'pgboss api', 'pgboss consumer'].toSorted(),
  );
});

test('nothing of ours is granted to public', async () => {
  const rows = await query<{ name: string }>(
    database.pool,
    `with acl (name, grantee) as (
       select 'schema ' || n.nspname, (aclexplode(n.nspacl)).grantee from pg_namespace n
       where n.nspname in ('market_sync', 'pgboss')
       union all
       select c.oid::regclass::text, (aclexplode(c.relacl)).grantee from pg_class c
       where c.relnamespace in ('market_sync'::regnamespace, 'pgboss'::regnamespace) or c.oid = 'market_inventory_snapshots'::regclass
       union all
       select a.attrelid::regclass || '.' || a.attname, (aclexplode(a.attacl)).grantee from pg_attribute a
       join pg_class c on c.oid = a.attrelid where c.relnamespace = 'market_sync'::regnamespace
       union all
       select p.oid::regprocedure::text, (aclexplode(coalesce(p.proacl, acldefault('f', p.proowner)))).grantee from pg_proc p
       where p.pronamespace = 'market_sync'::regnamespace)
     select name from acl where grantee = 0`,
  );
  expect(rows).toEqual([]);
});

test('what runs with the rights of its owner has its search path pinned, the temporary schema last', async () => {
  const rows = await query<{ name: string; writes: boolean; path: string | null }>(
    database.pool,
    `select p.oid::regprocedure::text as name, setting.path
     from pg_proc p
     left join lateral (
       select substr(entry, 13) as path from unnest(p.proconfig) entry where entry like 'search_path=%') setting on true
     where p.pronamespace = 'market_sync'::regnamespace and p.prosecdef`,
  );
  expect(rows.length).toBeGreaterThan(25);
  expect(rows.filter(({ path }) => path !== 'public, pg_temp')).toEqual([]);
});

test('whatever a role may call and writes runs with the rights of its owner', async () => {
  const READS = [
    'judge_slot',
    'latency_bound',
    'current_rate',
    'time_left',
    'iso',
    'is_paused',
    'list_partitions',
    'find_unknown_versions', // What it reads, its callers may read.
  ];
  const rows = await query<{ name: string }>(
    database.pool,
    `select distinct p.proname as name from pg_proc p cross join unnest($1::text[]) r (role)
     where p.pronamespace = 'market_sync'::regnamespace and not p.prosecdef
       and has_function_privilege('market_sync_' || r.role, p.oid, 'execute')`,
    [ROLES],
  );
  expect(rows.map(({ name }) => name).toSorted()).toEqual(READS.toSorted());
});

test('the roles are groups: without login or special rights, and each a member of the ones below it only', async () => {
  const rows = await query<{ name: string; plain: boolean; of: string[] | null }>(
    database.pool,
    `select r.rolname as name,
       not (rolsuper or rolcanlogin or rolcreaterole or rolcreatedb or rolreplication or rolbypassrls) as plain,
       (select array_agg(g.rolname::text) from pg_auth_members m join pg_roles g on g.oid = m.roleid where m.member = r.oid) as of
     from pg_roles r where rolname like 'market\\_sync\\_%' order by 1`,
  );
  expect(rows).toEqual([
    { name: 'market_sync_admin', plain: true, of: ['market_sync_operator'] },
    { name: 'market_sync_api', plain: true, of: null },
    { name: 'market_sync_consumer', plain: true, of: null },
    { name: 'market_sync_operator', plain: true, of: ['market_sync_reader'] },
    { name: 'market_sync_publisher', plain: true, of: null },
    { name: 'market_sync_reader', plain: true, of: null },
  ]);
});

const describeRights = (): Promise<unknown[]> =>
  query(
    database.pool,
    `select oid::regclass::text as name, array(select unnest(relacl)::text order by 1) as acl from pg_class
     where relnamespace in ('market_sync'::regnamespace, 'pgboss'::regnamespace, 'public'::regnamespace)
     union all
     select oid::regprocedure::text, array(select unnest(proacl)::text order by 1) from pg_proc
     where pronamespace = 'market_sync'::regnamespace
     order by 1`,
  );

test('applied again, roles.sql changes nothing, and takes back what somebody has granted beyond it', async () => {
  const before = await describeRights();
  await applyRoles(database.pool, testLog());
  expect(await describeRights()).toEqual(before);
  await query(
    database.pool,
    `grant all on market_sync.api_key to market_sync_reader;
     grant execute on function market_sync.cut_history to public;
     grant select on market_sync.manual_action to public`,
  );
  expect(await describeRights()).not.toEqual(before);
  await applyRoles(database.pool, testLog());
  expect(await describeRights()).toEqual(before);
});

test('roles.sql names every role of the matrix, and no other', () => {
  const sql = readFileSync(join(import.meta.dirname, '..', '..', 'sql', 'roles.sql'), 'utf8');
  const named = new Set(sql.match(/market_sync_(reader|operator|admin|consumer|publisher|api)\b/g));
  expect([...named].toSorted()).toEqual(ROLES.map((role) => `market_sync_${role}`).toSorted());
});
