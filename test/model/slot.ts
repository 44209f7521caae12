import type { Lsn } from '../../src/lsn.ts';
import type { Commit, Wal } from './wal.ts';

/** What the server sends. */
export type Sent =
  | { kind: 'begin'; commit: Commit }
  | { kind: 'keys'; mask: number }
  | { kind: 'commit'; endLsn: Lsn };

/** A replication slot: a position in memory that falls back to the one on disk when PostgreSQL crashes. */
export class ModelSlot {
  confirmedLsn: Lsn;
  durableLsn: Lsn;
  lost = false;
  /** A standby was given it by the server that it stood by. */
  synced = false;
  stream: Stream | undefined;

  constructor(lsn: Lsn) {
    this.confirmedLsn = lsn;
    this.durableLsn = lsn;
  }

  get active(): boolean {
    return this.stream !== undefined;
  }
}

/** One START_REPLICATION: a walsender, and what its client has read of it. */
export class Stream {
  readonly slot: ModelSlot;
  /** Of the consumer that reads; for the watcher alone. */
  readonly generation: number;
  /** Where it really begins: never below what the slot has confirmed, and the server does not say so. */
  readonly startLsn: Lsn;
  readonly #wal: Wal;
  #next: number;
  /** How much of the next transaction has been read: its begin, then its messages. */
  #read = 0;
  #onEnd: (() => void) | undefined;
  /** After the end: how many commits had been sent, and may still be read. */
  #sent: number | undefined;

  constructor(wal: Wal, slot: ModelSlot, { startLsn, generation }: { startLsn: Lsn; generation: number }) {
    this.#wal = wal;
    this.slot = slot;
    this.generation = generation;
    this.startLsn = startLsn > slot.confirmedLsn ? startLsn : slot.confirmedLsn;
    this.#next = wal.firstFrom(this.startLsn);
    slot.stream = this;
  }

  /** False once the walsender has ended; its client may not know yet. */
  get open(): boolean {
    return this.slot.stream === this;
  }

  /** The client hears of the end; at once, if that was before it listened. */
  notifyEnd(heard: () => void): void {
    this.#onEnd = heard;
    if (!this.open) heard();
  }

  get insideTransaction(): boolean {
    return this.#read > 0;
  }

  get caughtUp(): boolean {
    return this.#next >= this.#wal.commits.length;
  }

  /** The walsender ends. What it had sent arrives yet, unless the connection was cut. */
  end({ cut }: { cut: boolean }): void {
    if (this.open) {
      this.slot.stream = undefined;
      this.#onEnd?.();
    }
    this.#sent = Math.min(this.#sent ?? Number.POSITIVE_INFINITY, cut ? 0 : this.#wal.commits.length);
  }

  read(): Sent | undefined {
    const commit = this.#wal.commits[this.#next];
    if (commit === undefined || this.#next >= (this.#sent ?? Number.POSITIVE_INFINITY)) return undefined;
    const part = this.#read;
    this.#read += 1;
    if (part === 0) return { kind: 'begin', commit };
    const mask = commit.messages[part - 1];
    if (mask !== undefined) return { kind: 'keys', mask };
    this.#next += 1;
    this.#read = 0;
    return { kind: 'commit', endLsn: commit.endLsn };
  }

  /** What a keepalive says: how far the WAL is decoded. Inside a transaction that may be past its commit already. */
  decodedLsn(): Lsn {
    const next = this.#wal.commits[this.#next];
    return next === undefined || this.insideTransaction ? this.#wal.end : next.commitLsn;
  }
}
