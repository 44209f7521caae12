import pg from 'pg';
import type { SystemIdentity } from '../../pipeline/replication-server.ts';
import type { Lsn } from '../../src/lsn.ts';
import { ConnectionLostError } from '../../src/postgres.ts';
import { acquire, type Lease, release, renew } from './lease.ts';
import type { Rules } from './rules.ts';
import type { Simulation } from './simulation.ts';
import { ModelSlot, Stream } from './slot.ts';
import { ALL_KEYS, EVERYTHING, KEYS, Wal } from './wal.ts';
import type { Watch } from './watch.ts';

// Made once: an error's stack would cost more than the schedule it interrupts.
export const LOST = new ConnectionLostError('connection lost');

export function sqlError(code: string): pg.DatabaseError {
  return Object.assign(new pg.DatabaseError(code, 0, 'error'), { code });
}

const SLOT_GONE = sqlError('42704');
const SLOT_IN_USE = sqlError('55006');
const SLOT_LOST = sqlError('55000');
const FENCED = sqlError('MS001');

export interface Checkpoint {
  commitLsn: Lsn | undefined;
  systemIdentifier: string | undefined;
  timeline: number | undefined;
  epoch: number;
}

/** A recompute of everything that was asked for. */
interface Resync {
  /** It makes up for what is missing of so many commits. */
  commits: number;
  /** It waits until so many are visible. */
  visibleFrom: number;
}

export type BatchOutcome = 'done' | 'not_visible' | 'too_many';

export interface Backup {
  checkpoint: Checkpoint;
  lease: Lease;
  resync: Resync | undefined;
  wal: ReturnType<Wal['backup']>;
  /** Where the slot stood; a standby may have a copy of it. */
  slotLsn: Lsn | undefined;
}

const estimate = (mask: number): number =>
  KEYS.reduce((sum, { bookings }, index) => sum + ((mask & (1 << index)) === 0 ? 0 : bookings), 0);

/** PostgreSQL: WAL, slot, and the statements of the consumer, each one transaction. */
export class Server {
  readonly wal = new Wal();
  slot: ModelSlot | undefined;
  checkpoint: Checkpoint = {
    commitLsn: undefined,
    systemIdentifier: undefined,
    timeline: undefined,
    epoch: 1,
  };
  lease: Lease = { generation: 0, holder: undefined, leaseUntilMs: undefined, updatedAtMs: 0 };
  resync: Resync | undefined;
  system: SystemIdentity = { systemIdentifier: 'cluster', timeline: 1, parent: undefined };
  /** Changes with every crash: connections end with it. */
  incarnation = 0;
  #upAtMs = 0;
  readonly #sim: Simulation;
  readonly #rules: Rules;
  readonly #watch: Watch;
  readonly #leaseMs: number;

  constructor(parts: { sim: Simulation; rules: Rules; watch: Watch; leaseMs: number }) {
    this.#sim = parts.sim;
    this.#rules = parts.rules;
    this.#watch = parts.watch;
    this.#leaseMs = parts.leaseMs;
  }

  get up(): boolean {
    return this.#sim.nowMs >= this.#upAtMs;
  }

