import { readFileSync } from 'node:fs';
import { afterAll, afterEach, beforeAll, expect, test } from 'vitest';
import { applyStorageGuardTables } from '../../src/embedded/storage-guard.ts';
import { migrate, planMigration } from '../../src/migrate.ts';
import { createPool, query } from '../../src/postgres.ts';
import { renderPlan, type Step, stepStatements } from '../../src/step.ts';
import { describeCatalog } from '../support/catalog.ts';
import { startCluster, type TestCluster } from '../support/cluster.ts';
import { OLD_SNAPSHOTS } from '../support/old-system.ts';
import { testLog } from '../support/pipeline.ts';
import { splitStatements } from '../support/sql-text.ts';

// A cluster of its own: PostgreSQL's log says which statements were sent, whoever sent them.

let cluster: TestCluster;
beforeAll(async () => {
  cluster = await startCluster({
    fsync: false,
    parameters: { log_line_prefix: '@%a@ ', log_min_duration_statement: '-1' },
  });
});
afterAll(() => cluster?.stop());

const cleanups: (() => Promise<unknown>)[] = [];
afterEach(async () => {
  for (const cleanup of cleanups.splice(0).toReversed()) await cleanup();
});

const newPool = (database: string, applicationName = 'test') => {
  const pool = createPool({
    url: cluster.url(database),
    applicationName,
    sourceSchema: 'public',
    log: testLog(),
  });
  cleanups.push(() => pool.end());
  return pool;
};

/** A database that the application has used for a while: partitioned readings, and a snapshot table of the system before. */
async function createForeign(name: string): Promise<ReturnType<typeof newPool>> {
  const admin = newPool('postgres');
  await query(admin, `create database ${name}`);
  const pool = newPool(name);
  await applyStorageGuardTables({ pool, sourceSchema: 'public' });
  await query(pool, FOREIGN);
  return pool;
}

const FOREIGN = `
  drop table sensor_readings;
  create table sensor_readings (
    id uuid not null default gen_random_uuid(), sensor_id uuid references iot_sensors on delete cascade,
    reading_value float8, reading_unit varchar(16), reading_time timestamptz not null, alert_triggered bool,
    alert_reason text, created_at timestamptz, primary key (id, reading_time)) partition by range (reading_time);
  create table readings_2025 partition of sensor_readings for values from ('2025-01-01') to ('2026-01-01');
  create table readings_2026 partition of sensor_readings for values from ('2026-01-01') to ('2027-01-01');
  ${OLD_SNAPSHOTS}`;

const plan = (pool: ReturnType<typeof newPool>): Promise<Step[]> =>
  planMigration({ pool, sourceSchema: 'public' });

/** What PostgreSQL was sent by connections of this name, as its log has it. */
function readSent(applicationName: string): string[] {
  const sent: string[] = [];
  for (const entry of readFileSync(cluster.logFile, 'utf8').split(/^@(?=[^@\n]*@ )/m)) {
    const [, name, text] = /^([^@]*)@ LOG: {2}(?:statement|execute [^:]*): (.*)$/s.exec(entry) ?? [];
    if (name === applicationName && text !== undefined) sent.push(text.replace(/\n\t/g, '\n').trim());
  }
  return sent;
}

/** Only what changes something: what is merely read is no part of a plan. */
const isChange = (statement: string): boolean =>
  (!/^(select|with|show|begin|commit|rollback|set|values)\b/i.test(statement) ||
    /create_queue/.test(statement)) &&
  // When pg-boss has last looked for indexes to build: a time in a row of its own.
  !/set bam_on/i.test(statement);

const withoutComments = (sql: string): string => sql.replace(/^\s*--[^\n]*$/gm, '').trim();

const changesOf = (texts: string[]): string[] =>
  texts.flatMap(splitStatements).map(withoutComments).filter(isChange);

test('what migrate --plan prints is, statement by statement, what migrate sends to PostgreSQL', async () => {
  const pool = await createForeign('honest');
  const steps = await plan(pool);
  const before = await describeCatalog(pool);
  expect(await plan(pool)).toEqual(steps);
  expect(await describeCatalog(pool)).toEqual(before);

  await query(newPool('postgres'), `alter database honest set log_statement = 'all'`);
  const migrating = newPool('honest', 'plan-test-migrate');
  await migrate({ pool: migrating, sourceSchema: 'public', log: testLog() });
  const sent = changesOf(readSent('plan-test-migrate'));
  const planned = changesOf(steps.flatMap((step) => stepStatements(step)));
  expect(sent.length).toBeGreaterThan(100);
  expect(sent).toEqual(planned);
  // And the locks on tables of the application are as printed.
  const locks = (texts: string[]) =>
    texts.flatMap(splitStatements).filter((text) => /^(lock|set local|begin|commit)/i.test(text));
  expect(locks(readSent('plan-test-migrate'))).toEqual(
    expect.arrayContaining(locks(steps.flatMap((step) => stepStatements(step)))),
  );
});

test('the printed SQL run by hand makes the same schema as migrate, and leaves migrate nothing to do', async () => {
  const [byProgram, byHand] = [await createForeign('by_program'), await createForeign('by_hand')];
  const text = renderPlan(['heading'], await plan(byHand));
  await migrate({ pool: byProgram, sourceSchema: 'public', log: testLog() });

  const client = await byHand.connect();
  // As psql does: one statement after the other.
  for (const statement of splitStatements(text)) await client.query(statement);
  client.release(true);
  expect(await describeCatalog(byHand)).toEqual(await describeCatalog(byProgram));
  expect(await migrate({ pool: byHand, sourceSchema: 'public', log: testLog() })).toEqual([]);
  const left = (await plan(byHand)).map(({ title }) => title.split(/[:,]/)[0]);
  expect(left).toEqual(['the session', 'roles.sql']);
});

test('every part says in words what it locks, and every word of it is a comment', async () => {
  const steps = await plan(await createForeign('worded'));
  const text = renderPlan(['heading'], steps);
  expect(text.match(/^-- Locks: \S/gm)).toHaveLength(steps.length);
  expect(text).not.toContain('execute format($create$');
  expect(text).toContain('create trigger market_sync_insert after insert on sensor_readings');
  for (const table of ['iot_sensors', 'storage_bookings']) expect(text).toContain(table);
});
