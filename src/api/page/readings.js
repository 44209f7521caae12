/**
 * The status as the API tells it (`GET /pipeline/status`), in the shape the views draw. Null becomes undefined: not
 * known, or without meaning here.
 */
export function toReadings(status) {
  const { consumer, slot, checkpoint, publisher, snapshots, resync, paused, versions } = status;
  const listing = newestLatency(status.latency, 'listing');
  return {
    paused: paused && { since: paused.at, by: paused.by, reason: paused.reason },
    consumer,
    slot: {
      name: slot.name ?? undefined,
      state: slot.state,
      active: slot.active,
      walStatus: slot.wal_status ?? undefined,
      retainedBytes: slot.retained_wal_bytes ?? undefined,
      safeBytes: slot.safe_wal_bytes ?? undefined,
    },
    publisher: {
      claims: publisher.claims,
      lastConfirmedAt: publisher.last_confirmed_at ?? undefined,
      behindSeconds: publisher.behind_seconds ?? undefined,
    },
    lagBytes: checkpoint.lag_bytes ?? undefined,
    lagSeconds: checkpoint.lag_seconds ?? undefined,
    malformed: checkpoint.malformed_messages,
    epoch: checkpoint.epoch,
    resync: resync && { reason: resync.reason, phase: resync.phase, done: resync.bookings_done },
    latency: {
      p50Ms: listing?.p50_ms ?? undefined,
      p99Ms: listing?.p99_ms ?? undefined,
      minutes: listing?.window_minutes,
    },
    snapshots,
    queue: status.queue.map(({ state, count, oldest_seconds }) => ({
      state,
      count,
      oldestSeconds: oldest_seconds ?? undefined,
    })),
    // What an hour has seen so far: its growth is a rate.
    totals: { changes: hourOf(status.latency, 'snapshot'), published: hourOf(status.latency, 'listing') },
    versions,
  };
}

/** The shortest window that has seen anything. */
const newestLatency = (latency, stage) =>
  latency
    .filter((row) => row.stage === stage && row.count > 0)
    .sort((a, b) => a.window_minutes - b.window_minutes)[0];

const hourOf = (latency, stage) =>
  latency.find((row) => row.stage === stage && row.window_minutes === 60)?.count ?? undefined;

/** How many snapshots wait in this state. */
export const waiting = (readings, state) => readings.queue.find((row) => row.state === state)?.count ?? 0;
