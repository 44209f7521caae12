import type { Activity, Metrics } from '../store/metrics.ts';
import { type Family, histogramOf, totalsOf } from './metrics.ts';

/**
 * Upper bounds of the histograms: buckets of `market_sync.latency_histogram`, so that nothing is interpolated.
 * 2, 5, 10, 20, 50, 100, 200, 500 ms, 1, 2, 5, 10, 32, 100 and 1000 s, to the digits that `market_sync.latency_bound` gives.
 */
const LATENCY_BUCKETS = [3, 7, 10, 13, 17, 20, 23, 27, 30, 33, 37, 40, 45, 50, 60];

/** Six digits: the label names a series, and the last digits of a power may differ between versions of Node. */
const boundSeconds = (bucket: number): number => Number((10 ** (bucket / 10 - 3)).toPrecision(6));

const SLOT_STATES = ['ok', 'filling', 'lost', 'missing', 'none'];

/** A family of figures from PostgreSQL. Without a sample it is left out: a zero would be a lie. */
type DatabaseFamily = Pick<Family, 'name' | 'help' | 'type'> & {
  read: (metrics: Metrics) => Family['samples'];
};

const value = (read: (metrics: Metrics) => number | boolean | null) => (metrics: Metrics) => {
  const figure = read(metrics);
  return figure === null ? [] : [{ value: Number(figure) }];
};

const totals = (kind: 'reconcile' | 'publish', read: (activity: Activity) => number) => (metrics: Metrics) =>
  totalsOf({ sum: read(metrics.activity[kind]), count: metrics.activity[kind].events });

const histogram = (stage: 'snapshot' | 'listing') => (metrics: Metrics) => {
  const buckets = metrics.latency.filter((counted) => counted.stage === stage);
  const countUpTo = (bucket: number): number =>
    buckets.reduce((sum, counted) => (counted.bucket <= bucket ? sum + counted.count : sum), 0);
  return histogramOf({
    upTo: LATENCY_BUCKETS.map((bucket) => ({ bound: boundSeconds(bucket), count: countUpTo(bucket) })),
    count: countUpTo(Number.POSITIVE_INFINITY),
    sum: buckets.reduce((sum, counted) => sum + counted.sum_seconds, 0),
  });
};

