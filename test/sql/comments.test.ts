import { afterAll, beforeAll, expect, test } from 'vitest';
import { query } from '../../src/postgres.ts';
import { createDatabase, type TestDatabase } from '../support/postgres.ts';

let database: TestDatabase;
beforeAll(async () => {
  database = await createDatabase({ template: 'migrated' });
});
afterAll(() => database?.drop());

test('every table, view, function, trigger and publication that a DBA meets says what it is for', async () => {
  const silent = await query<{ name: string }>(
    database.pool,
    `select 'schema market_sync' as name where obj_description('market_sync'::regnamespace, 'pg_namespace') is null
     union all
     select case relkind when 'v' then 'view ' else 'table ' end || oid::regclass from pg_class
     where (relnamespace = 'market_sync'::regnamespace and relkind in ('r', 'p', 'v', 'm', 'f')
         or oid = 'market_inventory_snapshots'::regclass)
       and obj_description(oid, 'pg_class') is null
     union all
     select 'function ' || oid::regprocedure from pg_proc
     where pronamespace = 'market_sync'::regnamespace and obj_description(oid, 'pg_proc') is null
     union all
     select 'trigger ' || t.tgname from pg_trigger t join pg_class c on c.oid = t.tgrelid
     where c.relnamespace = 'market_sync'::regnamespace and not t.tgisinternal and obj_description(t.oid, 'pg_trigger') is null
     union all
     select 'publication ' || pubname from pg_publication where obj_description(oid, 'pg_publication') is null
     union all
     select 'role ' || rolname from pg_roles where rolname like 'market\\_sync\\_%' and shobj_description(oid, 'pg_authid') is null
     order by 1`,
  );
  expect(silent.map(({ name }) => name)).toEqual([]);
});

/** Columns whose name and view say all there is to say. */
const SELF_EVIDENT: Record<string, string[]> = {
  audit_log: ['id', 'at', 'action', 'reason', 'details'],
  audits: ['id', 'reason', 'requested_by', 'requested_at', 'started_at', 'finished_at'],
  backfills: ['id', 'requested_by', 'requested_at', 'started_at', 'finished_at'],
  drift: ['started_at', 'finished_at', 'outcome'],
  drift_findings: ['audit_id', 'started_at', 'booking_id', 'repaired', 'found_at'],
  held: ['booking_id', 'state', 'reason', 'actor'],
  jobs: ['id', 'queue', 'created_at', 'started_at', 'finished_at', 'input'],
  latency: ['p50_ms', 'p95_ms', 'p99_ms', 'max_ms'],
  overrides: [
    'booking_id',
    'grade',
    'quality_score',
    'freshness',
    'visual_defects',
    'special_notes',
    'reason',
    'actor',
    'set_at',
  ],
  parked: ['booking_id', 'stage', 'error', 'attempts', 'first_failed_at', 'last_failed_at', 'parked_at'],
  queue: ['count', 'oldest_age'],
  revisions: ['booking_id', 'epoch', 'revision', 'at', 'status'],
  schedules: ['queue', 'timezone'],
  slot_health: ['slot_name', 'active', 'restart_lsn'],
  status: [
    'paused_by',
    'pause_reason',
    'slot_name',
    'slot_active',
    'slot_active_pid',
    'wal_status',
    'retained_wal_bytes',
    'safe_wal_bytes',
    'advanced_at',
    'parked',
    'held',
    'due_for_refresh',
    'resync_id',
    'resync_phase',
    'resync_bookings_done',
    'resync_requested_at',
    'postgres_version',
    'pg_boss_version',
  ],
  throughput: ['minute'],
};

test('every column of a view says what it is, or its name does', async () => {
  const silent = await query<{ view: string; columns: string[] }>(
    database.pool,
    `select c.relname as view, array_agg(a.attname::text order by a.attnum) as columns
     from pg_class c join pg_attribute a on a.attrelid = c.oid and a.attnum > 0
     where c.relnamespace = 'market_sync'::regnamespace and c.relkind = 'v' and col_description(c.oid, a.attnum) is null
     group by c.relname`,
  );
  expect(Object.fromEntries(silent.map(({ view, columns }) => [view, columns]))).toEqual(SELF_EVIDENT);
});
