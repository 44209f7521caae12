import { existsSync } from 'node:fs';
import { join } from 'node:path';
import { stripVTControlCharacters } from 'node:util';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { z } from 'zod';
import { describeReport } from '../../src/commands/doctor-report.ts';
import type { CheckStatus } from '../../src/doctor/check.ts';
import { CATALOGUE, type Report } from '../../src/doctor/examine.ts';
import { findServerAccount } from '../../src/embedded/account.ts';
import { startMarket } from '../../src/embedded/market/server.ts';
import { connectMarket, ensureListingIndexes } from '../../src/mongo.ts';
import { query } from '../../src/postgres.ts';
import { runProgram, startProgram } from '../cli/program.ts';
import { createClusterDirectory } from '../support/cluster-directory.ts';
import { testLog, until } from '../support/pipeline.ts';
import { endStandby, type Patient, SLOT, startPatient, startStandby } from './patient.ts';

/** What --json promises. */
const reportSchema = z.strictObject({
  ok: z.boolean(),
  exit_code: z.union([z.literal(0), z.literal(1), z.literal(2)]),
  checks: z
    .array(
      z.strictObject({
        name: z.string().regex(/^[a-z_]+$/),
        group: z.string().min(1),
        status: z.enum(['ok', 'warning', 'failure', 'skipped']),
        found: z.string().min(1),
        remedy: z.string().min(1).optional(),
      }),
    )
    .nonempty(),
  duration_ms: z.number().nonnegative(),
});

const SECRET = 'hunter2-do-not-repeat';

async function runDoctor(settings: NodeJS.ProcessEnv): Promise<Report & { code: number }> {
  const { code, stdout, stderr } = await runProgram(['doctor', '--json'], settings);
  expect(stderr).toBe('');
  expect(stdout).not.toContain(SECRET);
  const report = reportSchema.parse(JSON.parse(stdout)) as Report;
  expect(code).toBe(report.exit_code);
  expect(report.checks.map(({ name }) => name)).toEqual(CATALOGUE.map(({ name }) => name));
  const statuses = new Set(report.checks.map(({ status }) => status));
  expect(report.exit_code).toBe(statuses.has('failure') ? 2 : statuses.has('warning') ? 1 : 0);
  expect(report.ok).toBe(report.exit_code === 0);
  for (const { status, remedy, name } of report.checks) {
    expect(remedy !== undefined, name).toBe(status === 'warning' || status === 'failure');
  }
  return { ...report, code };
}

const namesOf = (report: Report, status: CheckStatus): string[] =>
  report.checks.filter((check) => check.status === status).map(({ name }) => name);

describe('on servers of their own', () => {
  let patient: Patient;
  let market: Awaited<ReturnType<typeof startMarket>>;
  let settings: NodeJS.ProcessEnv;
  beforeAll(async () => {
    // Nothing but what a test does writes to this cluster.
    patient = await startPatient({
      installed: true,
      parameters: { autovacuum: 'off', max_wal_senders: '2' },
    });
    await patient.run(['create database market']);
    market = await startMarket({
      databaseUrl: patient.cluster.url('market'),
      host: '127.0.0.1',
      port: 0,
      log: testLog(),
    });
    const listings = await connectMarket({ url: market.url, database: 'market_connect', timeoutMs: 10_000 });
    await ensureListingIndexes(listings);
    await listings.listings.insertOne({ booking_id: 'old' } as never);
    await listings.close();
    settings = { DATABASE_URL: patient.url, MONGODB_URL: market.url, SLOT_NAME: SLOT };
  });
  afterAll(async () => {
    await market.stop();
    await patient.stop();
  });

  /** Everything that a look could have changed. Transaction ids are given to whoever writes, in any database. */
  const fingerprint = async () => {
    const tables = await query<{ name: string }>(
      patient.pool,
      `select oid::regclass::text as name from pg_class
       where relkind = 'r' and relpersistence = 'p' and relnamespace <> 'pg_toast'::regnamespace and relname not like 'pg_stat%' order by 1`,
    );
    const contents: [string, unknown][] = [];
    for (const { name } of tables) {
      const rows = await query(
        patient.pool,
        `select count(*), md5(string_agg(md5(t::text), '' order by md5(t::text))) as hash from ${name} t`,
      );
      contents.push([name, rows[0]]);
    }
    return {
      contents,
      next: await query(patient.pool, 'select pg_snapshot_xmax(pg_current_snapshot())::text as xid'),
      slots: await query(
        patient.pool,
        'select slot_name, restart_lsn, confirmed_flush_lsn, active from pg_replication_slots',
      ),
      settings: await query(patient.pool, 'select name, reset_val from pg_settings order by 1'),
    };
  };

  test('doctor changes nothing in PostgreSQL or MongoDB, and takes less than 2 seconds', async () => {
    await patient.run([`select pg_create_logical_replication_slot('${SLOT}', 'pgoutput')`]);
    const before = await fingerprint();
    expect(before.contents.length).toBeGreaterThan(80);
    const report = await runDoctor(settings);
    expect(await fingerprint()).toEqual(before);
    expect(report.duration_ms).toBeLessThan(2_000);
    await patient.run([`select pg_drop_replication_slot('${SLOT}')`]);
  });

  test('warnings end with exit code 1, in lines that say what to do, without colour where no terminal is', async () => {
    const report = await runDoctor(settings);
    expect(namesOf(report, 'failure')).toEqual([]);
    expect(namesOf(report, 'warning')).toEqual(['listing_guards']);
    expect(report.code).toBe(1);
    const { code, stdout } = await runProgram(['doctor'], settings);
    expect(code).toBe(1);
    expect(stripVTControlCharacters(stdout)).toBe(stdout);
    expect(stdout).toMatch(/^ {2}ok {7}postgres_version +PostgreSQL 18/m);
    expect(stdout).toMatch(
      /^ {2}warning {2}listing_guards +1 documents .*\n {6}market-sync backfill\n {6}market-sync audit --repair$/m,
    );
    expect(stdout).toMatch(/\n0 failures, 1 warning, \d+ ok, \d+ skipped \(\d+ ms\)\n$/);
  });

  test('a server that cannot be reached is one failure, exit code 2, and what is asked of it is skipped', async () => {
    const report = await runDoctor({
      ...settings,
      DATABASE_URL: `postgresql://guard:${SECRET}@127.0.0.1:1/guard`,
    });
    expect(report.code).toBe(2);
    expect(namesOf(report, 'failure')).toEqual(['postgres_reachable']);
    expect(report.checks.find(({ name }) => name === 'postgres_reachable')?.found).toContain('ECONNREFUSED');
    expect(report.checks.find(({ name }) => name === 'wal_level')).toMatchObject({
      status: 'skipped',
      found: 'PostgreSQL cannot be reached',
    });
    expect(namesOf(report, 'warning')).toEqual(['listing_guards']);
  });

  test('a setting that is wrong ends with exit code 2 and its message, before anything is asked', async () => {
    const { code, stdout, stderr } = await runProgram(['doctor'], { ...settings, SLOT_NAME: 'No Slot' });
    expect({ code, stdout }).toEqual({ code: 2, stdout: '' });
    expect(stderr).toMatch(/^market-sync: SLOT_NAME=No Slot: must be/);
  });

  test('start stops with exit code 3 and the remedy when the doctor finds what it cannot run with', async () => {
    const standbys = [await startStandby(patient, 'one'), await startStandby(patient, 'two')];
    const { code, stderr } = await runProgram(['start'], { ...settings, PORT: '0', LOG_LEVEL: 'warn' });
    expect(code, stderr).toBe(3);
    expect(stderr).toMatch(
      /^market-sync: wal_senders_free: 2 of 2 WAL senders in use: none is free.*alter system set max_wal_senders = 7;/m,
    );
    expect(stderr).toContain('"check":"listing_guards"'); // What is no reason to stop is logged, one line each.
    for (const standby of standbys) endStandby(standby);
  });
});

