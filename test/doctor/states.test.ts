import { chown, stat, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import pg from 'pg';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { applyStorageGuardTables } from '../../src/embedded/storage-guard.ts';
import { createPool, query } from '../../src/postgres.ts';
import { createLogins, type Login, type Logins } from '../sql/logins.ts';
import { testLog, until } from '../support/pipeline.ts';
import {
  endStandby,
  examineDatabase,
  findCheck,
  type Patient,
  SLOT,
  splitRemedy,
  startPatient,
  startStandby,
  troublesOf,
} from './patient.ts';

// What takes more than a statement to bring about, or ends a server.

const MAKE_SLOT = `select pg_create_logical_replication_slot('${SLOT}', 'pgoutput')`;
const DROP_SLOT = `select pg_drop_replication_slot('${SLOT}')`;

describe('an installed database', () => {
  let patient: Patient;
  let logins: Logins;
  beforeAll(async () => {
    patient = await startPatient({ installed: true });
    logins = createLogins({ admin: patient.pool, url: patient.url });
  });
  afterAll(async () => {
    await logins.endPools();
    await patient.stop();
  });

  test('an open transaction is named with its process and its last query, and holds up a slot that is to be made', async () => {
    const client = new pg.Client({ connectionString: patient.url });
    client.on('error', () => undefined); // The remedy ends it.
    await client.connect();
    await client.query('begin; select pg_current_xact_id()');
    const [row] = (await client.query<{ pid: number }>('select pg_backend_pid() as pid')).rows;
    const overrides = { limits: { openTransactionSeconds: 0, longTransactionSeconds: 0 } };
    const waits = findCheck(
      await patient.examineUntil({ open_transactions: 'warning' }, overrides),
      'open_transactions',
    );
    expect(waits.found).toMatch(
      new RegExp(`pid ${row?.pid}, open for .*, last query at 20.* UTC: a new slot waits until it ends`),
    );
    await patient.examineUntil({}); // It is not open for a minute yet.
    await patient.run(splitRemedy(waits.remedy ?? ''));
    await patient.examineUntil({}, overrides);
  });

  test('a slot is well while somebody streams from it, and lost once its WAL was removed', async () => {
    await patient.run([MAKE_SLOT]);
    await patient.examineUntil({ slot: 'warning' });
    await patient.run([
      `alter system set max_slot_wal_keep_size = '1MB'`,
      'select pg_reload_conf()',
      'create table filler (a int)',
    ]);
    await until('the slot is lost', async () => {
      await patient.run(['insert into filler values (1)', 'select pg_switch_wal()', 'checkpoint']);
      const rows = await query<{ status: string }>(
        patient.pool,
        'select wal_status as status from pg_replication_slots',
      );
      return rows[0]?.status === 'lost';
    });
    const lost = findCheck(await patient.examineUntil({ slot: 'failure' }), 'slot');
    expect(lost).toMatchObject({ found: expect.stringMatching(/^lost/), remedy: 'market-sync pipeline' });
    await patient.run([
      DROP_SLOT,
      'drop table filler',
      `alter system set max_slot_wal_keep_size = '8GB'`,
      'select pg_reload_conf()',
    ]);
    await patient.examineUntil({});
  });

  test('a standby that streams wants a failover slot, and the remedy makes it one', async () => {
    const standby = await startStandby(patient);
    await patient.examineUntil({});
    await patient.run([MAKE_SLOT]);
    const report = await patient.examineUntil({ slot: 'warning', failover_slot: 'warning' });
    const { remedy = '' } = findCheck(report, 'failover_slot');
    const command = /-c '([^']+)'$/.exec(remedy)?.[1] ?? '';
    const replication = new pg.Client({
      connectionString: patient.url,
      replication: 'database',
    } as pg.ClientConfig);
    await replication.connect();
    await replication.query(command);
    await replication.end();
    // One that streams without a slot of its own.
    await patient.examineUntil({ slot: 'warning', failover_standbys: 'warning' });
    await patient.run([DROP_SLOT]);
    endStandby(standby);
    await patient.examineUntil({});
  });

  test('other publications and triggers are told of, and are no fault', async () => {
    await patient.run([
      'create publication theirs for table storage_bookings (id, quantity_kg) where (id is not null), iot_sensors',
      'create function theirs() returns trigger language plpgsql as $$ begin return new; end $$',
      'create trigger theirs before insert on storage_bookings for each row execute function theirs()',
      'create function watch() returns event_trigger language plpgsql as $$ begin end $$',
      'create event trigger watch on ddl_command_end execute function watch()',
    ]);
    const report = await patient.examineUntil({});
    expect(findCheck(report, 'other_publications').found).toMatch(/^theirs have source tables too/);
    expect(findCheck(report, 'other_triggers').found).toMatch(/theirs on storage_bookings/);
    expect(findCheck(report, 'event_triggers').found).toMatch(/^watch/);
    await patient.run([
      'drop event trigger watch',
      'drop publication theirs',
      'drop function theirs cascade',
    ]);
  });

  describe('as a login', () => {
    const examineAs = (login: Login) => examineDatabase(login.url);

    test('of the pipeline all is well', async () => {
      const login = await logins.create(['market_sync_consumer', 'market_sync_publisher'], {
        replication: true,
      });
      const report = await examineAs(login);
      expect(troublesOf(report)).toEqual({});
      expect(findCheck(report, 'login_pipeline').found).toContain('may run market-sync pipeline');
      expect(findCheck(report, 'disk_free').status).toBe('skipped');
    });

    test('of the API, which needs no replication, all is well', async () => {
      const report = await examineAs(await logins.create(['market_sync_api']));
      expect(troublesOf(report)).toEqual({});
      expect(findCheck(report, 'login_replication').found).toContain('needs no replication');
    });

    test('of nobody the remedies make it one of the pipeline', async () => {
      const login = await logins.create([]);
      const report = await examineAs(login);
      expect(troublesOf(report)).toEqual({ login_replication: 'failure', login_pipeline: 'failure' });
      for (const name of ['login_replication', 'login_pipeline']) {
        await patient.run(splitRemedy(findCheck(report, name).remedy ?? ''));
      }
      expect(troublesOf(await examineAs(login))).toEqual({});
    });
  });
});

