import { type Database, query } from '../postgres.ts';
import type { SlotState } from './slot-health.ts';

/**
 * How everything stands, at a glance: the views status, queue and latency. Sizes in bytes, ages in seconds, times as ISO
 * 8601; null: not known, or there is none.
 */
export interface Status {
  consumer: { state: 'active' | 'absent'; holder: string | null };
  /** Null unless somebody has paused the pipeline. */
  paused: { at: string; by: string | null; reason: string | null } | null;
  slot: {
    name: string | null;
    state: SlotState;
    active: boolean;
    active_pid: number | null;
    wal_status: string | null;
    retained_wal_bytes: number | null;
    /** WAL that may still be written before the slot is in danger; null where nothing limits what is kept. */
    safe_wal_bytes: number | null;
  };
  checkpoint: {
    commit_lsn: string | null;
    advanced_at: string | null;
    lag_bytes: number | null;
    /** See the comment of market_sync.status.lag_seconds: 0 while nothing waits. */
    lag_seconds: number | null;
    epoch: number;
    malformed_messages: number;
  };
  publisher: {
    /** Snapshots being written to MongoDB now. */
    claims: number;
    /** The minute in which MongoDB last confirmed a listing. */
    last_confirmed_at: string | null;
    /** Age of the oldest change that MongoDB has not confirmed. */
    behind_seconds: number | null;
  };
  /**
   * `total` and `ended` (completed or withdrawn) are estimates beyond 100,000. `on_market`: all but those and the held ones;
   * `to_publish` of all of them have a revision that MongoDB has not confirmed. Of what waits 100,001 are counted at most.
   */
  snapshots: {
    total: number;
    on_market: number;
    ended: number;
    to_publish: number;
    parked: number;
    held: number;
    due_for_refresh: number;
  };
  resync: { id: number; reason: string; phase: string; bookings_done: number; requested_at: string } | null;
  versions: { migration: string; postgres: string; pg_boss: number | null };
  /** Always all six. */
  queue: QueueState[];
  /** Always all six: two stages, three windows. */
  latency: Latency[];
}

interface QueueState {
  state: 'to_publish' | 'in_work' | 'waiting_for_retry' | 'parked' | 'held' | 'due_for_refresh';
  /** 100,001 says that there are more. */
  count: number;
  oldest_at: string | null;
  oldest_seconds: number | null;
}

/** Percentiles are upper bounds of histogram buckets; null while nothing was measured. */
export interface Latency {
  stage: 'snapshot' | 'listing';
  window_minutes: 1 | 15 | 60;
  count: number;
  p50_ms: number | null;
  p95_ms: number | null;
  p99_ms: number | null;
  max_ms: number | null;
}

/** One statement, so that the figures are of one moment; cheap enough to be asked every second. */
export async function readStatus(db: Database): Promise<Status> {
  const rows = await query<{ status: Status }>(db, STATUS);
  const status = rows[0]?.status;
  if (status === undefined) throw new Error('market_sync.checkpoint is empty: its one row was deleted');
  return status;
}

const STATUS = `
  select jsonb_build_object(
    'consumer', jsonb_build_object('state', s.consumer_state, 'holder', s.consumer_holder),
    'paused', case when s.paused_at is not null then
      jsonb_build_object('at', market_sync.iso(s.paused_at), 'by', s.paused_by, 'reason', s.pause_reason) end,
    'slot', jsonb_build_object(
      'name', s.slot_name, 'state', s.slot_state, 'active', s.slot_active, 'active_pid', s.slot_active_pid,
      'wal_status', s.wal_status, 'retained_wal_bytes', s.retained_wal_bytes, 'safe_wal_bytes', s.safe_wal_bytes),
    'checkpoint', jsonb_build_object(
      'commit_lsn', s.commit_lsn, 'advanced_at', market_sync.iso(s.advanced_at), 'lag_bytes', s.lag_bytes,
      'lag_seconds', s.lag_seconds, 'epoch', s.epoch, 'malformed_messages', s.malformed_messages),
    'publisher', jsonb_build_object(
      'claims', s.claims, 'last_confirmed_at', market_sync.iso(s.last_confirmed_at), 'behind_seconds', s.publish_lag_seconds),
    'snapshots', jsonb_build_object(
      'total', s.snapshots, 'on_market', greatest(s.snapshots - s.ended - s.held, 0), 'ended', s.ended, 'to_publish', s.to_publish, 'parked', s.parked, 'held', s.held,
      'due_for_refresh', s.due_for_refresh),
    'resync', case when s.resync_id is not null then jsonb_build_object(
      'id', s.resync_id, 'reason', s.resync_reason, 'phase', s.resync_phase, 'bookings_done', s.resync_bookings_done,
      'requested_at', market_sync.iso(s.resync_requested_at)) end,
    'versions', jsonb_build_object(
      'migration', s.migration, 'postgres', s.postgres_version, 'pg_boss', s.pg_boss_version),
    'queue', s.queue,
    'latency', (
      select jsonb_agg(to_jsonb(l) order by l.stage desc, l.window_minutes) from market_sync.latency l)) as status
  from market_sync.status s`;