describe('on embedded servers', () => {
  let directory: Awaited<ReturnType<typeof createClusterDirectory>>;
  let dataDir: string;
  beforeAll(async () => {
    directory = await createClusterDirectory(await findServerAccount());
    dataDir = join(directory.path, 'my data');
  });
  afterAll(() => directory.remove());

  test('doctor says clearly that none runs, and leaves no trace of having looked', async () => {
    const report = await runDoctor({ DATA_DIR: dataDir });
    expect(report.code).toBe(2);
    expect(report.checks.find(({ name }) => name === 'postgres_reachable')).toMatchObject({
      status: 'failure',
      found: `DATABASE_URL is not set, and no market-sync runs in ${dataDir}`,
      remedy: 'market-sync start',
    });
    expect(namesOf(report, 'failure')).toEqual(['postgres_reachable']);
    expect(existsSync(dataDir)).toBe(false);
  });

  test('a start that is well logs no trouble, and doctor finds its servers by themselves', async () => {
    const program = startProgram(['start'], { DATA_DIR: dataDir, PORT: '0', LOG_LEVEL: 'info' });
    await program.printed(/Ctrl-C stops everything/);
    await until('the doctor has looked', () => program.stderr().includes('doctor has looked'));
    // What the machine itself is short of is not the program's.
    const troubles = program
      .stderr()
      .split('\n')
      .filter((line) => line.includes('doctor found something') && !line.includes('disk_free'));
    expect(troubles).toEqual([]);
    let report = await runDoctor({ DATA_DIR: dataDir });
    await until('the consumer streams', async () => {
      report = await runDoctor({ DATA_DIR: dataDir });
      return report.checks.some(({ name, status }) => name === 'slot' && status === 'ok');
    });
    expect(
      [...namesOf(report, 'failure'), ...namesOf(report, 'warning')].filter((name) => name !== 'disk_free'),
    ).toEqual([]);
    expect(report.checks.find(({ name }) => name === 'mongodb_server')?.found).toContain('stand-in');
    expect((await program.end('SIGTERM')).code).toBe(0);
  });
});

const REPORT: Report = {
  ok: false,
  exit_code: 2,
  checks: [
    { name: 'one', group: 'first', status: 'ok', found: 'well' },
    {
      name: 'another',
      group: 'first',
      status: 'warning',
      found: 'not so well',
      remedy: 'select 1;\nselect 2;',
    },
    { name: 'third', group: 'second', status: 'failure', found: 'broken', remedy: 'market-sync migrate' },
    { name: 'last', group: 'second', status: 'skipped', found: 'not looked at' },
  ],
  duration_ms: 12,
};

test('a report has one line a check and its remedy under it, and reads the same with colour', () => {
  const plain = describeReport(REPORT, { colour: false });
  expect(plain).toBe(
    [
      'first',
      '  ok       one      well',
      '  warning  another  not so well',
      '      select 1;',
      '      select 2;',
      'second',
      '  failure  third    broken',
      '      market-sync migrate',
      '  skipped  last     not looked at',
      '1 failure, 1 warning, 1 ok, 1 skipped (12 ms)',
      '',
    ].join('\n'),
  );
  const coloured = describeReport(REPORT, { colour: true });
  expect(coloured).not.toBe(plain);
  expect(stripVTControlCharacters(coloured)).toBe(plain);
  expect(coloured).toContain('\u001b[31mfailure\u001b[39m  third');
});
