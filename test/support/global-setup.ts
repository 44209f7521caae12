import type { TestProject } from 'vitest/node';
import { startCluster } from './cluster.ts';
import { removeAbandonedClusters } from './cluster-directory.ts';

declare module 'vitest' {
  interface ProvidedContext {
    /** The superuser's connection string to the shared cluster, database `postgres`. */
    postgresUrl: string;
  }
}

/**
 * One PostgreSQL for the whole run, in which `createDatabase` gives every test its own. fsync is off: this cluster is
 * thrown away at the end and never crashed on purpose (tests that crash one use `startCluster`).
 */
export default async function setup(project: TestProject): Promise<() => Promise<void>> {
  // A server that is there already (`npm run test:containers`); tests that crash one still make their own.
  const shared = process.env.TEST_POSTGRES_URL;
  if (shared !== undefined) {
    project.provide('postgresUrl', shared);
    return async () => undefined;
  }
  await removeAbandonedClusters();
  const cluster = await startCluster({ fsync: false, parameters: { full_page_writes: 'off' } });
  project.provide('postgresUrl', cluster.url());
  return () => cluster.stop();
}
