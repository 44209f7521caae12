import { type ExpectedContent, OWN_FIELDS } from '../support/oracle.ts';

/** One state a booking's snapshot may be in; null when it has none. */
export type Possible = ExpectedContent | null;

/**
 * The snapshot after a recompute: the only transition there is.
 *
 * `fresh` is the booking computed from its rows, null when its row is gone. A live booking is computed afresh; the
 * recompute that sees the end is the last; afterwards only the row's own columns and the status follow.
 */
export function recompute(before: Possible, fresh: ExpectedContent | null): Possible {
  if (fresh === null) return before === null ? null : { ...before, status: 'withdrawn' };
  if (fresh.status === 'published') return fresh;
  if (before === null) return null;
  if (before.status === 'published') return fresh;
  const follows = Object.fromEntries(OWN_FIELDS.map((field) => [field, fresh[field]]));
  return { ...before, ...follows, status: fresh.status };
}

/**
 * Every state the snapshot may be in when the pipeline may have recomputed, or not, at each of the moments seen so
 * far. It may lag behind, and merges what it has not yet looked at: an end it sees late is computed from later rows.
 */
export class PossibleSnapshots {
  #states: Map<string, Possible>;

  constructor(states: readonly Possible[]) {
    this.#states = new Map(states.map((state) => [keyOf(state), state]));
  }

  get states(): Possible[] {
    return [...this.#states.values()];
  }

  /** The rows or the clock have changed: each state stays possible, and so does what a recompute makes of it. */
  observe(fresh: ExpectedContent | null): void {
    for (const state of this.states) {
      const next = recompute(state, fresh);
      this.#states.set(keyOf(next), next);
    }
  }

  /** The pipeline has settled: every state has been recomputed from what is there now. */
  settle(fresh: ExpectedContent | null): Possible[] {
    return new PossibleSnapshots(this.states.map((state) => recompute(state, fresh))).states;
  }
}

const keyOf = (state: Possible): string => JSON.stringify(state);
