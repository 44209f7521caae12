import { styleText } from 'node:util';
import type { Config } from '../config.ts';
import type { Logger } from '../log.ts';
import { type Latency, readStatus, type Status } from '../store/status.ts';
import { withRunningDatabase } from './running-database.ts';

/** `market-sync status`: how everything stands, in one screen or as JSON. */
export async function runStatus(config: Config, log: Logger, { json }: { json: boolean }): Promise<void> {
  const status = await withRunningDatabase(config, log, readStatus);
  const colour = process.stdout.isTTY === true;
  process.stdout.write(json ? `${JSON.stringify(status)}\n` : describeStatus(status, { colour }));
}

type Tone = 'green' | 'yellow' | 'red';

/** One line a subject, each readable without its colour. */
export function describeStatus(status: Status, { colour }: { colour: boolean }): string {
  const { consumer, paused, checkpoint, publisher, snapshots, resync, versions } = status;
  // `styleText` would look at the environment, too; what decides here is the caller.
  const tone = (name: Tone, text: string): string =>
    colour ? styleText(name, text, { validateStream: false }) : text;
  const lines: [string, string | undefined][] = [
    [
      'consumer',
      tone(consumer.state === 'active' ? 'green' : 'red', consumer.state) +
        (consumer.holder === null ? '' : ` (${consumer.holder})`),
    ],
    [
      'paused',
      paused === null
        ? undefined
        : tone('yellow', `since ${paused.at} by ${paused.by ?? 'unknown'}: ${paused.reason ?? ''}`),
    ],
    ['slot', describeSlot(status, tone)],
    [
      'checkpoint',
      `${checkpoint.commit_lsn ?? 'none yet'}, ${formatSeconds(checkpoint.lag_seconds)} and ${formatBytes(checkpoint.lag_bytes)} behind, epoch ${checkpoint.epoch}, ${checkpoint.malformed_messages} malformed messages`,
    ],
    [
      'publisher',
      `${publisher.claims} in work, last confirmed ${describeMinute(publisher.last_confirmed_at)}${publisher.behind_seconds === null ? '' : `, ${formatSeconds(publisher.behind_seconds)} behind`}`,
    ],
    [
      'snapshots',
      `${snapshots.total} in all, ${snapshots.on_market} on the market, ${snapshots.ended} ended, ${snapshots.to_publish} to publish, ` +
        `${snapshots.parked > 0 ? tone('red', `${snapshots.parked} parked`) : '0 parked'}, ` +
        `${snapshots.held > 0 ? tone('yellow', `${snapshots.held} held`) : '0 held'}, ` +
        `${snapshots.due_for_refresh} due for refresh`,
    ],
    ...status.queue
      .filter((entry) => entry.count > 0)
      .map((entry): [string, string] => [
        '',
        `${entry.state.replaceAll('_', ' ')}: ${entry.count}, the oldest for ${formatSeconds(entry.oldest_seconds)}`,
      ]),
    ['latency', describeLatency(status.latency)],
    [
      'resync',
      resync === null
        ? 'none'
        : tone('yellow', `${resync.reason}: ${resync.phase}, ${resync.bookings_done} bookings done`),
    ],
    [
      'versions',
      `${versions.migration}, PostgreSQL ${versions.postgres}, pg-boss ${versions.pg_boss ?? 'not installed'}`,
    ],
  ];
  return lines
    .filter(([, text]) => text !== undefined)
    .map(([subject, text]) => `${subject.padEnd(11)} ${text}\n`)
    .join('');
}

const SLOT_TONES: Record<Status['slot']['state'], Tone> = {
  ok: 'green',
  none: 'yellow',
  filling: 'yellow',
  lost: 'red',
  missing: 'red',
};

function describeSlot({ slot }: Status, tone: (name: Tone, text: string) => string): string {
  const safe =
    slot.safe_wal_bytes === null ? '' : `, ${formatBytes(slot.safe_wal_bytes)} until it is in danger`;
  const state = tone(SLOT_TONES[slot.state], slot.state);
  if (slot.name === null || slot.state === 'missing') return `${slot.name ?? 'none yet'}, ${state}`;
  return `${slot.name}, ${state}, ${slot.active ? 'streaming' : 'not streaming'}, WAL ${slot.wal_status ?? 'unknown'}, ${formatBytes(slot.retained_wal_bytes)} retained${safe}`;
}

/** It is known to the minute only, and says so. */
const describeMinute = (minute: string | null): string =>
  minute === null ? 'not within a day' : `in the minute of ${minute.slice(0, 16)}Z`;

/** The shortest window in which anything was measured. */
function describeLatency(latency: Latency[]): string {
  const parts = (['snapshot', 'listing'] as const).map((stage) => {
    const measured = latency.find((entry) => entry.stage === stage && entry.count > 0);
    if (measured === undefined) return `commit to ${stage}: nothing measured within an hour`;
    const { p50_ms: p50, p95_ms: p95, p99_ms: p99, max_ms: max, count, window_minutes: minutes } = measured;
    return `commit to ${stage}: p50 ${p50} ms, p95 ${p95} ms, p99 ${p99} ms, max ${max} ms (${count} in ${minutes} min)`;
  });
  return parts.join(`\n${' '.repeat(12)}`);
}

function formatSeconds(seconds: number | null): string {
  if (seconds === null) return 'unknown';
  if (seconds < 120) return `${Math.round(seconds * 10) / 10} s`;
  if (seconds < 2 * 3600) return `${Math.round(seconds / 60)} min`;
  return seconds < 48 * 3600 ? `${Math.round(seconds / 3600)} h` : `${Math.round(seconds / 86_400)} days`;
}

function formatBytes(bytes: number | null): string {
  if (bytes === null) return 'unknown';
  const units = ['B', 'kB', 'MB', 'GB', 'TB'];
  let [value, unit] = [bytes, 0];
  while (value >= 1024 && unit < units.length - 1) {
    value /= 1024;
    unit += 1;
  }
  return `${unit === 0 ? value : value.toFixed(1)} ${units[unit]}`;
}
