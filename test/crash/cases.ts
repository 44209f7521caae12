import { randomUUID } from 'node:crypto';
import type { CrashPoint } from '../../src/crash-point.ts';
import { inTransaction, query } from '../../src/postgres.ts';
import { requestTask } from '../../src/store/tasks.ts';
import { insertBooking, insertDetection } from '../support/application.ts';
import { until } from '../support/pipeline.ts';
import { addExpiring, addGhosts, change, type Farm, readUnseen } from './farm.ts';
import type { Stage } from './stage.ts';

/** How a process is brought to a crash point, and what must be seen afterwards besides what every case must show. */
export interface CrashCase {
  /** Of failures.md, or the invariant. */
  row: string;
  /** The passage at which it crashes; the first unless named. */
  passage?: number;
  /** Bytes of the request whose reply can be lost. */
  request?: { server: 'postgres' | 'mongodb'; contains: string };
  /** Bookings of the farm; 3 unless named. */
  farmSize?: number;
  prepare?: (stage: Stage, farm: Farm) => Promise<void>;
  provoke: (stage: Stage, farm: Farm) => Promise<void>;
  /** How many histories begin, and resyncs are asked for: none unless named. */
  histories?: 1;
  resyncs?: 1;
  /** Waits for what no change of a booking brings about. */
  done?: (stage: Stage, farm: Farm) => Promise<void>;
}

/** What MongoDB is asked to do stands first in its message, as a string of this name. */
const mongodb = (command: string): NonNullable<CrashCase['request']> => ({
  server: 'mongodb',
  contains: `\u0002${command}\u0000`,
});
const postgres = (contains: string): NonNullable<CrashCase['request']> => ({ server: 'postgres', contains });

/** A job whose process is gone is tried again once nobody has shown a sign of life for it. */
const JOB_DEADLINE_MS = 50_000;

export const PIPELINE_CASES: Partial<Record<CrashPoint, CrashCase>> = {
  'consumer.acquired': { row: 'row 10', provoke: loseStream },
  'consumer.history_cut': { row: 'row 12', provoke: dropSlot, histories: 1, resyncs: 1 },
  'consumer.slot_created': {
    row: 'row 12',
    provoke: dropSlot,
    histories: 1,
    resyncs: 1,
    request: postgres('begin_history'),
  },
  'consumer.received': { row: 'row 1', provoke: change },
  'consumer.before_reconcile': { row: 'row 1', provoke: change, request: postgres('reconcile_batch') },
  'consumer.between_chunks': { row: 'row 1', provoke: change, farmSize: 25, passage: 2 },
  'consumer.reconciled': { row: 'row 2', provoke: change },
  'consumer.confirmed': { row: 'I2', provoke: change },
  'publisher.before_claim': { row: 'I2', provoke: insertOne, request: postgres('claim_listings') },
  'publisher.claimed': { row: 'I2', provoke: change },
  'market.before_write': { row: 'row 6', provoke: change, request: mongodb('update') },
  'market.between_rounds': {
    row: 'row 26',
    prepare: announceByHand,
    provoke: insertAnnounced,
    request: mongodb('find'),
  },
  'publisher.written': { row: 'row 3', provoke: change, request: postgres('mark_published') },
  'publisher.marked': { row: 'row 3', provoke: change },
  'publisher.before_failure': { row: 'row 8', provoke: tooLarge, request: postgres('record_failure') },
  'queue.job_started': {
    row: 'row 28',
    prepare: makeDue,
    provoke: (stage) => stage.trigger('refresh'),
    done: untilRefreshed,
  },
  'refresh.between_chunks': {
    row: 'row 28',
    farmSize: 255,
    prepare: makeDue,
    provoke: (stage) => stage.trigger('refresh'),
    done: untilRefreshed,
  },
  'cleanup.claimed': {
    row: 'I4',
    prepare: addExpiring,
    provoke: (stage) => stage.trigger('cleanup'),
    done: untilCleaned,
    request: mongodb('delete'),
  },
  'cleanup.listings_deleted': {
    row: 'I4',
    prepare: addExpiring,
    provoke: (stage) => stage.trigger('cleanup'),
    done: untilCleaned,
    request: postgres('delete_ended'),
  },
  'cleanup.snapshots_deleted': {
    row: 'I4',
    prepare: addExpiring,
    provoke: (stage) => stage.trigger('cleanup'),
    done: untilCleaned,
  },
  'task.between_chunks': {
    row: 'row 24',
    farmSize: 25,
    passage: 2,
    provoke: askForBackfill,
    done: untilBackfilled,
    request: postgres('\u000bcommit\u0000'),
  },
  'resync.between_chunks': {
    row: 'row 24',
    farmSize: 25,
    passage: 2,
    provoke: askForResync,
    resyncs: 1,
    request: postgres('resync_chunk'),
  },
  'resync.before_ghosts': {
    row: 'row 13',
    provoke: askForResync,
    resyncs: 1,
    done: untilNoGhosts,
    request: mongodb('delete'),
  },
  'resync.ghosts_removed': {
    row: 'row 13',
    provoke: askForResync,
    resyncs: 1,
    done: untilNoGhosts,
    request: postgres(`set phase = 'done'`),
  },
};

