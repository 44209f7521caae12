import { afterAll, beforeAll, expect, test } from 'vitest';
import type { ExamineInput } from '../../src/doctor/examination.ts';
import { findCheck, type Patient, SLOT, splitRemedy, startPatient } from './patient.ts';

let patient: Patient;
beforeAll(async () => {
  patient = await startPatient({ installed: true });
});
afterAll(() => patient.stop());

const limits = (values: ExamineInput['limits']): Partial<ExamineInput> => ({ limits: values ?? {} });

interface Breakage {
  check: string;
  status: 'warning' | 'failure';
  /** What breaks it. */
  sql: string[];
  /** Words of what is found. */
  says: RegExp;
  /** Statements where the remedy is none that SQL can run; without them the remedy itself must mend it. */
  mend?: string[];
  /** What must be removed after it is mended. */
  clean?: string[];
  /** Other checks that the same breakage must show. */
  also?: Record<string, string>;
  overrides?: Partial<ExamineInput>;
}

const reloading = (...settings: string[]): string[] => [
  ...settings.map((setting) => `alter system set ${setting}`),
  'select pg_reload_conf()',
];

const MAKE_SLOT = `select pg_create_logical_replication_slot('${SLOT}', 'pgoutput')`;
const DROP_SLOT = `select pg_drop_replication_slot('${SLOT}')`;
/** As after a first start. */
const BEGIN = `update market_sync.checkpoint set commit_lsn = pg_current_wal_lsn(), slot_name = '${SLOT}', timeline = 1,
  system_identifier = (select system_identifier::text from pg_control_system())`;
const UNBEGIN =
  'update market_sync.checkpoint set commit_lsn = null, slot_name = null, timeline = null, system_identifier = null';
const LAST = '(select max(number) from market_sync.migrations)';

