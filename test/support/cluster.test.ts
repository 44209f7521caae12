import { existsSync } from 'node:fs';
import pg from 'pg';
import { expect, test } from 'vitest';
import { isAlive } from '../../src/embedded/processes.ts';
import { startCluster } from './cluster.ts';

const askOnce = async (url: string, sql: string): Promise<unknown> => {
  const client = new pg.Client({ connectionString: url });
  await client.connect();
  try {
    return (await client.query({ text: sql, rowMode: 'array' })).rows[0]?.[0];
  } finally {
    await client.end();
  }
};

test.each(['SIGKILL', 'SIGINT', 'SIGTERM', 'SIGQUIT'] as const)(
  'a cluster ended by %s starts again at once, on the same address with what was committed',
  async (signal) => {
    const cluster = await startCluster({ parameters: { work_mem: '5MB' } });
    try {
      await askOnce(cluster.url(), 'create table kept as select 1 as one');
      const before = cluster.pid();
      await cluster.kill(signal);
      expect(await isAlive(before)).toBe(false);
      await cluster.start();
      expect(cluster.pid()).not.toBe(before);
      expect(await askOnce(cluster.url(), 'select one from kept')).toBe(1);
      expect(await askOnce(cluster.url(), 'show work_mem')).toBe('5MB');
    } finally {
      await cluster.stop();
    }
  },
);

test('a stopped cluster leaves neither a process nor a directory', async () => {
  const cluster = await startCluster({ fsync: false });
  const pid = cluster.pid();
  await cluster.stop();
  expect(await isAlive(pid)).toBe(false);
  expect(existsSync(cluster.dataDir)).toBe(false);
});
