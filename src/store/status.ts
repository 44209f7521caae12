import { type Database, query } from '../postgres.ts';
import { UNPUBLISHED } from './outbox.ts';

/** How everything stands, at a glance. Sizes in bytes, ages in seconds. */
export interface Status {
  consumer: { state: 'active' | 'absent'; holder: string | null };
  slot: {
    name: string | null;
    active: boolean;
    wal_status: string | null;
    retained_wal_bytes: number | null;
    /** WAL that may still be written before the slot is in danger; null where nothing limits what is kept. */
    safe_wal_bytes: number | null;
  };
  checkpoint: {
    commit_lsn: string | null;
    lag_bytes: number | null;
    epoch: number;
    malformed_messages: number;
  };
  snapshots: { total: number; to_publish: number; parked: number; due_for_refresh: number };
  resync: { reason: string; phase: string; bookings_done: number } | null;
}

/** One statement, so that the figures are of one moment. */
export async function readStatus(db: Database): Promise<Status> {
  const rows = await query<{ status: Status }>(
    db,
    `select jsonb_build_object(
       'consumer', jsonb_build_object(
         'state', case when c.lease_until > clock_timestamp() then 'active' else 'absent' end, 'holder', c.holder),
       'slot', jsonb_build_object(
         'name', c.slot_name, 'active', coalesce(s.active, false), 'wal_status', s.wal_status,
         'retained_wal_bytes', pg_current_wal_lsn() - s.restart_lsn, 'safe_wal_bytes', s.safe_wal_size),
       'checkpoint', jsonb_build_object(
         'commit_lsn', c.commit_lsn, 'lag_bytes', pg_current_wal_lsn() - c.commit_lsn, 'epoch', c.epoch,
         'malformed_messages', c.malformed_messages),
       'snapshots', (
         select jsonb_build_object(
           'total', count(*) filter (where revision > 0),
           'to_publish', count(*) filter (where ${UNPUBLISHED}),
           'parked', count(*) filter (where parked_at is not null),
           'due_for_refresh', count(*) filter (where next_refresh_at <= clock_timestamp()))
         from market_sync.snapshot_state),
       'resync', (
         select jsonb_build_object('reason', reason, 'phase', phase, 'bookings_done', bookings_done)
         from market_sync.resync where finished_at is null order by id limit 1)) as status
     from market_sync.checkpoint c
     left join pg_replication_slots s on s.slot_name = c.slot_name`,
  );
  const status = rows[0]?.status;
  if (status === undefined) throw new Error('market_sync.checkpoint is empty: its one row was deleted');
  return status;
}
