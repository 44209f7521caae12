import type pg from 'pg';
import { type Pipeline, type PipelineContext, startPipeline } from '../../pipeline/pipeline.ts';
import { findSlot } from '../../pipeline/slot.ts';
import type { Config } from '../../src/config.ts';
import { applyStorageGuardTables } from '../../src/embedded/storage-guard.ts';
import type { Lsn } from '../../src/lsn.ts';
import { migrate } from '../../src/migrate.ts';
import type { Market } from '../../src/mongo.ts';
import { createPool, query } from '../../src/postgres.ts';
import { decide, readDecisions } from '../oracle/manual-rules.ts';
import type { TestCluster } from './cluster.ts';
import {
  compareListing,
  compareSnapshot,
  type Difference,
  formatDifferences,
  type ListingDocument,
  plainRow,
  readSnapshotRows,
} from './compare.ts';
import { computeSnapshot } from './oracle.ts';
import {
  createMarket,
  settle,
  type TestClock,
  type TestMarket,
  testConfig,
  testLog,
  until,
} from './pipeline.ts';
import { createDatabase, type TestDatabase } from './postgres.ts';
import type { TemplateName } from './templates.ts';

interface StartOptions {
  /** Another way to the same servers: through a proxy. */
  databaseUrl?: string;
  market?: Market;
  onBatch?: NonNullable<PipelineContext['onBatch']>;
  log?: PipelineContext['log'];
  checkIntervalMs?: number;
  /** The consumer's state that is waited for; `active` unless named. */
  until?: 'active' | 'standby' | 'starting';
}

/**
 * One database and one market, on which pipelines are started, stopped and started again. In the shared cluster, or in
 * one of the test's own.
 */
export interface Scene {
  database: TestDatabase;
  market: TestMarket;
  config: Config;
  start(options?: StartOptions): Promise<Pipeline>;
  /** Waits until everything committed so far is in the snapshots and in MongoDB. */
  settle(): Promise<void>;
  /** Throws what of these bookings (every live one unless named) differs from the oracle, in PostgreSQL and MongoDB. */
  expectConverged(bookingIds?: readonly string[]): Promise<void>;
  /** How far the slot is confirmed. Throws when there is none. */
  confirmedLsn(): Promise<Lsn>;
  /** The booking's only listing. Throws when there are several. */
  listing(bookingId: string): Promise<ListingDocument | undefined>;
  /** Ends the pipelines that still run: after a test that failed half-way. */
  stopPipelines(): Promise<void>;
  /** Ends whatever still runs and drops everything. */
  stop(): Promise<void>;
}

export async function createScene(
  options: {
    cluster?: TestCluster;
    clock?: TestClock;
    settings?: NodeJS.ProcessEnv;
    /** SQL that changes the application's tables before they are migrated. */
    source?: string;
    /** What the database starts with in the shared cluster; `migrated` unless named. */
    template?: TemplateName;
  } = {},
): Promise<Scene> {
  const { clock, cluster, source } = options;
  const database = await (cluster !== undefined
    ? migrated(cluster)
    : source === undefined
      ? createDatabase({ template: options.template ?? 'migrated' })
      : migratedFrom(source));
  const market = await createMarket();
  const config = testConfig(database, options.settings);
  const stops = new Set<() => Promise<void>>();

  const start = async (asked: StartOptions = {}): Promise<Pipeline> => {
    const databaseUrl = asked.databaseUrl ?? database.url;
    const log = asked.log ?? testLog();
    const pool = createPool({ url: databaseUrl, applicationName: 'pipeline', sourceSchema: 'public', log });
    const pipeline = await startPipeline({
      config,
      databaseUrl,
      pool,
      market: asked.market ?? market.market,
      log,
      ...(clock === undefined ? {} : { clock: () => clock.now() }),
      ...(asked.onBatch === undefined ? {} : { onBatch: asked.onBatch }),
      ...(asked.checkIntervalMs === undefined ? {} : { checkIntervalMs: asked.checkIntervalMs }),
    });
    const stop = async (): Promise<void> => {
      if (!stops.delete(stop)) return;
      await pipeline.stop().finally(() => pool.end());
    };
    stops.add(stop);
    const wanted = asked.until ?? 'active';
    await until(`the consumer is ${wanted}`, () => pipeline.consumer.state === wanted);
    return { ...pipeline, stop };
  };

  const listing = async (bookingId: string): Promise<ListingDocument | undefined> => {
    const documents = await market.market.listings.find({ booking_id: bookingId }).toArray();
    if (documents.length > 1) throw new Error(`${documents.length} listings of booking ${bookingId}`);
    return documents[0] as unknown as ListingDocument | undefined;
  };

  const compare = async (client: pg.ClientBase, id: string): Promise<Difference[]> => {
    const now = clock?.now() ?? new Date();
    const computed = await computeSnapshot(client, id, now, config);
    const decided = (await readDecisions(client, [id], now)).get(id);
    const content = computed === null || decided === undefined ? computed : decide(computed, decided);
    const [row] = (await readSnapshotRows(client as unknown as pg.Pool, [id])).map(plainRow);
    const document = await listing(id);
    if (content === null || row === undefined || document === undefined) {
      return [
        {
          subject: id,
          field: 'booking, snapshot, listing',
          expected: 'all',
          actual: [content, row, document],
        },
      ];
    }
    const version = {
      epoch: Number(row.epoch),
      revision: Number(row.revision),
      updatedAt: String(row.updated_at),
    };
    return [
      ...compareSnapshot(`snapshot ${id}`, content, row),
      ...compareListing(`listing ${id}`, { content, version }, document),
    ];
  };

  const stopPipelines = async (): Promise<void> => {
    for (const stop of [...stops]) await stop().catch(() => undefined); // A failed one has said so to its test.
  };

  return {
    database,
    market,
    config,
    start,
    settle: () => settle(database, { clock }),
    expectConverged: async (bookingIds) => {
      const client = await database.pool.connect();
      try {
        const differences: Difference[] = [];
        for (const id of bookingIds ?? (await liveBookings(client)))
          differences.push(...(await compare(client, id)));
        if (differences.length > 0) throw new Error(`not converged:\n${formatDifferences(differences)}`);
      } finally {
        client.release();
      }
    },
    confirmedLsn: async () => {
      const slot = await findSlot(database.pool, config.slotName);
      if (slot === undefined) throw new Error('there is no slot');
      return slot.confirmedLsn;
    },
    listing,
    stopPipelines,
    stop: async () => {
      await stopPipelines();
      await market.drop();
      await database.drop();
    },
  };
}

async function liveBookings(db: pg.ClientBase): Promise<string[]> {
  const rows = await query<{ id: string }>(
    db,
    `select id from storage_bookings where booking_status is null or booking_status not in ('completed', 'cancelled')`,
  );
  return rows.map((row) => row.id);
}

/** The database `postgres` of a cluster of the test's own, migrated. It goes with the cluster. */
async function migrated(cluster: TestCluster): Promise<TestDatabase> {
  const log = testLog();
  const url = cluster.url();
  const pool = createPool({ url, applicationName: 'test', sourceSchema: 'public', log });
  await applyStorageGuardTables({ pool, sourceSchema: 'public' });
  await migrate({ pool, sourceSchema: 'public', log });
  return { url, name: 'postgres', pool, drop: () => pool.end() };
}

async function migratedFrom(source: string): Promise<TestDatabase> {
  const database = await createDatabase();
  await query(database.pool, source);
  await migrate({ pool: database.pool, sourceSchema: 'public', log: testLog() });
  return database;
}