const BREAKAGES: Record<string, Breakage> = {
  'a limit of WAL for slots that is not set': {
    check: 'slot_wal_limit',
    status: 'warning',
    sql: reloading('max_slot_wal_keep_size = -1'),
    says: /fills the disk/,
  },
  'a timeout of idle slots': {
    check: 'idle_slot_timeout',
    status: 'warning',
    sql: reloading(`idle_replication_slot_timeout = '1h'`),
    says: /given up after 60 min/,
  },
  'WAL senders that wait for ever': {
    check: 'wal_sender_timeout',
    status: 'warning',
    sql: reloading('wal_sender_timeout = 0'),
    says: /stays taken/,
  },
  'WAL senders that wait for a second': {
    check: 'wal_sender_timeout',
    status: 'warning',
    sql: reloading(`wal_sender_timeout = '1s'`),
    says: /1000 ms/,
  },
  'commits of a database that do not wait for the disk': {
    check: 'synchronous_commit',
    status: 'warning',
    sql: ['alter database postgres set synchronous_commit = off'],
    says: /off for database postgres/,
  },
  'commits of a login that do not wait for the disk': {
    check: 'synchronous_commit',
    status: 'warning',
    sql: ['create role "Late One" login', 'alter role "Late One" set synchronous_commit = off'],
    says: /off for role Late One/,
    clean: ['drop role "Late One"'],
  },
  'commits of a server that do not wait for the disk': {
    check: 'synchronous_commit',
    status: 'warning',
    sql: reloading('synchronous_commit = off'),
    says: /off for the server/,
  },
  'pages that are not written in full': {
    check: 'durability',
    status: 'warning',
    sql: reloading('full_page_writes = off'),
    says: /full_page_writes off/,
  },
  'a prepared transaction, and no slot yet': {
    check: 'open_transactions',
    status: 'warning',
    sql: [`begin; select pg_current_xact_id(); prepare transaction 'it''s left'`],
    says: /prepared transaction 'it''s left', open for .* a new slot waits/,
    overrides: limits({ openTransactionSeconds: 0 }),
  },
  'a disk that is nearly full': {
    check: 'disk_free',
    status: 'warning',
    sql: [],
    says: /free of/,
    mend: [],
    overrides: limits({ diskFreeBytes: Number.MAX_SAFE_INTEGER }),
  },
  'a source table that is missing': {
    check: 'source_tables',
    status: 'failure',
    sql: ['alter table crop_inspections rename to inspections_of_crops'],
    says: /crop_inspections/,
    mend: ['alter table inspections_of_crops rename to crop_inspections'],
    also: { capture_triggers: 'failure' },
  },
  'a column that was renamed': {
    check: 'source_columns',
    status: 'failure',
    sql: ['alter table storage_bookings rename column quantity_kg to "Kilos"'],
    says: /storage_bookings\.quantity_kg \(renamed to Kilos\?\)/,
  },
  'a column that is gone': {
    check: 'source_columns',
    status: 'failure',
    sql: ['alter table sensor_readings drop column reading_unit'],
    says: /missing: sensor_readings\.reading_unit\./,
  },
  'a column of another type': {
    check: 'source_types',
    status: 'failure',
    sql: ['alter table sensor_readings alter column reading_value type text'],
    says: /sensor_readings\.reading_value is text/,
  },
  'a time without a zone': {
    check: 'source_types',
    status: 'failure',
    sql: ['alter table storage_bookings alter column end_date type timestamp'],
    says: /storage_bookings\.end_date is timestamp without time zone/,
  },
  'bookings without an identity': {
    check: 'booking_identity',
    status: 'failure',
    sql: ['alter table storage_bookings replica identity nothing'],
    says: /updates and deletes fail/,
    also: { published_identity: 'failure' },
  },
  'a table in a publication without an identity': {
    check: 'published_identity',
    status: 'failure',
    sql: ['create table "Odd One" (a int)', 'create publication odd for table "Odd One"'],
    says: /"Odd One" \(in odd\)/,
    clean: ['drop publication odd', 'drop table "Odd One"'],
  },
  'a table that inherits': {
    check: 'inheritance',
    status: 'warning',
    sql: ['create table old_readings () inherits (sensor_readings)'],
    says: /old_readings inherits from sensor_readings/,
    clean: ['drop table old_readings'],
  },
  'a rule': {
    check: 'rules',
    status: 'warning',
    sql: ['create rule aside as on insert to pest_detections do also select 1'],
    says: /aside on pest_detections/,
    clean: ['drop rule aside on pest_detections'],
  },
  'a subscription that writes readings': {
    check: 'subscriptions',
    status: 'warning',
    sql: [
      `create subscription farms connection 'dbname=elsewhere' publication farms with (connect = false, slot_name = none)`,
      `update pg_subscription set subenabled = true where subname = 'farms'`,
      `insert into pg_subscription_rel select oid, 'sensor_readings'::regclass, 'r', null from pg_subscription where subname = 'farms'`,
    ],
    says: /farms \(sensor_readings\): apply workers do not fire statement triggers/,
    clean: ['drop subscription farms'],
  },
  "somebody's slot that nobody streams from": {
    check: 'other_slots',
    status: 'warning',
    sql: [`select pg_create_physical_replication_slot('forgotten', true)`],
    says: /forgotten/,
    overrides: limits({ idleSlotBytes: 0 }),
  },
  'an index that was dropped': {
    check: 'source_indexes',
    status: 'warning',
    sql: ['drop index market_sync_live_of_vendor'],
    says: /market_sync_live_of_vendor on public\.storage_bookings/,
  },
  'an index that a failed build left behind': {
    check: 'invalid_indexes',
    status: 'warning',
    sql: [`update pg_index set indisvalid = false where indexrelid = 'market_sync_latest_reading'::regclass`],
    says: /market_sync_latest_reading/,
  },
  'a migration that is missing': {
    check: 'migrations',
    status: 'failure',
    sql: [
      `create table kept as select * from market_sync.migrations where number = ${LAST}`,
      `delete from market_sync.migrations where number = ${LAST}`,
    ],
    says: /^1 are missing/,
    mend: ['insert into market_sync.migrations select * from kept', 'drop table kept'],
  },
  'a migration that was edited': {
    check: 'migrations',
    status: 'failure',
    sql: [`update market_sync.migrations set checksum = checksum || 'x' where number = 2`],
    says: /002_create_capture\.sql was applied with another content/,
    mend: [`update market_sync.migrations set checksum = rtrim(checksum, 'x') where number = 2`],
  },
  'a trigger that was dropped': {
    check: 'capture_triggers',
    status: 'failure',
    sql: ['drop trigger market_sync_update on iot_sensors'],
    says: /trigger market_sync_update on iot_sensors/,
  },
  'a trigger that is disabled': {
    check: 'capture_triggers',
    status: 'failure',
    sql: ['alter table sensor_readings disable trigger market_sync_insert'],
    says: /trigger market_sync_insert on sensor_readings/,
  },
  'a trigger in the wrong mode': {
    check: 'capture_triggers',
    status: 'failure',
    sql: ['alter table sensor_readings enable trigger market_sync_delete'],
    says: /trigger market_sync_delete on sensor_readings/,
  },
  'a publication that was dropped': {
    check: 'publication',
    status: 'failure',
    sql: ['drop publication market_sync'],
    says: /publication market_sync/,
  },
  'a publication without bookings': {
    check: 'publication',
    status: 'failure',
    sql: ['alter publication market_sync drop table storage_bookings'],
    says: /storage_bookings in publication/,
  },
  'a publication of inserts only': {
    check: 'publication',
    status: 'failure',
    sql: [`alter publication market_sync set (publish = 'insert')`],
    says: /kinds of change/,
  },
  'a publication of some rows': {
    check: 'publication',
    status: 'failure',
    sql: [`alter publication market_sync set table storage_bookings where (id is not null)`],
    says: /filters out/,
  },
  'a publication of some columns': {
    check: 'publication',
    status: 'warning',
    sql: ['alter publication market_sync set table storage_bookings (id)'],
    says: /column list/,
  },
  'a publication without the key': {
    check: 'publication',
    status: 'failure',
    sql: ['alter publication market_sync set table storage_bookings (quantity_kg)'],
    says: /leaves the id of bookings out/,
  },
  'a table of ours that is gone': {
    check: 'own_tables',
    status: 'failure',
    sql: ['alter table market_sync.resync rename to hidden'],
    says: /table market_sync\.resync/,
    mend: ['alter table market_sync.hidden rename to resync'],
  },
  "pg-boss's tables of an older version": {
    check: 'queue_tables',
    status: 'failure',
    sql: ['update pgboss.version set version = version - 1'],
    says: /the program needs/,
    mend: ['update pgboss.version set version = version + 1'],
  },
  'a right that was revoked': {
    check: 'roles',
    status: 'warning',
    sql: ['revoke execute on function market_sync.renew_consumer from market_sync_consumer'],
    says: /execute on market_sync\.renew_consumer to market_sync_consumer/,
    mend: ['grant execute on function market_sync.renew_consumer to market_sync_consumer'],
  },
  'a right to a column that was revoked': {
    check: 'roles',
    status: 'warning',
    sql: ['revoke update (last_used_at) on market_sync.api_key from market_sync_api'],
    says: /update on market_sync\.api_key to market_sync_api/,
    mend: ['grant update (last_used_at) on market_sync.api_key to market_sync_api'],
  },
  'an operator who is no reader': {
    check: 'roles',
    status: 'warning',
    sql: ['revoke market_sync_reader from market_sync_operator'],
    says: /apart/,
  },
  'a role that is gone': {
    check: 'roles',
    status: 'warning',
    sql: ['alter role market_sync_api rename to hidden'],
    says: /missing/,
    mend: ['alter role hidden rename to market_sync_api'],
  },
  'a slot of that name for standbys': {
    check: 'slot_owner',
    status: 'failure',
    sql: [`select pg_create_physical_replication_slot('${SLOT}')`],
    says: /plugin \(physical\)/,
    mend: [DROP_SLOT],
  },
  'a slot that nobody streams from': {
    check: 'slot',
    status: 'warning',
    sql: [MAKE_SLOT, BEGIN],
    says: /nobody streams from it/,
    mend: [UNBEGIN, DROP_SLOT],
  },
  'a slot that is gone': {
    check: 'slot',
    status: 'failure',
    sql: [BEGIN],
    says: /gone/,
    mend: [UNBEGIN],
    also: { checkpoint: 'warning' },
  },
  'a checkpoint of another cluster': {
    check: 'checkpoint',
    status: 'warning',
    sql: [MAKE_SLOT, BEGIN, `update market_sync.checkpoint set system_identifier = '1'`],
    says: /another PostgreSQL cluster/,
    mend: [UNBEGIN, DROP_SLOT],
    also: { slot: 'warning' },
  },
  'a checkpoint of another timeline': {
    check: 'checkpoint',
    status: 'warning',
    sql: [MAKE_SLOT, BEGIN, 'update market_sync.checkpoint set timeline = 7'],
    says: /timeline 7/,
    mend: [UNBEGIN, DROP_SLOT],
    also: { slot: 'warning' },
  },
  'a clock that is an hour behind': {
    check: 'clock_skew',
    status: 'warning',
    sql: [],
    says: /PostgreSQL is 3600\.\d s ahead of this machine/,
    mend: [],
    overrides: { now: () => Date.now() - 3_600_000 },
  },
};
test('all is well with a patient that is well', async () => {
  const report = await patient.examineUntil({});
  expect(report).toMatchObject({ ok: true, exit_code: 0 });
  for (const { found } of report.checks) expect(found).not.toBe('');
});

test.each(Object.entries(BREAKAGES))('the doctor finds %s, and its remedy mends it', async (_, breakage) => {
  const { check, status, sql, says, mend, clean = [], also = {}, overrides } = breakage;
  await patient.run(sql);
  const report = await patient.examineUntil({ [check]: status, ...also }, overrides);
  const { found, remedy = '' } = findCheck(report, check);
  expect(found).toMatch(says);
  expect(remedy).not.toBe('');
  await patient.run(mend ?? splitRemedy(remedy));
  await patient.examineUntil({});
  await patient.run(clean);
});
