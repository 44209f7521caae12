import pg from 'pg';
import { identifyServer } from '../../pipeline/replication-server.ts';
import { judgeContinuity } from '../../pipeline/continuity.ts';
import type { Check } from '../../src/doctor/check.ts';
import type { ExamineInput, Target } from '../../src/doctor/examination.ts';
import { examine, type Report } from '../../src/doctor/examine.ts';
import { applyStorageGuardTables } from '../../src/embedded/storage-guard.ts';
import { migrate } from '../../src/migrate.ts';
import { createPool, query } from '../../src/postgres.ts';
import { startCluster, type TestCluster } from '../support/cluster.ts';
import { testLog, until } from '../support/pipeline.ts';

export const SLOT = 'patient';

const NO_MARKET: Target = { missing: 'not in this test', remedy: '', needed: false };

/** Looks at a database as the command does. */
export const examineDatabase = (url: string, overrides: Partial<ExamineInput> = {}): Promise<Report> =>
  examine({
    postgres: { url },
    mongodb: NO_MARKET,
    mongodbDatabase: 'market_connect',
    mongodbTimeoutMs: 10_000,
    sourceSchema: 'public',
    slotName: SLOT,
    replication: {
      identify: identifyServer,
      findCut: (checkpoint, slot, system) => {
        const continuity = judgeContinuity(checkpoint, slot, system);
        return continuity.state === 'cut' ? continuity.reason : undefined;
      },
    },
    now: Date.now,
    ...overrides,
  });

export function findCheck(report: Report, name: string): Check {
  const check = report.checks.find((one) => one.name === name);
  if (check === undefined) throw new Error(`there is no check ${name}`);
  return check;
}

/** Name → status, of all that is neither ok nor skipped. */
export const troublesOf = (report: Report): Record<string, string> =>
  Object.fromEntries(
    report.checks
      .filter(({ status }) => status === 'warning' || status === 'failure')
      .map(({ name, status }) => [name, status]),
  );

/** The statements of a remedy, as somebody would paste them one after the other. */
export const splitRemedy = (remedy: string): string[] =>
  remedy
    .split(/;(?:\n|$)/)
    .map((statement) => statement.trim())
    .filter((statement) => statement !== '');

/** A cluster that a test may break, with one database in which all is well. */
export interface Patient {
  cluster: TestCluster;
  url: string;
  pool: pg.Pool;
  /** Runs statements one by one, outside of a transaction. */
  run(sql: readonly string[]): Promise<void>;
  /** Resolves with the report once exactly these troubles are in it. */
  examineUntil(troubles: Record<string, string>, overrides?: Partial<ExamineInput>): Promise<Report>;
  stop(): Promise<void>;
}

export async function startPatient(options: {
  installed: boolean;
  parameters?: Record<string, string>;
}): Promise<Patient> {
  const cluster = await startCluster({
    fsync: true,
    parameters: { max_prepared_transactions: '5', ...options.parameters },
  });
  const url = cluster.url();
  const pool = createPool({ url, applicationName: 'patient', sourceSchema: 'public', log: testLog() });
  const run = async (sql: readonly string[]): Promise<void> => {
    for (const statement of sql) await query(pool, statement);
  };
  await applyStorageGuardTables({ pool, sourceSchema: 'public' });
  if (options.installed) await migrate({ pool, sourceSchema: 'public', log: testLog() });
  await run([`alter system set max_slot_wal_keep_size = '8GB'`, 'select pg_reload_conf()']);
  return {
    cluster,
    url,
    pool,
    run,
    examineUntil: async (troubles, overrides) => {
      let report: Report | undefined;
      const wanted = JSON.stringify(Object.entries(troubles).toSorted());
      try {
        // A reload of the configuration takes its moment.
        await until(
          'the doctor finds what is expected',
          async () => {
            report = await examineDatabase(url, overrides);
            return JSON.stringify(Object.entries(troublesOf(report)).toSorted()) === wanted;
          },
          10_000,
        );
      } catch {
        const troubled = report?.checks.filter(({ status }) => status === 'warning' || status === 'failure');
        throw new Error(`expected ${wanted}, found ${JSON.stringify(troubled, null, 1)}`);
      }
      return report as Report;
    },
    stop: async () => {
      await pool.end();
      await cluster.stop();
    },
  };
}

/** Streams WAL as a standby does, and keeps none of it. */
export async function startStandby({ url, pool }: Patient, name = 'standby'): Promise<pg.Client> {
  const client = new pg.Client({
    connectionString: url,
    replication: 'true',
    application_name: name,
  } as pg.ClientConfig);
  client.on('error', () => undefined); // Its server may end first.
  await client.connect();
  const rows = await query<{ lsn: string }>(pool, 'select pg_current_wal_flush_lsn() as lsn');
  void client.query(`START_REPLICATION PHYSICAL ${rows[0]?.lsn}`).catch(() => undefined);
  await until('the standby streams', async () => {
    const found = await query(
      pool,
      `select from pg_stat_replication where state = 'streaming' and application_name = $1`,
      [name],
    );
    return found.length === 1;
  });
  return client;
}

/** It is in the middle of a stream, which an orderly end would wait for. */
export function endStandby(client: pg.Client): void {
  (client as unknown as { connection: { stream: { destroy(): void } } }).connection.stream.destroy();
}
