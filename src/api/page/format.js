const NONE = '–';
const integers = new Intl.NumberFormat('en', { maximumFractionDigits: 0 });
const rates = new Intl.NumberFormat('en', { maximumFractionDigits: 1 });
const quantities = new Intl.NumberFormat('en', { maximumFractionDigits: 3 });
const clock = new Intl.DateTimeFormat('en', {
  hour: '2-digit',
  minute: '2-digit',
  second: '2-digit',
  hourCycle: 'h23',
});
const day = new Intl.DateTimeFormat('en', { day: 'numeric', month: 'short', year: 'numeric' });

const known = (value) => typeof value === 'number' && Number.isFinite(value);

export const count = (value) => (known(value) ? integers.format(value) : NONE);
export const rate = (value) => (known(value) ? rates.format(value) : NONE);
export const quantity = (value) => (known(value) ? quantities.format(value) : NONE);

const BYTE_UNITS = ['B', 'kB', 'MB', 'GB', 'TB'];

/** As PostgreSQL's pg_size_pretty: 1 kB is 1024 bytes. */
export function bytes(value) {
  if (!known(value)) return NONE;
  let size = Math.max(0, value);
  let unit = 0;
  while (size >= 1024 && unit < BYTE_UNITS.length - 1) {
    size /= 1024;
    unit += 1;
  }
  return `${size >= 100 || unit === 0 ? Math.round(size) : size.toFixed(1)} ${BYTE_UNITS[unit]}`;
}

/** 0.4 ms, 14 ms, 2.5 s, 3 min 20 s, 4 h 5 min, 3 d 2 h. */
export function duration(ms) {
  if (!known(ms)) return NONE;
  const value = Math.max(0, ms);
  if (value === 0) return '0 ms';
  if (value < 10) return `${rates.format(value)} ms`;
  if (value < 1_000) return `${Math.round(value)} ms`;
  if (value < 10_000) return `${(value / 1_000).toFixed(1)} s`;
  const seconds = Math.round(value / 1_000);
  if (seconds < 60) return `${seconds} s`;
  const minutes = Math.floor(seconds / 60);
  if (minutes < 60)
    return minutes < 10 && seconds % 60 > 0 ? `${minutes} min ${seconds % 60} s` : `${minutes} min`;
  const hours = Math.floor(minutes / 60);
  if (hours < 24) return `${hours} h ${minutes % 60} min`;
  return `${Math.floor(hours / 24)} d ${hours % 24} h`;
}

export const timeOfDay = (instant) => (instant ? clock.format(new Date(instant)) : NONE);

/** The time of day, with the day before it when that is not today. */
export function moment(instant) {
  if (!instant) return NONE;
  const date = new Date(instant);
  if (Number.isNaN(date.getTime())) return String(instant);
  const today = new Date().toDateString() === date.toDateString();
  return today ? clock.format(date) : `${day.format(date)}, ${clock.format(date)}`;
}

/** The date and the minute, for what does not lie around now. */
export function date(instant) {
  const at = new Date(instant);
  return Number.isNaN(at.getTime()) ? String(instant) : `${day.format(at)}, ${clock.format(at).slice(0, 5)}`;
}

export const age = (instant, now = Date.now()) =>
  instant ? duration(now - new Date(instant).getTime()) : NONE;

/** The first group of a UUID tells bookings apart well enough in a list; the whole is in the link and its tooltip. */
export const shortId = (id) => String(id).slice(0, 8);

/** A revision is told by its number; the epoch is added only where another one stands beside it. */
export const revisionIn = ({ epoch, revision }, epochs) =>
  epochs.every((one) => one === epoch) ? count(revision) : `${count(revision)} of epoch ${count(epoch)}`;

export const REVISION_TITLE =
  'Counts what buyers have seen of this booking. Only when history was cut can a number come again, in a higher epoch.';

/** `ready_to_publish` → `ready to publish` */
export const words = (name) => String(name ?? NONE).replaceAll('_', ' ');
