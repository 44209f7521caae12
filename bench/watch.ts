import { setTimeout as delay } from 'node:timers/promises';
import { query } from '../src/postgres.ts';
import { createRandom } from '../test/support/random.ts';
import { INSERT_READING, type Live } from './live.ts';

/** One change, and when a reader of MongoDB first saw it. Times in ms since 1970. */
interface Watched {
  xid: string;
  seenAtMs: number;
}

interface Written {
  location: number;
  value: number;
  xid: string;
}

const now = (): number => performance.timeOrigin + performance.now();

const SEEN_MAX_MS = 120_000;

/** So that a value is written once: what a reader sees says which change it is. */
let lastValue = 0;

/**
 * Writes one reading after the other at `perSecond`, each at another location, and watches as many of them as `watchers`
 * readers of MongoDB can: each takes the newest change, asks for its listing until it has it, and takes the next.
 * Open loop: a statement is due at its time, whether or not those before it have returned.
 *
 * Answers the latencies from commit, by PostgreSQL's word, to the first read that saw the change, in ms.
 */
export async function watchChanges(
  live: Live,
  options: { perSecond: number; seconds: number; watchers: number; seed: number; locations?: number[] },
): Promise<number[]> {
  const locations = options.locations ?? allLocations(live, options.seed);
  const written: Written[] = [];
  let writing = true;
  const write = async (location: number): Promise<void> => {
    lastValue += 1;
    const value = lastValue;
    const rows = await query<{ xid: string }>(live.pool, INSERT_READING, [location, value]);
    written.push({ location, value, xid: rows[0]?.xid ?? '' });
  };
  const watched: Watched[] = [];
  const watch = async (): Promise<void> => {
    while (writing) {
      const change = written.pop();
      if (change === undefined) {
        await delay(1);
        continue;
      }
      written.length = 0;
      watched.push({ xid: change.xid, seenAtMs: await untilSeen(live, change) });
    }
  };
  const watchers = Array.from({ length: options.watchers }, watch);
  await atRate(options, (number) => write(locations[number % locations.length] ?? 1));
  writing = false;
  await Promise.all(watchers);
  const commits = await commitTimes(
    live,
    watched.map(({ xid }) => xid),
  );
  return watched.map(({ xid, seenAtMs }) => seenAtMs - (commits.get(xid) ?? Number.NaN));
}

/** Calls `work` at `perSecond` for so many seconds, and settles when all of it has. */
export async function atRate(
  { perSecond, seconds }: { perSecond: number; seconds: number },
  work: (number: number) => Promise<unknown>,
): Promise<void> {
  const startedAt = performance.now();
  const under: Promise<unknown>[] = [];
  const count = Math.round(perSecond * seconds);
  for (let number = 0; number < count; ) {
    const due = Math.min(count, Math.floor(((performance.now() - startedAt) * perSecond) / 1000) + 1);
    for (; number < due; number += 1) under.push(work(number));
    await delay(1);
  }
  await Promise.all(under);
}

async function untilSeen(live: Live, { location, value }: Written): Promise<number> {
  const booking = await bookingOf(live, location);
  const deadline = performance.now() + SEEN_MAX_MS;
  while (performance.now() < deadline) {
    const listing = await live.market.listings.findOne(
      { booking_id: booking },
      { projection: { sensors: 1 } },
    );
    const seen = (listing?.sensors as { temperature?: { value?: unknown } } | undefined)?.temperature?.value;
    // Another of the same location may have come since.
    if (typeof seen === 'number' && seen >= value) return now();
    await delay(1);
  }
  throw new Error(`a change was not in its listing within ${SEEN_MAX_MS / 1000} s`);
}

const bookingByLocation = new WeakMap<Live, Map<number, string>>();

/** The booking of a location with the greatest id: whoever publishes in order of id publishes it last. */
async function bookingOf(live: Live, location: number): Promise<string> {
  let bookings = bookingByLocation.get(live);
  if (bookings === undefined) {
    const rows = await query<{ number: number; id: string }>(
      live.pool,
      `select substr(l.name, 7)::int as number, max(b.id::text) as id
       from storage_bookings b join storage_locations l on l.id = b.location_id group by 1`,
    );
    bookings = new Map(rows.map(({ number, id }) => [number, id]));
    bookingByLocation.set(live, bookings);
  }
  const found = bookings.get(location);
  if (found === undefined) throw new Error(`location ${location} has no booking`);
  return found;
}

async function commitTimes(live: Live, xids: string[]): Promise<Map<string, number>> {
  const rows = await query<{ xid: string; ms: number }>(
    live.pool,
    `select xid, extract(epoch from pg_xact_commit_timestamp(xid::xid))::float8 * 1000 as ms from unnest($1::text[]) xid`,
    [xids],
  );
  return new Map(rows.map(({ xid, ms }) => [xid, ms]));
}

/** Every location once, shuffled: sensors report in turn, and none twice within the interval of its listings. */
export function allLocations(live: Live, seed: number): number[] {
  const random = createRandom(seed);
  const numbers = Array.from({ length: live.size.locations }, (_, index) => index + 1);
  for (let last = numbers.length - 1; last > 0; last -= 1) {
    const other = random.below(last + 1);
    [numbers[last], numbers[other]] = [numbers[other] as number, numbers[last] as number];
  }
  return numbers;
}
