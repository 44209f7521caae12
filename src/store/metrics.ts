import { type Database, query } from '../postgres.ts';
import { FINDING_KINDS, type FindingKind } from './drift-run.ts';

/** What was done since this database was migrated, of one kind. */
export interface Activity {
  events: number;
  items: number;
  changed: number;
  busy_seconds: number;
}

/** Latencies of more than the bound before and at most `latency_bound(bucket)` milliseconds. */
interface LatencyBucket {
  stage: 'snapshot' | 'listing';
  bucket: number;
  count: number;
  sum_seconds: number;
}

/**
 * Figures for whoever watches, of one moment. Sizes in bytes, ages in seconds. Null: not known, or without meaning here.
 * What `activity` and `latency` say never goes down.
 */
export interface Metrics {
  epoch: number;
  malformed_messages: number;
  resyncs: number;
  resync_open: boolean;
  consumer_alive: boolean;
  paused: boolean;
  lag_bytes: number | null;
  lag_seconds: number | null;
  publish_lag_seconds: number | null;
  slot_state: string;
  slot_active: boolean;
  slot_retained_wal_bytes: number | null;
  slot_safe_wal_bytes: number | null;
  to_publish: number;
  parked: number;
  /** Always the six states of the view; a count of 100,001 says that there are more. */
  queue: { state: string; count: number; oldest_seconds: number | null }[];
  /** Always the four kinds. */
  activity: Record<'reconcile' | 'publish' | 'failure' | 'redelivery', Activity>;
  /** Ascending buckets; those that counted nothing are left out. */
  latency: LatencyBucket[];
  audit: AuditFigures;
  /** Without pg-boss's tables: none. */
  jobs: { queue: string; state: string; count: number }[];
}

interface AuditFigures {
  running: boolean;
  /** Since the last audit that ended in order, or, where none has, since the last migration. */
  age_seconds: number;
  /** The last one that ended in order; null where none has. */
  last: {
    finished_at_seconds: number;
    duration_seconds: number;
    bookings: number;
    /** Of each kind of `FINDING_KINDS`. */
    kinds: { kind: FindingKind; found: number; repaired: number }[];
  } | null;
}

/** Ours are a handful of queues, of six states each; whoever adds others to pg-boss does not swell every answer. */
const JOB_COUNTS_MAX = 120;

/** One statement, so that the figures are of one moment. What waits is counted up to a bound, see the view queue. */
export async function readMetrics(db: Database): Promise<Metrics> {
  const rows = await query<{ metrics: Metrics }>(
    db,
    `select jsonb_build_object(
       'epoch', s.epoch, 'malformed_messages', s.malformed_messages,
       'resyncs', (select count(*) from market_sync.resync), 'resync_open', s.resync_id is not null,
       'consumer_alive', s.consumer_state = 'active', 'paused', s.paused_at is not null,
       'lag_bytes', s.lag_bytes, 'lag_seconds', s.lag_seconds, 'publish_lag_seconds', s.publish_lag_seconds,
       'slot_state', s.slot_state, 'slot_active', s.slot_active,
       'slot_retained_wal_bytes', s.retained_wal_bytes, 'slot_safe_wal_bytes', s.safe_wal_bytes,
       'to_publish', s.to_publish, 'parked', s.parked,
       'queue', s.queue,
       'activity', (
         select jsonb_object_agg(kind, jsonb_build_object(
           'events', events, 'items', items, 'changed', changed, 'busy_seconds', busy_ms / 1000))
         from (
           select kind.kind, coalesce(sum(events), 0) as events, coalesce(sum(items), 0) as items,
             coalesce(sum(changed), 0) as changed, coalesce(sum(busy_ms), 0) as busy_ms
           from unnest(array['reconcile', 'publish', 'failure', 'redelivery']) kind
           left join market_sync.activity on activity.kind = kind.kind
             or (kind.kind = 'failure' and activity.kind = 'refusal')
           group by kind.kind) activity),
       'latency', (
         select coalesce(jsonb_agg(jsonb_build_object(
           'stage', stage, 'bucket', bucket, 'count', count, 'sum_seconds', sum_ms / 1000) order by stage, bucket), '[]')
         from (
           select stage, bucket, sum(count) as count, sum(sum_ms) as sum_ms
           from market_sync.latency_histogram group by stage, bucket) latency),
       'audit', (
         select jsonb_build_object(
           'running', exists (select from market_sync.audits where state = 'running'),
           'age_seconds', extract(epoch from clock_timestamp() - coalesce(last.finished_at, installed.applied_at)),
           'last', case when last.id is not null then jsonb_build_object(
             'finished_at_seconds', extract(epoch from last.finished_at),
             'duration_seconds', extract(epoch from last.finished_at - last.started_at),
             'bookings', last.compared,
             'kinds', (
               select jsonb_agg(jsonb_build_object(
                 'kind', kind, 'found', coalesce((last.kinds -> kind ->> 'found')::bigint, 0),
                 'repaired', coalesce((last.kinds -> kind ->> 'repaired')::bigint, 0)))
               from unnest($1::text[]) kind)) end)
         from (select max(applied_at) as applied_at from market_sync.migrations) installed
         left join (
           select * from market_sync.audits where state = 'done' order by id desc limit 1) last on true),
       'jobs', (
         select coalesce(jsonb_agg(jsonb_build_object('queue', queue, 'state', state, 'count', count)), '[]')
         from (
           select queue, state, count(*) as count from market_sync.jobs
           group by queue, state order by queue, state limit ${JOB_COUNTS_MAX}) job)) as metrics
     from market_sync.status s`,
    [FINDING_KINDS],
  );
  const metrics = rows[0]?.metrics;
  if (metrics === undefined) throw new Error('market_sync.checkpoint is empty: its one row was deleted');
  return metrics;
}
