/** A change of one listing: which, and when it was committed. */
export interface ListingChange {
  atMs: number;
  listing: number;
}

/** The polling system's schedule, as `domain.md` has it. */
export interface PollingRules {
  publishEveryMs: number;
  publishMax: number;
  /** What publishing one takes. */
  publishMs: number;
  reconcileEveryMs: number;
  reconcileMax: number;
  reconcileMs: number;
}

export const POLLING_RULES: PollingRules = {
  publishEveryMs: 300_000,
  publishMax: 50,
  publishMs: 200,
  reconcileEveryMs: 1_800_000,
  reconcileMax: 50,
  reconcileMs: 300,
};

export interface PollingOutcome {
  /** Of each change, from its commit to the write that shows it; of one that no write shows, to the end: it is longer. */
  stalenessMs: number[];
  /** Listings that changed and were not written once. */
  neverReached: number;
  writes: number;
}

/**
 * What the polling system makes of these changes until `untilMs`. All listings are published at the beginning, least
 * recently re-read first. Every `reconcileEveryMs` it re-reads the first of them, and what has changed becomes ready;
 * every `publishEveryMs` it publishes the first that are ready, as they were read. Exact, and without chance.
 */
export function simulatePolling(input: {
  listings: number;
  changes: readonly ListingChange[];
  untilMs: number;
  rules: PollingRules;
}): PollingOutcome {
  const { listings, changes, untilMs, rules } = input;
  const unseen = new Map<number, number[]>();
  for (const { listing, atMs } of changes.toSorted((left, right) => left.atMs - right.atMs)) {
    const times = unseen.get(listing);
    if (times === undefined) unseen.set(listing, [atMs]);
    else times.push(atMs);
  }
  const changed = unseen.size;
  const published = Array.from({ length: listings }, (_, listing) => ({ listing, sinceMs: 0 }));
  const ready: { listing: number; sinceMs: number; shows: number[] }[] = [];
  const written = new Set<number>();
  const stalenessMs: number[] = [];
  let writes = 0;

  const publish = (tickMs: number): void => {
    const count = ready.findIndex(({ sinceMs }) => sinceMs > tickMs);
    const due = ready.splice(0, Math.min(rules.publishMax, count === -1 ? ready.length : count));
    for (const [index, { listing, shows }] of due.entries()) {
      const atMs = tickMs + (index + 1) * rules.publishMs;
      writes += 1;
      written.add(listing);
      for (const committedMs of shows) stalenessMs.push(atMs - committedMs);
      published.push({ listing, sinceMs: atMs });
    }
  };
  const reconcile = (tickMs: number): void => {
    const count = published.findIndex(({ sinceMs }) => sinceMs > tickMs);
    const due = published.splice(0, Math.min(rules.reconcileMax, count === -1 ? published.length : count));
    for (const [index, { listing }] of due.entries()) {
      const atMs = tickMs + (index + 1) * rules.reconcileMs;
      const times = unseen.get(listing) ?? [];
      const shows = times.filter((committedMs) => committedMs <= atMs);
      unseen.set(listing, times.slice(shows.length));
      if (shows.length > 0) ready.push({ listing, sinceMs: atMs, shows });
      else published.push({ listing, sinceMs: atMs });
    }
  };

  for (let publishAt = rules.publishEveryMs, reconcileAt = rules.reconcileEveryMs; ; ) {
    const nextMs = Math.min(publishAt, reconcileAt);
    if (nextMs >= untilMs) break;
    if (nextMs === publishAt) {
      publish(nextMs);
      publishAt += rules.publishEveryMs;
    } else {
      reconcile(nextMs);
      reconcileAt += rules.reconcileEveryMs;
    }
  }
  const left = [...[...unseen.values()].flat(), ...ready.flatMap(({ shows }) => shows)];
  for (const committedMs of left) stalenessMs.push(untilMs - committedMs);
  return { stalenessMs, writes, neverReached: changed - written.size };
}
