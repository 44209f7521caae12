import { appendFile } from 'node:fs/promises';
import { join } from 'node:path';
import pg from 'pg';
import { copyRunning, writeOwned } from './base-backup.ts';
import { startClusterOn, type TestCluster } from './cluster.ts';

/** A server that follows another by streaming replication, until it is promoted and takes its place. */
export interface Standby extends TestCluster {
  /** The name by which the primary knows it: of its physical slot, and in pg_stat_replication. */
  name: string;
  /** Ends its recovery: it becomes a server of its own, on the next timeline. */
  promote(): Promise<void>;
}

/**
 * Makes a standby of `primary`: a copy of its files that follows its WAL by a physical slot. `parameters` are its own,
 * beside those that every cluster of the tests has; among them sync_replication_slots.
 */
export async function startStandby(
  primary: TestCluster,
  { name, parameters = {} }: { name: string; parameters?: Readonly<Record<string, string>> },
): Promise<Standby> {
  await ask(primary.url(), `select pg_create_physical_replication_slot('${name}', true)`);
  const cluster = await startClusterOn({ fsync: 'off' }, async (place) => {
    await copyRunning(primary, place.dataDir);
    const { hostname, port, username, password } = new URL(primary.url());
    // With a database, by which slots are synchronised.
    const conninfo = `host=${hostname} port=${port} user=${username} password=${password} dbname=postgres application_name=${name}`;
    const settings = {
      hot_standby: 'on',
      hot_standby_feedback: 'on',
      wal_receiver_status_interval: '1s',
      primary_conninfo: conninfo,
      primary_slot_name: name,
      // The primary may have been a standby itself, and has its settings yet.
      sync_replication_slots: 'off',
      ...parameters,
    };
    // In the file, not among the arguments, so that `alter system` can change them.
    const lines = Object.entries(settings).map(([setting, value]) => `${setting} = '${value}'\n`);
    await appendFile(join(place.dataDir, 'postgresql.auto.conf'), lines.join(''));
    await writeOwned(primary, join(place.dataDir, 'standby.signal'), '');
  });
  return {
    ...cluster,
    name,
    promote: async () => {
      const [promoted] = await ask<{ promoted: boolean }>(
        cluster.url(),
        'select pg_promote(true, 60) as promoted',
      );
      if (promoted?.promoted !== true) throw new Error('the standby was not promoted');
    },
  };
}

/** One statement on a connection of its own: no pool outlives the server. */
export async function ask<Row extends pg.QueryResultRow>(url: string, sql: string): Promise<Row[]> {
  const client = new pg.Client({ connectionString: url });
  await client.connect();
  try {
    return (await client.query<Row>(sql)).rows;
  } finally {
    await client.end();
  }
}
