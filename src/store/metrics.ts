import { type Database, query } from '../postgres.ts';
import { UNPUBLISHED } from './outbox.ts';

/** Figures for whoever watches, of one moment. Null: not known, or without meaning here. */
export interface Metrics {
  parked: number;
  to_publish: number;
  epoch: number;
  resyncs: number;
  resync_open: boolean;
  consumer_alive: boolean;
  lag_bytes: number | null;
  slot_active: boolean;
  slot_retained_wal_bytes: number | null;
  slot_safe_wal_bytes: number | null;
  malformed_messages: number;
}

/** One statement; what it counts are partial indexes that hold little when all is well. */
export async function readMetrics(db: Database): Promise<Metrics> {
  const rows = await query<Metrics & Record<string, unknown>>(
    db,
    `select
       (select count(*) from market_sync.snapshot_state where parked_at is not null) as parked,
       (select count(*) from market_sync.snapshot_state where ${UNPUBLISHED}) as to_publish,
       c.epoch,
       (select count(*) from market_sync.resync) as resyncs,
       exists (select from market_sync.resync where finished_at is null) as resync_open,
       coalesce(c.lease_until > clock_timestamp(), false) as consumer_alive,
       pg_current_wal_lsn() - c.commit_lsn as lag_bytes,
       coalesce(s.active, false) as slot_active,
       case when s.wal_status <> 'lost' then pg_current_wal_lsn() - s.restart_lsn end as slot_retained_wal_bytes,
       s.safe_wal_size as slot_safe_wal_bytes,
       c.malformed_messages
     from market_sync.checkpoint c
     left join pg_replication_slots s on s.slot_name = c.slot_name`,
  );
  const metrics = rows[0];
  if (metrics === undefined) throw new Error('market_sync.checkpoint is empty: its one row was deleted');
  return metrics;
}