const FAMILIES: DatabaseFamily[] = [
  {
    name: 'market_sync_consumer_alive',
    help: '1 while a consumer shows signs of life, else 0.',
    type: 'gauge',
    read: value((metrics) => metrics.consumer_alive),
  },
  {
    name: 'market_sync_paused',
    help: '1 while the pipeline is paused by hand, else 0.',
    type: 'gauge',
    read: value((metrics) => metrics.paused),
  },
  {
    name: 'market_sync_lag_bytes',
    help: 'WAL written since the checkpoint.',
    type: 'gauge',
    read: value((metrics) => metrics.lag_bytes),
  },
  {
    name: 'market_sync_lag_seconds',
    help: 'How far snapshots are behind commits; 0 while a consumer follows and nothing waits. Absent before the first start.',
    type: 'gauge',
    read: value((metrics) => metrics.lag_seconds),
  },
  {
    name: 'market_sync_publish_lag_seconds',
    help: 'Age of the oldest change that MongoDB has not confirmed, without what failed and waits; 0 when there is none.',
    type: 'gauge',
    read: value((metrics) => metrics.publish_lag_seconds ?? 0),
  },
  {
    name: 'market_sync_commit_to_snapshot_seconds',
    help: 'How long after their commit changes were in the snapshots, by the oldest commit of a batch.',
    type: 'histogram',
    read: histogram('snapshot'),
  },
  {
    name: 'market_sync_commit_to_listing_seconds',
    help: 'How long after their commit changes were confirmed by MongoDB.',
    type: 'histogram',
    read: histogram('listing'),
  },
  {
    name: 'market_sync_to_publish',
    help: 'Snapshots whose newest revision MongoDB has not confirmed yet, without parked ones.',
    type: 'gauge',
    read: value((metrics) => metrics.to_publish),
  },
  {
    name: 'market_sync_parked',
    help: 'Snapshots that failed too often and are left alone until they are retried or change.',
    type: 'gauge',
    read: value((metrics) => metrics.parked),
  },
  {
    name: 'market_sync_queue_depth',
    help: 'What waits, by state: to_publish, in_work and waiting_for_retry are what MongoDB has not confirmed; parked, held, due_for_refresh.',
    type: 'gauge',
    read: (metrics) => metrics.queue.map(({ state, count }) => ({ labels: { state }, value: count })),
  },
  {
    name: 'market_sync_queue_oldest_seconds',
    help: 'How long the oldest in each state of the queue has waited; 0 when its age is not known or there is none.',
    type: 'gauge',
    read: (metrics) =>
      metrics.queue.map(({ state, oldest_seconds }) => ({ labels: { state }, value: oldest_seconds ?? 0 })),
  },
  {
    name: 'market_sync_reconcile_duration_seconds',
    help: 'Time in batches of the consumer (sum), and batches (count).',
    type: 'summary',
    read: totals('reconcile', (activity) => activity.busy_seconds),
  },
  {
    name: 'market_sync_reconcile_batch_bookings',
    help: 'Bookings recomputed in batches of the consumer (sum), and batches (count).',
    type: 'summary',
    read: totals('reconcile', (activity) => activity.items),
  },
  {
    name: 'market_sync_snapshots_changed_total',
    help: 'Snapshots of which a buyer saw something else after a batch of the consumer.',
    type: 'counter',
    read: value((metrics) => metrics.activity.reconcile.changed),
  },
  {
    name: 'market_sync_publish_duration_seconds',
    help: 'Time from claim to mark of batches of listings (sum), and batches (count).',
    type: 'summary',
    read: totals('publish', (activity) => activity.busy_seconds),
  },
  {
    name: 'market_sync_publish_batch_listings',
    help: 'Listings that MongoDB confirmed (sum), and batches (count).',
    type: 'summary',
    read: totals('publish', (activity) => activity.items),
  },
  {
    name: 'market_sync_failures_total',
    help: "Attempts that failed for reasons of one snapshot's own; each is tried again, or parks it.",
    type: 'counter',
    read: value((metrics) => metrics.activity.failure.items),
  },
  {
    name: 'market_sync_redelivered_transactions_total',
    help: 'Transactions that came again after a restart; they change nothing.',
    type: 'counter',
    read: value((metrics) => metrics.activity.redelivery.items),
  },
  {
    name: 'market_sync_malformed_messages_total',
    help: 'Messages on the change stream that nobody could parse; they were skipped.',
    type: 'counter',
    read: value((metrics) => metrics.malformed_messages),
  },
  {
    name: 'market_sync_slot_state',
    help: '1 for the state the replication slot is in (ok, filling, lost, missing, none), 0 for the others.',
    type: 'gauge',
    read: (metrics) =>
      SLOT_STATES.map((state) => ({ labels: { state }, value: Number(metrics.slot_state === state) })),
  },
  {
    name: 'market_sync_slot_active',
    help: '1 while the replication slot is streamed from, 0 when it is not or is missing.',
    type: 'gauge',
    read: value((metrics) => metrics.slot_active),
  },
  {
    name: 'market_sync_slot_retained_wal_bytes',
    help: 'WAL that PostgreSQL keeps for the replication slot; absent without a slot that can be used.',
    type: 'gauge',
    read: value((metrics) => metrics.slot_retained_wal_bytes),
  },
  {
    name: 'market_sync_slot_safe_wal_bytes',
    help: 'WAL that may still be written before the replication slot is in danger of being lost; absent where max_slot_wal_keep_size sets no limit.',
    type: 'gauge',
    read: value((metrics) => metrics.slot_safe_wal_bytes),
  },
  {
    name: 'market_sync_epoch',
    help: 'Epoch in force. It rises when history was cut: changes may have been lost or undone.',
    type: 'gauge',
    read: value((metrics) => metrics.epoch),
  },
  {
    name: 'market_sync_resyncs_total',
    help: 'Recomputes of everything that were asked for, the first start included.',
    type: 'counter',
    read: value((metrics) => metrics.resyncs),
  },
  {
    name: 'market_sync_resync_open',
    help: '1 while everything is being recomputed, else 0.',
    type: 'gauge',
    read: value((metrics) => metrics.resync_open),
  },
  {
    name: 'market_sync_audit_running',
    help: '1 while an audit compares everything, else 0.',
    type: 'gauge',
    read: value((metrics) => metrics.audit.running),
  },
  {
    name: 'market_sync_audit_age_seconds',
    help: 'Time since an audit ended in order; where none has, since the last migration.',
    type: 'gauge',
    read: value((metrics) => metrics.audit.age_seconds),
  },
  {
    name: 'market_sync_audit_finished_timestamp_seconds',
    help: 'When the last audit ended in order, in seconds since 1970. This and what it found are absent before the first.',
    type: 'gauge',
    read: value(({ audit }) => audit.last?.finished_at_seconds ?? null),
  },
  {
    name: 'market_sync_audit_duration_seconds',
    help: 'How long the last audit took, with what it waited for.',
    type: 'gauge',
    read: value(({ audit }) => audit.last?.duration_seconds ?? null),
  },
  {
    name: 'market_sync_audit_bookings',
    help: 'Bookings that the last audit compared.',
    type: 'gauge',
    read: value(({ audit }) => audit.last?.bookings ?? null),
  },
  {
    name: 'market_sync_audit_found',
    help: 'What the last audit found, by kind, repaired or not.',
    type: 'gauge',
    read: ({ audit }) =>
      (audit.last?.kinds ?? []).map(({ kind, found }) => ({ labels: { kind }, value: found })),
  },
  {
    name: 'market_sync_audit_repaired',
    help: 'How much of what the last audit found it has repaired, by kind.',
    type: 'gauge',
    read: ({ audit }) =>
      (audit.last?.kinds ?? []).map(({ kind, repaired }) => ({ labels: { kind }, value: repaired })),
  },
  {
    name: 'market_sync_jobs',
    help: 'Jobs of the last 7 days, by queue and state: created, retry, active, completed, cancelled, failed.',
    type: 'gauge',
    read: (metrics) =>
      metrics.jobs.map(({ queue, state, count }) => ({ labels: { queue, state }, value: count })),
  },
];

/** What PostgreSQL says, the same whichever process is asked; undefined: PostgreSQL did not answer. */
export const describeDatabase = (metrics: Metrics | undefined): Family[] => [
  {
    name: 'market_sync_postgres_up',
    help: '1 when PostgreSQL answered this scrape, else 0.',
    type: 'gauge',
    samples: [{ value: Number(metrics !== undefined) }],
  },
  ...(metrics === undefined ? [] : FAMILIES).flatMap(({ name, help, type, read }) => {
    const samples = metrics === undefined ? [] : read(metrics);
    const shared = `${help} From PostgreSQL: the same whichever process answers.`;
    return samples.length === 0 ? [] : [{ name, help: shared, type, samples }];
  }),
];
