/**
 * Microseconds since 1970-01-01T00:00:00Z. PostgreSQL keeps microseconds; a `Date` would drop three digits and with
 * them the difference between "still in the window" and "just left it".
 */
export type Instant = bigint;

/** PostgreSQL's `infinity`: later than every instant, also after adding or subtracting any window. */
export const INFINITY: Instant = 10n ** 30n;

const isInfinite = (instant: Instant): boolean => instant > 10n ** 29n || instant < -(10n ** 29n);

const TIMESTAMPTZ =
  /^(\d{4,6})-(\d\d)-(\d\d) (\d\d):(\d\d):(\d\d)(?:\.(\d{1,6}))?([+-])(\d\d)(?::(\d\d))?(?::(\d\d))?( BC)?$/;

/** Reads a `timestamptz` as PostgreSQL prints it with `DateStyle = ISO`, in whatever time zone. */
export function parseInstant(text: string): Instant {
  if (text === 'infinity') return INFINITY;
  if (text === '-infinity') return -INFINITY;
  const match = TIMESTAMPTZ.exec(text);
  if (match === null) throw new TypeError(`not a timestamptz in ISO style: ${JSON.stringify(text)}`);
  const [
    ,
    year,
    month,
    day,
    hour,
    minute,
    second,
    fraction = '',
    sign,
    zoneHour,
    zoneMinute,
    zoneSecond,
    bc,
  ] = match;
  const date = new Date(0);
  date.setUTCFullYear(bc === undefined ? Number(year) : 1 - Number(year), Number(month) - 1, Number(day));
  date.setUTCHours(Number(hour), Number(minute), Number(second));
  const zoneSeconds = Number(zoneHour) * 3600 + Number(zoneMinute ?? 0) * 60 + Number(zoneSecond ?? 0);
  const seconds = date.getTime() / 1000 - (sign === '-' ? -zoneSeconds : zoneSeconds);
  return BigInt(seconds) * 1_000_000n + BigInt(fraction.padEnd(6, '0'));
}

/** Midnight UTC at the start of a `date` as PostgreSQL prints it with `DateStyle = ISO`. */
export function parseDay(text: string): Instant {
  if (text === 'infinity' || text === '-infinity') return parseInstant(text);
  return parseInstant(text.endsWith(' BC') ? `${text.slice(0, -3)} 00:00:00+00 BC` : `${text} 00:00:00+00`);
}

export const instantOf = (date: Date): Instant => BigInt(date.getTime()) * 1000n;

/** ISO 8601 in UTC with milliseconds, the rest cut off; null for null and for plus or minus infinity. */
export function isoOf(instant: Instant | null): string | null {
  if (instant === null || isInfinite(instant)) return null;
  const milliseconds = instant >= 0n ? instant / 1000n : (instant - 999n) / 1000n;
  return new Date(Number(milliseconds)).toISOString();
}
