import { setTimeout as delay } from 'node:timers/promises';
import type { Market } from '../../src/mongo.ts';

/** A buyer who reads some listings all the time. */
export interface Watcher {
  /** Ends, after one more look. Throws what was seen of a listing that went back, came twice, vanished or returned. */
  stop(): Promise<void>;
}

interface Seen {
  epoch: number;
  revision: number;
}

const PAUSE_MS = 30;

/** `expiring`: bookings whose listings are to be removed meanwhile, and then stay away. */
export function startWatcher(
  market: Market,
  { bookingIds, expiring }: { bookingIds: readonly string[]; expiring: readonly string[] },
): Watcher {
  const known = new Map<string, Seen | 'removed'>();
  const complaints: string[] = [];
  let stopped = false;
  const look = async (): Promise<void> => {
    const found = await market.listings
      .find({ booking_id: { $in: [...bookingIds, ...expiring] } })
      .project<Seen & { booking_id: string }>({ _id: 0, booking_id: 1, epoch: 1, revision: 1 })
      .toArray();
    const present = new Map<string, Seen>();
    for (const { booking_id: id, ...seen } of found) {
      if (present.has(id)) complaints.push(`${id} has two listings`);
      present.set(id, seen);
      const before = known.get(id);
      if (before === 'removed') complaints.push(`${id} has returned`);
      else if (before !== undefined && isOlder(seen, before)) {
        complaints.push(`${id} went from ${show(before)} to ${show(seen)}`);
      }
    }
    for (const id of known.keys()) {
      if (present.has(id)) continue;
      if (!expiring.includes(id)) complaints.push(`${id} has vanished`);
      known.set(id, 'removed');
    }
    for (const [id, seen] of present) known.set(id, seen);
  };
  const run = async (): Promise<void> => {
    while (!stopped) {
      await look();
      await delay(PAUSE_MS);
    }
    await look();
  };
  const running = run();
  running.catch(() => undefined);
  return {
    stop: async () => {
      stopped = true;
      await running;
      if (complaints.length > 0) throw new Error(`I3, I4: ${complaints.join('; ')}`);
    },
  };
}

const isOlder = (seen: Seen, than: Seen): boolean =>
  seen.epoch < than.epoch || (seen.epoch === than.epoch && seen.revision < than.revision);

const show = ({ epoch, revision }: Seen): string => `(${epoch}, ${revision})`;
