import { setTimeout as delay } from 'node:timers/promises';
import type { Market } from '../../src/mongo.ts';
import type { Observations } from './observations.ts';

interface Version {
  epoch: number;
  revision: number;
  status: string;
  metadata: { last_updated: string };
}

export interface Watcher {
  stop(): Promise<void>;
}

/** Every so many rounds all listings are read, not only those in change. */
const ROUNDS_PER_FULL_SCAN = 100;
const PAUSE_MS = 20;

/**
 * A buyer who reads all the time and remembers. Reports a listing whose version went down, or whose content changed
 * without it, or that vanished though nothing removes listings during a run (I3, I4).
 */
export function startWatcher(
  { market, observations }: { market: Market; observations: Observations },
  inChange: () => string[],
): Watcher {
  const known = new Map<string, Version>();
  let stopped = false;
  const read = async (bookingIds: string[] | undefined): Promise<void> => {
    const filter = bookingIds === undefined ? {} : { booking_id: { $in: bookingIds } };
    const found = await market.listings
      .find(filter)
      .project<Version & { booking_id: string }>({
        _id: 0,
        booking_id: 1,
        epoch: 1,
        revision: 1,
        status: 1,
        metadata: 1,
      })
      .toArray();
    observations.tally.reads += found.length;
    for (const { booking_id: id, ...version } of found) {
      const before = known.get(id);
      if (before !== undefined && isOlder(version, before)) {
        observations.violation('regressed', `${id}: ${print(version)} after ${print(before)}`);
      }
      known.set(id, version);
    }
    const present = new Set(found.map((listing) => listing.booking_id));
    for (const id of bookingIds ?? known.keys()) {
      if (!known.has(id) || present.has(id)) continue;
      observations.violation('regressed', `${id}: the listing is gone`);
      known.delete(id);
    }
  };
  const run = async (): Promise<void> => {
    for (let round = 1; !stopped; round += 1) {
      // The stand-in may be between two lives.
      await read(round % ROUNDS_PER_FULL_SCAN === 0 ? undefined : inChange()).catch((error: unknown) => {
        observations.note(`watcher: ${String(error)}`);
      });
      await delay(PAUSE_MS);
    }
  };
  const running = run();
  return {
    stop: async () => {
      stopped = true;
      await running;
    },
  };
}

const isOlder = (version: Version, than: Version): boolean =>
  version.epoch < than.epoch ||
  (version.epoch === than.epoch && version.revision < than.revision) ||
  (version.epoch === than.epoch &&
    version.revision === than.revision &&
    (version.status !== than.status || version.metadata.last_updated !== than.metadata.last_updated));

const print = ({ epoch, revision, status }: Version): string => `${status} (${epoch}, ${revision})`;