/** What capture has not seen, a backfill finds. */
async function askForBackfill(stage: Stage, farm: Farm): Promise<void> {
  await readUnseen(stage, farm);
  await inTransaction(stage.scene.database.pool, (client) =>
    requestTask(client, { kind: 'backfill', requestedBy: 'a test' }),
  );
}

function untilBackfilled({ scene }: Stage): Promise<void> {
  return until(
    'the backfill is done',
    async () => {
      const open = await query(
        scene.database.pool,
        `select from market_sync.task where kind = 'backfill' and state <> 'done'`,
      );
      return open.length === 0;
    },
    JOB_DEADLINE_MS,
  );
}

/** The API's cases: what the caller asked for, and asks for again when no answer came. */
export const API_CASES: Partial<Record<CrashPoint, Pick<CrashCase, 'row' | 'request'> & { call: string }>> = {
  'api.before_publish': { row: 'row 29', call: 'publish', request: postgres('claim_listings') },
  'api.published': { row: 'row 3', call: 'publish' },
  'api.before_reconcile': { row: 'row 32', call: 'reconcile', request: postgres('reconcile') },
};

/** With the passage between the second and the third. */
export const MIGRATE_CASES: Partial<Record<CrashPoint, Pick<CrashCase, 'row' | 'request' | 'passage'>>> = {
  'migrate.between_migrations': { row: 'row 31', passage: 3, request: postgres('\u000bcommit\u0000') },
};

async function loseStream({ scene }: Stage): Promise<void> {
  await query(
    scene.database.pool,
    'select pg_terminate_backend(active_pid) from pg_replication_slots where slot_name = $1',
    [scene.config.slotName],
  );
}

async function dropSlot(stage: Stage): Promise<void> {
  const { pool } = stage.scene.database;
  const { slotName } = stage.scene.config;
  await until('the slot is dropped', async () => {
    await loseStream(stage);
    // Its consumer may be back already.
    await query(pool, 'select pg_drop_replication_slot($1)', [slotName]).catch(() => undefined);
    const rows = await query(pool, 'select from pg_replication_slots where slot_name = $1', [slotName]);
    return rows.length === 0;
  });
}

/** Listings of bookings that come later, put into the market by hand: their first write is refused as a duplicate. */
async function announceByHand({ scene }: Stage, farm: Farm): Promise<void> {
  const ids = Array.from({ length: 3 }, () => randomUUID());
  await scene.market.market.listings.insertMany(ids.map((id) => ({ booking_id: id })) as never);
  farm.bookingIds.push(...ids);
}

async function insertAnnounced({ scene }: Stage, { bookingIds, locationId }: Farm): Promise<void> {
  for (const id of bookingIds.slice(-3)) await insertBooking(scene.database.pool, { id, locationId });
}

/** What is new is claimed by a publisher; what changes, where it is recomputed. */
async function insertOne({ scene }: Stage, { bookingIds, locationId }: Farm): Promise<void> {
  bookingIds.push(await insertBooking(scene.database.pool, { locationId }));
}

/** More than MongoDB takes, until `change` mends it. */
async function tooLarge({ scene }: Stage, { inspectionId }: Farm): Promise<void> {
  await query(
    scene.database.pool,
    `update crop_inspections set visual_defects = repeat('mould ', 3000000) where id = $1`,
    [inspectionId],
  );
}

/** An event that leaves the window within a second or two. */
async function makeDue({ scene }: Stage, { locationId }: Farm): Promise<void> {
  const leavesAt = Date.now() + 2_000;
  await insertDetection(
    scene.database.pool,
    locationId,
    new Date(leavesAt - scene.config.pestWindowSeconds * 1_000),
  );
  await scene.settle();
  await until('the event has left the window', () => Date.now() > leavesAt + 100);
}

function untilRefreshed({ scene }: Stage, { bookingIds }: Farm): Promise<void> {
  return until(
    'what the clock has changed is refreshed',
    async () => {
      const due = await query(
        scene.database.pool,
        'select from market_sync.snapshot_state where booking_id = any ($1) and next_refresh_at <= clock_timestamp()',
        [bookingIds],
      );
      return due.length === 0;
    },
    JOB_DEADLINE_MS,
  );
}

function untilCleaned({ scene }: Stage, { expiring }: Farm): Promise<void> {
  return until(
    'the expired snapshots and listings are gone',
    async () => {
      const left = await query(
        scene.database.pool,
        `select booking_id from market_inventory_snapshots where booking_id = any ($1)
         union all select booking_id from market_sync.snapshot_state where booking_id = any ($1)`,
        [expiring],
      );
      const listed = await scene.market.market.listings.countDocuments({ booking_id: { $in: expiring } });
      return left.length === 0 && listed === 0;
    },
    JOB_DEADLINE_MS,
  );
}

/** Of a location nobody has heard since, and of ghosts nobody knows: a resync finds both. */
async function askForResync(stage: Stage, farm: Farm): Promise<void> {
  await addGhosts(stage, 3);
  await readUnseen(stage, farm);
  await query(stage.scene.database.pool, `select market_sync.request_resync('a test asked for it')`);
}

function untilNoGhosts({ scene }: Stage): Promise<void> {
  return until(
    'no ghosts are left',
    async () => (await scene.market.market.listings.countDocuments({ epoch: { $lt: 1 } })) === 0,
  );
}
