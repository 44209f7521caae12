import type { KeyKind } from '../../src/domain/change.ts';
import type { Lsn } from '../../src/lsn.ts';

/** The keys there are. Few, so that transactions dirty the same ones again and again. A set of them is a bit mask. */
export const KEYS: readonly { kind: KeyKind; id: string; bookings: number }[] = [
  ...['b0', 'b1', 'b2', 'b3', 'b4', 'b5'].map((id) => ({ kind: 'booking' as const, id, bookings: 1 })),
  { kind: 'location', id: 'l0', bookings: 6 },
  { kind: 'location', id: 'l1', bookings: 40 },
  { kind: 'sensor', id: 's0', bookings: 6 },
  { kind: 'vendor', id: 'v0', bookings: 12 },
  { kind: 'inspection', id: 'i0', bookings: 1 },
];

/** Beside the keys: anything may have changed (a table was truncated). */
export const EVERYTHING = 1 << KEYS.length;

export const ALL_KEYS = EVERYTHING - 1;

export const keyBits: ReadonlyMap<string, number> = new Map(KEYS.map(({ id }, index) => [id, 1 << index]));

export const keyNames = (mask: number): string =>
  [...KEYS.map(({ id }) => id), 'everything'].filter((_, index) => (mask & (1 << index)) !== 0).join(' ');

/** A transaction that has committed. */
export interface Commit {
  xid: number;
  /** Where its commit record begins: a stream that starts here or before contains it. */
  commitLsn: Lsn;
  /** Where its commit record ends, and where an adjacent transaction's begins. */
  endLsn: Lsn;
  /** The keys of each of its messages. */
  messages: number[];
  /** When other transactions see it: after it is streamed, while its backend waits for a standby. */
  visibleAtMs: number;
  /** The keys that no recompute has read since it was visible. */
  owed: number;
}

const FIRST_XID = 700;

/** The write-ahead log: what has committed, in the order in which the slot's stream shows it. */
export class Wal {
  readonly commits: Commit[] = [];
  end: Lsn = 1_000n;
  /** All commits before this one are recomputed. */
  #settled = 0;
  /** What was recomputed, to be undone when the database is restored. */
  readonly #payments: { commit: Commit; paid: number }[] = [];

  /** Records that commit nothing: rolled back, or of other databases. */
  skip(bytes: bigint): void {
    this.end += bytes;
  }

  append(messages: number[], visibleAtMs: number): Commit {
    const commit: Commit = {
      xid: FIRST_XID + this.commits.length,
      commitLsn: this.end,
      endLsn: this.end + 40n,
      messages,
      visibleAtMs,
      owed: messages.reduce((mask, message) => mask | message, 0),
    };
    this.end = commit.endLsn;
    this.commits.push(commit);
    return commit;
  }

  byXid(xid: number): Commit | undefined {
    return this.commits[xid - FIRST_XID];
  }

  /** The first commit of a stream that starts at `lsn`. */
  firstFrom(lsn: Lsn): number {
    let index = this.commits.length;
    while (index > 0 && (this.commits[index - 1] as Commit).commitLsn >= lsn) index -= 1;
    return index;
  }

  /** Keys are recomputed from what is visible now. */
  pay(mask: number, nowMs: number): void {
    for (let index = this.#settled; index < this.commits.length; index += 1) {
      const commit = this.commits[index] as Commit;
      const paid = commit.owed & mask;
      if (paid === 0 || commit.visibleAtMs > nowMs) continue;
      commit.owed &= ~paid;
      this.#payments.push({ commit, paid });
    }
  }

  /** The first commit, of those after the first `skipped`, that is not recomputed whole. */
  firstOwed(skipped = 0): Commit | undefined {
    while (this.#settled < this.commits.length && this.commits[this.#settled]?.owed === 0) this.#settled += 1;
    for (let index = Math.max(this.#settled, skipped); index < this.commits.length; index += 1) {
      if (this.commits[index]?.owed !== 0) return this.commits[index];
    }
    return undefined;
  }

  /** After a crash of PostgreSQL nobody waits any more. */
  showAll(nowMs: number): void {
    for (const commit of this.commits) commit.visibleAtMs = Math.min(commit.visibleAtMs, nowMs);
  }

  backup(): { payments: number; commits: number; end: Lsn } {
    return { payments: this.#payments.length, commits: this.commits.length, end: this.end };
  }

  /** The snapshots are as they were. */
  restoreSnapshots({ payments }: { payments: number }): void {
    for (const { commit, paid } of this.#payments.splice(payments)) commit.owed |= paid;
    this.#settled = 0;
  }

  /** What was written since never happened. */
  truncate({ commits, end }: { commits: number; end: Lsn }): void {
    this.commits.length = commits;
    this.end = end;
    this.#settled = 0;
  }
}
