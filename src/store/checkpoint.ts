import { formatLsn, type Lsn, parseLsn } from '../lsn.ts';
import { type Database, query } from '../postgres.ts';

/** How far the consumer has come, and on which history. */
export interface Checkpoint {
  /** End of the last commit that is in the snapshots; undefined before the first start. */
  commitLsn: Lsn | undefined;
  systemIdentifier: string | undefined;
  timeline: number | undefined;
  epoch: number;
  generation: number;
  holder: string | undefined;
  /** True while the holder's lease has not run out. */
  alive: boolean;
  malformedMessages: number;
}

export async function readCheckpoint(db: Database): Promise<Checkpoint> {
  const rows = await query<{
    commit_lsn: string | null;
    system_identifier: string | null;
    timeline: number | null;
    epoch: number;
    generation: number;
    holder: string | null;
    alive: boolean;
    malformed_messages: number;
  }>(
    db,
    `select commit_lsn::text, system_identifier, timeline, epoch, generation, holder,
       coalesce(lease_until > clock_timestamp(), false) as alive, malformed_messages
     from market_sync.checkpoint`,
  );
  const row = rows[0];
  if (row === undefined) throw new Error('market_sync.checkpoint is empty: its one row was deleted');
  return {
    commitLsn: row.commit_lsn === null ? undefined : parseLsn(row.commit_lsn),
    systemIdentifier: row.system_identifier ?? undefined,
    timeline: row.timeline ?? undefined,
    epoch: row.epoch,
    generation: row.generation,
    holder: row.holder ?? undefined,
    alive: row.alive,
    malformedMessages: row.malformed_messages,
  };
}

/** Takes the consumer's place; answers its generation, or undefined while another consumer shows signs of life (I6). */
export async function acquireConsumer(
  db: Database,
  { holder, slotName, leaseSeconds }: { holder: string; slotName: string; leaseSeconds: number },
): Promise<number | undefined> {
  const rows = await query<{ generation: number | null }>(
    db,
    'select market_sync.acquire_consumer($1, $2, make_interval(secs => $3)) as generation',
    [holder, slotName, leaseSeconds],
  );
  return rows[0]?.generation ?? undefined;
}

/** A sign of life, with the commit of the oldest change in hand. Answers false when another consumer has taken over. */
export async function renewConsumer(
  db: Database,
  {
    generation,
    leaseSeconds,
    workingSinceMs,
  }: { generation: number; leaseSeconds: number; workingSinceMs?: number | undefined },
): Promise<boolean> {
  const rows = await query<{ held: boolean }>(
    db,
    'select market_sync.renew_consumer($1, make_interval(secs => $2), $3) as held',
    [generation, leaseSeconds, workingSinceMs === undefined ? null : new Date(workingSinceMs)],
  );
  return rows[0]?.held === true;
}

/** Gives the place back, so that a standby need not wait for the lease to run out. */
export async function releaseConsumer(db: Database, generation: number): Promise<void> {
  await query(db, 'select market_sync.release_consumer($1)', [generation]);
}

export interface NewHistory {
  generation: number;
  slotName: string;
  systemIdentifier: string;
  timeline: number;
  /** Where the fresh slot begins. */
  commitLsn: Lsn;
  /** True when changes may have been lost or undone: the epoch rises. */
  cut: boolean;
  /** The highest epoch that MongoDB has a listing of: the new one is above it. */
  marketEpoch: number;
  reason: string;
}

/** Starts the checkpoint at a fresh slot and asks for a recompute of everything. Answers the epoch in force. */
export async function beginHistory(db: Database, history: NewHistory): Promise<number> {
  const rows = await query<{ epoch: number }>(
    db,
    'select market_sync.begin_history($1, $2, $3, $4, $5, $6, $7, $8) as epoch',
    [
      history.generation,
      history.slotName,
      history.systemIdentifier,
      history.timeline,
      formatLsn(history.commitLsn),
      history.cut,
      history.marketEpoch,
      history.reason,
    ],
  );
  const epoch = rows[0]?.epoch;
  if (epoch === undefined) throw new Error('begin_history answered nothing');
  return epoch;
}

/** The checkpoint goes on on the timeline of a standby that has taken over; MongoDB is then compared once more (D22). */
export async function followTimeline(
  db: Database,
  { generation, timeline }: { generation: number; timeline: number },
): Promise<void> {
  await query(db, 'select market_sync.follow_timeline($1, $2)', [generation, timeline]);
}

/** Counts messages on the change stream that nobody could parse (they are skipped). */
export async function countMalformed(db: Database, count: number): Promise<void> {
  await query(db, 'update market_sync.checkpoint set malformed_messages = malformed_messages + $1', [count]);
}

/** The windows that decide what a snapshot says, in seconds. */
export interface WindowSettings {
  pestWindowSeconds: number;
  sensorStaleSeconds: number;
  retentionSeconds: number;
  publishIntervalMs: number;
}

/** Stores the windows for every process and for SQL; asks for a recompute of everything when what a snapshot says depends on the change. */
export async function storeWindows(db: Database, windows: WindowSettings): Promise<void> {
  await query(
    db,
    `with before as (select pest_window, sensor_stale_after from market_sync.settings),
       stored as (
         update market_sync.settings
         set pest_window = make_interval(secs => $1), sensor_stale_after = make_interval(secs => $2),
           retention = make_interval(secs => $3), publish_interval = $4 * interval '1 millisecond')
     select market_sync.request_resync('windows were changed')
     from before, market_sync.checkpoint
     where (pest_window, sensor_stale_after) is distinct from (make_interval(secs => $1), make_interval(secs => $2))
       and commit_lsn is not null`,
    [
      windows.pestWindowSeconds,
      windows.sensorStaleSeconds,
      windows.retentionSeconds,
      windows.publishIntervalMs,
    ],
  );
}
