import type { BackfillProgress } from '../store/backfills.ts';

const BAR_MIN = 5;
const BAR_MAX = 30;

/**
 * One line that fits: what matters least goes first when the terminal is narrow. Never as wide as the terminal, where it
 * would wrap and could not be written over.
 */
export function describeProgress(progress: BackfillProgress, columns: number): string {
  const { total, done, failed, rate_per_second: rate, eta_seconds: left } = progress;
  const counted = done + failed;
  const share = total === null || total === 0 ? 0 : Math.min(counted / total, 1);
  const percent = `${Math.floor(share * 100)}%`.padStart(4);
  const counts = total === null ? '' : `${formatCount(counted)}/${formatCount(Math.max(total, counted))}`;
  const speed = rate === null ? '' : `${formatCount(rate)}/s`;
  const time = left === null ? '' : `${formatDuration(left)} left`;
  const what = progress.pause_reason === null ? progress.state : 'paused';
  const trouble = failed === 0 ? '' : `${formatCount(failed)} parked`;
  const width = columns - 1;
  // Fullest first; the first that fits is shown.
  for (const parts of [
    [what, percent, counts, speed, time, trouble],
    [percent, counts, speed, time],
    [percent, speed, time],
    [percent, time],
  ]) {
    const text = parts.filter((part) => part !== '').join('  ');
    if (text.length > width) continue;
    const room = Math.min(width - text.length - 3, BAR_MAX);
    return room < BAR_MIN ? text : `[${bar(share, room - 1)}] ${text}`;
  }
  return percent.trim().slice(0, Math.max(width, 0));
}

function bar(share: number, width: number): string {
  const filled = Math.round(share * width);
  return '#'.repeat(filled) + '-'.repeat(width - filled);
}

/** What is written to a pipe: one line of JSON. */
export const toProgressLine = (id: string, progress: BackfillProgress): string =>
  JSON.stringify({
    id,
    state: progress.state,
    total: progress.total,
    done: progress.done,
    failed: progress.failed,
    rate_per_second: progress.rate_per_second,
    eta_seconds: progress.eta_seconds,
    paused: progress.pause_reason !== null,
    error: progress.error,
  });

/** What came of it. */
export function describeEnd({ state, done, failed, seconds, to_publish, error }: BackfillProgress): string {
  const work = `${formatCount(done)} bookings in ${formatDuration(seconds)}${seconds > 0 ? ` (${formatCount(done / seconds)}/s)` : ''}`;
  const lines = [
    state === 'done' ? `done: ${work}` : `${state} after ${work}${error === null ? '' : `: ${error}`}`,
  ];
  if (failed > 0) lines.push(`${formatCount(failed)} cannot be processed: select * from market_sync.parked`);
  if (to_publish > 0)
    lines.push(
      `${formatCount(to_publish)} snapshots are still to be published, which a running pipeline does`,
    );
  return lines.join('\n');
}

const formatCount = (count: number): string => Math.round(count).toLocaleString('en-US');

function formatDuration(seconds: number): string {
  if (seconds < 60) return `${Math.ceil(seconds)} s`;
  const minutes = Math.floor(seconds / 60);
  if (minutes < 60) return `${minutes} min ${Math.floor(seconds % 60)} s`;
  return `${Math.floor(minutes / 60)} h ${minutes % 60} min`;
}
