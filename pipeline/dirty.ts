import { type CaptureMessage, KEY_KINDS, type KeyKind } from '../src/domain/change.ts';
import type { Lsn } from '../src/lsn.ts';
import type { DirtyKeys } from '../src/store/reconcile.ts';
import { KeyQueue } from './key-queue.ts';

/**
 * Bookings that a key counts as: batches of about 250 snapshots are the fastest (D4). A sensor counts as next to nothing,
 * because those of one location are of the same bookings, and only those that are resolved together are recomputed once:
 * after one COPY of readings of 200 locations, batches of 25 sensors recomputed every booking 5 times, of 250 sensors 3
 * times, of 4,000 once, in a quarter of the time. What is too much at once is cut after its keys are resolved.
 */
const WEIGHTS: Record<KeyKind, number> = {
  booking: 1,
  sensor: 1 / 16,
  location: 10,
  vendor: 10,
  inspection: 10,
};

/** Transaction ids held until they are proved visible; more of them pause reading. */
const XIDS_MAX = 20_000;

/** What one reconcile is to cover. */
export interface Batch {
  keys: DirtyKeys;
  keyCount: number;
  /** Ids of transactions that must be visible before anything is read: all that were received and not proved yet. */
  xids: number[];
  /** Where the checkpoint may stand once the batch is written: every change up to here is in the snapshots. */
  coversLsn: Lsn;
  /** Why everything is to be recomputed, if it is. */
  resyncReason: string | undefined;
  /** When the oldest of the covered transactions committed, in ms since 1970; undefined for a batch without changes. */
  oldestCommitMs: number | undefined;
  /** When the first of them began to arrive, by the caller's clock; undefined as above. */
  receivedAtMs: number | undefined;
}

/**
 * The dirty keys that wait for a reconcile, and how far the stream has been received. Pure: no I/O, no clock.
 *
 * While one batch is in work the keys of later transactions merge here (D4): a key that waits already is not added
 * again, and memory grows with the number of distinct keys only (I9). Keys are kept in the order in which they first
 * became dirty; a batch takes the oldest, and the checkpoint may then advance to just before the oldest key left.
 */
export class DirtySet {
  /** Each with the end of the last transaction received whole before the one that made the key dirty. */
  readonly #keys = new KeyQueue();
  #xids: number[] = [];
  #received: Lsn;
  #inTransaction = false;
  /** The open transaction has changed something of ours. */
  #touched = false;
  /** A transaction has ended whose keys, or the last of them, were taken while it was still being received. */
  #unrecorded = false;
  /** Why everything is to be recomputed; the next batch takes it, whatever keys it leaves. */
  #resyncReason: string | undefined;
  #oldestCommitMs: number | undefined;
  #receivedAtMs: number | undefined;

  /** `received` is where the stream begins: everything before it is in the snapshots. */
  constructor(received: Lsn) {
    this.#received = received;
  }

  begin(transaction: { xid: number; committedAtMs: number; receivedAtMs?: number }): void {
    if (this.#inTransaction) throw new Error('a transaction began inside another');
    this.#inTransaction = true;
    this.#xids.push(transaction.xid);
    this.#oldestCommitMs ??= transaction.committedAtMs;
    this.#receivedAtMs ??= transaction.receivedAtMs;
  }

  addBookings(bookingIds: string[]): void {
    for (const id of bookingIds) this.#add('booking', id);
  }

  addMessage(message: CaptureMessage): void {
    for (const kind of KEY_KINDS) {
      for (const id of message[kind] ?? []) this.#add(kind, id);
    }
    if (message.all !== undefined) {
      this.addEverything(
        message.sqlstate === undefined
          ? `${message.all} was truncated`
          : `capture of ${message.all} failed with ${message.sqlstate}`,
      );
    }
  }

  /** Anything may have changed. */
  addEverything(reason: string): void {
    this.#touched = true;
    this.#resyncReason ??= reason;
  }

  commit(endLsn: Lsn): void {
    if (!this.#inTransaction) throw new Error('a transaction ended that had not begun');
    this.#inTransaction = false;
    this.#received = endLsn;
    if (this.#touched) this.#unrecorded = true;
    this.#touched = false;
    // Nothing of ours waits, so nothing will be read on account of the transactions so far.
    if (!this.hasWork) {
      this.#xids = [];
      this.#oldestCommitMs = undefined;
      this.#receivedAtMs = undefined;
    }
  }

  /** The server has sent everything up to `walEnd`. Inside a transaction that says nothing yet. */
  keepalive(walEnd: Lsn): void {
    if (!this.#inTransaction && walEnd > this.#received) this.#received = walEnd;
  }

  /** Up to here every transaction has been received whole. */
  get received(): Lsn {
    return this.#received;
  }

  /** When the oldest of the transactions that wait committed, in ms since 1970; undefined when none waits. */
  get oldestCommitMs(): number | undefined {
    return this.#oldestCommitMs;
  }

  get size(): number {
    return this.#keys.size;
  }

  /** True when nothing waits: the checkpoint may move to `received` without any work. */
  get idle(): boolean {
    return !this.hasWork && !this.#inTransaction;
  }

  /** True when there is something to reconcile, or a checkpoint to move over what is reconciled. */
  get hasWork(): boolean {
    return this.#keys.size > 0 || this.#resyncReason !== undefined || this.#unrecorded;
  }

  /** True when no more should be read before some of it is worked off (I9). */
  isFull(keysMax: number): boolean {
    return this.#keys.size >= keysMax || this.#xids.length >= XIDS_MAX;
  }

  /** Takes the oldest keys, up to `weightMax` bookings by estimate. What arrives from now on waits for the next batch. */
  take(weightMax: number): Batch {
    const keys: DirtyKeys = { booking: [], location: [], sensor: [], vendor: [], inspection: [] };
    let weight = 0;
    let keyCount = 0;
    for (let oldest = this.#keys.oldest; oldest !== undefined; oldest = this.#keys.oldest) {
      const keyWeight = WEIGHTS[oldest.kind];
      if (weight > 0 && weight + keyWeight > weightMax) break;
      weight += keyWeight;
      keyCount += 1;
      keys[oldest.kind].push(this.#keys.shift());
    }
    const resyncReason = this.#resyncReason;
    this.#resyncReason = undefined;
    const xids = this.#xids;
    this.#xids = [];
    const [oldestCommitMs, receivedAtMs] = [this.#oldestCommitMs, this.#receivedAtMs];
    if (this.#keys.size === 0) {
      this.#oldestCommitMs = undefined;
      this.#receivedAtMs = undefined;
      this.#unrecorded = false;
    }
    return {
      keys,
      keyCount,
      xids,
      coversLsn: this.#coveredLsn(),
      resyncReason,
      oldestCommitMs,
      receivedAtMs,
    };
  }

  /** Everything received is covered, but for what the oldest key left still stands for. */
  #coveredLsn(): Lsn {
    return this.#keys.oldest?.lsn ?? this.#received;
  }

  #add(kind: KeyKind, id: string): void {
    this.#touched = true;
    this.#keys.add(kind, id, this.#received);
  }
}