describe('a database of somebody else', () => {
  let patient: Patient;
  let logins: Logins;
  beforeAll(async () => {
    // One slot, one WAL sender, and no logical decoding.
    patient = await startPatient({
      installed: false,
      parameters: { wal_level: 'replica', max_replication_slots: '1', max_wal_senders: '1' },
    });
    logins = createLogins({ admin: patient.pool, url: patient.url });
  });
  afterAll(async () => {
    await logins.endPools();
    await patient.stop();
  });

  test('is told before installation what would not work', async () => {
    const report = await patient.examineUntil({ wal_level: 'failure' });
    expect(report.exit_code).toBe(2);
    expect(findCheck(report, 'wal_level')).toMatchObject({
      found: expect.stringContaining('wal_level is replica'),
      remedy: `alter system set wal_level = 'logical';`,
    });
    expect(findCheck(report, 'migrations')).toMatchObject({ status: 'ok' });
    expect(findCheck(report, 'capture_triggers')).toMatchObject({ status: 'skipped' });
    expect(findCheck(report, 'source_indexes').found).toContain('market-sync migrate makes');
  });

  test('has no slot and no WAL sender free when others have them all', async () => {
    await patient.run([`select pg_create_physical_replication_slot('theirs')`]);
    const slots = await patient.examineUntil({ wal_level: 'failure', slots_free: 'failure' });
    expect(findCheck(slots, 'slots_free').found).toMatch(/^1 of 1 replication slots in use: none is free/);
    await patient.run([`select pg_drop_replication_slot('theirs')`]);
    const sender = await startStandby(patient);
    const senders = await patient.examineUntil({
      wal_level: 'failure',
      wal_senders_free: 'failure',
      replication_connection: 'warning',
    });
    expect(findCheck(senders, 'wal_senders_free').remedy).toContain('max_wal_senders = 6');
    endStandby(sender);
    await patient.examineUntil({ wal_level: 'failure' });
  });

  test('a login that may not migrate gets the grants that it lacks, and with them may', async () => {
    const login = await logins.create([], { replication: true });
    await patient.run(['create role application', 'alter table storage_bookings owner to application']);
    const [before] = [findCheck(await examineDatabase(login.url), 'login_migrate')];
    expect(before.status).toBe('failure');
    expect(before.found).toMatch(
      /schema or publication in this database; .*table in the schema public; .*application, who owns storage_bookings/,
    );
    await patient.run(splitRemedy(before.remedy ?? ''));
    expect(findCheck(await examineDatabase(login.url), 'login_migrate')).toMatchObject({ status: 'ok' });
  });

  test('an event trigger may refuse what migrate creates, and is disabled by its remedy', async () => {
    await patient.run([
      'create function watch() returns event_trigger language plpgsql as $$ begin end $$',
      'create event trigger watch on ddl_command_end execute function watch()',
    ]);
    const report = await patient.examineUntil({ wal_level: 'failure', event_triggers: 'warning' });
    await patient.run(splitRemedy(findCheck(report, 'event_triggers').remedy ?? ''));
    await patient.examineUntil({ wal_level: 'failure' });
  });

  test('partitions are named, with what is not seen of them', async () => {
    await patient.run([
      'drop table sensor_readings',
      `create table sensor_readings (
         id uuid not null, sensor_id uuid, reading_value float8, reading_unit varchar(16), reading_time timestamptz not null,
         alert_triggered bool) partition by range (reading_time)`,
      `create table readings_2024 partition of sensor_readings for values from ('2024-01-01') to ('2025-01-01')`,
    ]);
    const report = await patient.examineUntil({ wal_level: 'failure', partitions: 'warning' });
    expect(findCheck(report, 'partitions')).toMatchObject({
      found: expect.stringContaining('sensor_readings in 1 partitions (readings_2024)'),
      remedy: 'market-sync migrate',
    });
  });

  test('in another schema nothing is found until SOURCE_SCHEMA names it', async () => {
    const pool = createPool({
      url: patient.url,
      applicationName: 'patient',
      sourceSchema: 'order',
      log: testLog(),
    });
    const missing = await examineDatabase(patient.url, { sourceSchema: 'order' });
    expect(findCheck(missing, 'source_tables').found).toContain('there is no schema order');
    await patient.run(['create schema "order"']);
    const empty = await examineDatabase(patient.url, { sourceSchema: 'order' });
    expect(findCheck(empty, 'source_tables').found).toMatch(/not in the schema order: storage_bookings/);
    await applyStorageGuardTables({ pool, sourceSchema: 'order' });
    expect(troublesOf(await examineDatabase(patient.url, { sourceSchema: 'order' }))).toEqual({
      wal_level: 'failure',
    });
    await pool.end();
  });

  test('that is a standby takes no writes', async () => {
    const { dataDir } = patient.cluster;
    const { uid, gid } = await stat(dataDir);
    await patient.cluster.kill('SIGINT');
    await writeFile(join(dataDir, 'standby.signal'), '');
    await chown(join(dataDir, 'standby.signal'), uid, gid);
    await patient.cluster.start();
    let report = await examineDatabase(patient.url);
    await until('the standby lets readers in', async () => {
      report = await examineDatabase(patient.url);
      return findCheck(report, 'postgres_reachable').status === 'ok';
    });
    expect(findCheck(report, 'postgres_primary')).toMatchObject({
      status: 'failure',
      found: expect.stringContaining('a standby'),
    });
    expect(findCheck(report, 'slot')).toMatchObject({ status: 'skipped', found: 'a standby' });
  });
});
