import { execFile } from 'node:child_process';
import { chown, readdir, rm, writeFile } from 'node:fs/promises';
import { basename, join } from 'node:path';
import { promisify } from 'node:util';
import pg from 'pg';
import type { TestCluster } from './cluster.ts';

const run = promisify(execFile);

/**
 * Copies the data directory of a server that runs to `target`, which must not exist, as pg_basebackup does: from
 * pg_backup_start to pg_backup_stop, with the WAL that makes the copy whole, without what belongs to the running server.
 *
 * Slots stay behind, as with pg_basebackup, unless `slots` says that they come along, as with a snapshot of the disk.
 */
export async function copyRunning(
  cluster: Pick<TestCluster, 'dataDir' | 'account' | 'url'>,
  target: string,
  { slots = false }: { slots?: boolean } = {},
): Promise<void> {
  const client = new pg.Client({ connectionString: cluster.url() });
  await client.connect();
  try {
    await client.query(`select pg_backup_start('a test', fast => true)`);
    await copyDirectory(cluster.dataDir, target);
    const { rows } = await client.query<{ labelfile: string }>('select labelfile from pg_backup_stop()');
    await writeOwned(cluster, join(target, 'backup_label'), rows[0]?.labelfile ?? '');
  } finally {
    await client.end();
  }
  // The end of the backup is in WAL that was written after the copy.
  await rm(join(target, 'pg_wal'), { recursive: true });
  await copyDirectory(join(cluster.dataDir, 'pg_wal'), join(target, 'pg_wal'));
  for (const name of ['postmaster.pid', 'postmaster.opts']) await rm(join(target, name), { force: true });
  if (!slots) await emptyDirectory(join(target, 'pg_replslot'));
}

/** A file in a data directory, which the server may read. */
export async function writeOwned(
  { account }: Pick<TestCluster, 'account'>,
  path: string,
  content: string,
): Promise<void> {
  await writeFile(path, content, { mode: 0o600 });
  if (account !== undefined) await chown(path, account.uid, account.gid);
}

/** Puts a copy in the place of the directory of a server that does not run. */
export async function putBack(copy: string, dataDir: string): Promise<void> {
  await rm(dataDir, { recursive: true });
  await run('mv', [copy, dataDir]);
}

/** With owner and mode. Files that a running server deletes meanwhile are not missed. */
export async function copyDirectory(source: string, target: string): Promise<void> {
  try {
    await run('cp', ['-a', source, target], { env: { ...process.env, LC_ALL: 'C' } });
  } catch (error) {
    const { stderr = '' } = error as { stderr?: string };
    const others = stderr
      .split('\n')
      .filter((line) => line !== '' && !line.includes('No such file or directory'));
    if (others.length > 0)
      throw new Error(`${basename(source)} cannot be copied: ${others[0]}`, { cause: error });
  }
}

async function emptyDirectory(path: string): Promise<void> {
  for (const name of await readdir(path)) await rm(join(path, name), { recursive: true });
}