  /** Every connection ends. Without `cut` what was sent arrives yet. */
  goDown(downMs: number, { cut }: { cut: boolean }): void {
    this.incarnation += 1;
    this.#upAtMs = this.#sim.nowMs + downMs;
    this.slot?.stream?.end({ cut });
    this.wal.showAll(this.#sim.nowMs);
  }

  acquire(holder: string): number | undefined {
    const slotActive = this.slot?.active ?? false;
    return acquire(this.lease, { holder, nowMs: this.#sim.nowMs, leaseMs: this.#leaseMs, slotActive });
  }

  renew(generation: number): boolean {
    return renew(this.lease, { generation, nowMs: this.#sim.nowMs, leaseMs: this.#leaseMs });
  }

  release(generation: number): void {
    release(this.lease, { generation, nowMs: this.#sim.nowMs });
  }

  terminateHolder(): void {
    this.slot?.stream?.end({ cut: true });
  }

  startReplication(startLsn: Lsn, generation: number): Stream {
    if (this.slot === undefined) throw SLOT_GONE;
    if (this.slot.active) throw SLOT_IN_USE;
    if (this.slot.lost) throw SLOT_LOST;
    return new Stream(this.wal, this.slot, { startLsn, generation });
  }

  /** A status message of a client. The server never goes back, and does not ask why. */
  confirm(stream: Stream, lsn: Lsn): void {
    if (!stream.open || lsn <= stream.slot.confirmedLsn) return;
    stream.slot.confirmedLsn = lsn;
    this.#watch.confirmed(lsn);
  }

  /** Drops the slot and makes a fresh one. */
  recreateSlot(): Lsn {
    if (this.slot?.active) throw SLOT_IN_USE;
    this.wal.skip(100n); // What running transactions there are, on record.
    this.slot = new ModelSlot(this.wal.end);
    return this.wal.end;
  }

  beginHistory({ generation, lsn, cut }: { generation: number; lsn: Lsn; cut: boolean }): void {
    if (generation !== this.lease.generation) {
      this.#watch.counts.fenced += 1;
      throw FENCED;
    }
    const { epoch } = this.checkpoint;
    const { systemIdentifier, timeline } = this.system;
    this.checkpoint = {
      systemIdentifier,
      timeline,
      commitLsn: lsn,
      epoch: Math.max(epoch + (cut ? 1 : 0), this.#watch.epochMax + 1),
    };
    this.lease.updatedAtMs = this.#sim.nowMs;
    this.#requestResync(this.wal.commits.length);
    this.#watch.historyBegun();
  }

  /** The checkpoint goes on on the timeline of a standby that has taken over. */
  followTimeline(generation: number): void {
    if (generation !== this.lease.generation) throw FENCED;
    this.checkpoint.timeline = this.system.timeline;
  }

  /** Somebody beside the consumer has found listings of another history: what it streams is this one. */
  cutHistory(): void {
    if (this.checkpoint.commitLsn === undefined) return;
    this.checkpoint.epoch = Math.max(this.checkpoint.epoch, this.#watch.epochMax) + 1;
    this.#requestResync(0);
    this.#watch.historyBegun();
  }

  reconcileBatch(batch: {
    generation: number;
    coversLsn: Lsn;
    xids: readonly number[];
    keys: number;
    bookingsMax: number;
    resync: boolean;
  }): BatchOutcome {
    const { nowMs } = this.#sim;
    const visible = (xid: number): boolean => (this.wal.byXid(xid)?.visibleAtMs ?? 0) <= nowMs;
    if (this.#rules.provesVisibility && !batch.xids.every(visible)) {
      this.#watch.counts.notVisible += 1;
      return 'not_visible';
    }
    if (estimate(batch.keys) > batch.bookingsMax) {
      this.#watch.counts.tooMany += 1;
      return 'too_many';
    }
    const extended = renew(this.lease, { generation: batch.generation, nowMs, leaseMs: this.#leaseMs });
    if (!extended && this.#rules.fences) {
      this.#watch.counts.fenced += 1;
      throw FENCED;
    }
    this.wal.pay(batch.keys, nowMs);
    if (batch.resync) this.#requestResync(0);
    const { commitLsn } = this.checkpoint;
    if (commitLsn === undefined || batch.coversLsn > commitLsn) this.checkpoint.commitLsn = batch.coversLsn;
    this.#watch.written(batch);
    return 'done';
  }

  /** A chunk of a batch that fans out too far: content only, so nothing is fenced (D3). */
  reconcileKeys(keys: number): void {
    this.wal.pay(keys, this.#sim.nowMs);
  }

  #requestResync(visibleFrom: number): void {
    // One request that has not begun yet serves all who ask; a new history's replaces it.
    this.resync = {
      commits: this.wal.commits.length,
      visibleFrom: Math.max(visibleFrom, this.resync?.visibleFrom ?? 0),
    };
    this.#sim.after(20 + this.#sim.latencyMs() * 10, () => this.#runResync());
  }

  #runResync(): void {
    if (this.resync === undefined) return;
    const { visibleFrom } = this.resync;
    const { nowMs } = this.#sim;
    if (!this.up || this.wal.commits.slice(0, visibleFrom).some((commit) => commit.visibleAtMs > nowMs)) {
      this.#sim.after(100, () => this.#runResync());
      return;
    }
    this.#sim.note(() => 'resync: everything is recomputed');
    this.wal.pay(ALL_KEYS | EVERYTHING, nowMs);
    this.resync = undefined;
    this.#watch.resynced();
  }

  backup(): Backup {
    const { checkpoint, lease, resync } = this;
    return {
      checkpoint: { ...checkpoint },
      lease: { ...lease },
      resync,
      wal: this.wal.backup(),
      slotLsn: this.slot?.confirmedLsn,
    };
  }

  /** The tables as they were; the slot is where it is. */
  restore(backup: Backup): void {
    this.checkpoint = { ...backup.checkpoint };
    this.lease = { ...backup.lease };
    this.resync = undefined;
    this.wal.restoreSnapshots(backup.wal);
    // The request was in the tables too.
    if (backup.resync !== undefined) this.#requestResync(this.wal.commits.length);
  }
}
