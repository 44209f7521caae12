import type { Lsn } from '../../src/lsn.ts';
import type { Server } from './server.ts';
import { require, type Simulation } from './simulation.ts';
import type { Stream } from './slot.ts';
import { type Commit, keyNames } from './wal.ts';

const describe = (commit: Commit): string =>
  `transaction ${commit.xid} (${commit.commitLsn}–${commit.endLsn}), of which ${keyNames(commit.owed)} was not recomputed`;

/** How often what was to happen has happened: a model in which nothing goes wrong proves nothing. */
export const noCounts = () => ({
  written: 0,
  notVisible: 0,
  tooMany: 0,
  fenced: 0,
  histories: 0,
  resyncs: 0,
  behind: 0,
  takeovers: 0,
});

/** Holds every step of the servers and consumers against the invariants (README). Knows more than they do. */
export class Watch {
  readonly counts = noCounts();
  #server: Server | undefined;
  readonly #sim: Simulation;
  /** The checkpoint within its epoch. */
  #epoch = 1;
  #commitLsn: Lsn = 0n;
  /** The highest epoch under which anything may have reached MongoDB. */
  epochMax = 0;
  /** History was cut for certain: whoever goes on must do so in a higher epoch than this. */
  #cutAfterEpoch: number | undefined;

  constructor(sim: Simulation) {
    this.#sim = sim;
  }

  observe(server: Server): void {
    this.#server = server;
  }

  get server(): Server {
    return this.#server as Server;
  }

  /** A batch has been committed. */
  written({ generation, coversLsn }: { generation: number; coversLsn: Lsn }): void {
    const { checkpoint, lease } = this.server;
    this.counts.written += 1;
    require(generation === lease.generation, () =>
      `I6: generation ${generation} has lost its place to ${lease.generation} and writes`);
    this.#sim.note(() => `checkpoint of generation ${generation} covers ${coversLsn}`);
    this.#noRegression(checkpoint.commitLsn ?? 0n, checkpoint.epoch);
    this.#requireRecomputed(
      (commit) => commit.endLsn <= (checkpoint.commitLsn ?? 0n),
      'I2: the checkpoint passes',
    );
  }

  #noRegression(commitLsn: Lsn, epoch: number): void {
    if (epoch === this.#epoch) {
      require(commitLsn >= this.#commitLsn, () =>
        `the checkpoint goes back from ${this.#commitLsn} to ${commitLsn}`);
    }
    this.#epoch = epoch;
    this.#commitLsn = commitLsn;
  }

  historyBegun(): void {
    const { epoch, commitLsn } = this.server.checkpoint;
    this.counts.histories += 1;
    require(epoch > this.epochMax, () => `I3: epoch ${epoch} begins, and MongoDB knows ${this.epochMax}`);
    this.#sim.note(() => `history begins at ${commitLsn}, epoch ${epoch}`);
    this.#epoch = epoch;
    this.#commitLsn = commitLsn ?? 0n;
  }

  /** The slot has advanced. */
  confirmed(lsn: Lsn): void {
    const { commitLsn } = this.server.checkpoint;
    this.#sim.note(() => `slot confirmed at ${lsn}`);
    require(commitLsn !== undefined && lsn <= commitLsn, () =>
      `I2: the slot is confirmed at ${lsn}, the checkpoint is at ${commitLsn}`);
  }

  /** A consumer relies on its stream from now on. */
  active(stream: Stream): void {
    const { epoch } = this.server.checkpoint;
    const from = stream.startLsn;
    this.counts.takeovers += 1;
    if (stream.slot.confirmedLsn < from) this.counts.behind += 1;
    this.#sim.note(() => `generation ${stream.generation} streams from ${from}`);
    if (stream.open)
      this.#requireRecomputed((commit) => commit.commitLsn < from, `I2: a stream from ${from} skips`);
    const cutAfter = this.#cutAfterEpoch;
    require(cutAfter === undefined || !stream.open || epoch > cutAfter, () =>
      `history was cut, and epoch ${epoch} goes on in silence`);
    this.#cutAfterEpoch = undefined;
    this.epochMax = Math.max(this.epochMax, epoch);
  }

  /** A resync has ended: nothing excuses what is missing any more. */
  resynced(): void {
    this.counts.resyncs += 1;
    const { commitLsn } = this.server.checkpoint;
    this.#requireRecomputed((commit) => commit.endLsn <= (commitLsn ?? 0n), 'I2: the checkpoint is past');
  }

  /** Changes were undone behind the back of the checkpoint. */
  historyCut(): void {
    this.#cutAfterEpoch = this.epochMax;
  }

  /** The database was restored, checkpoint and all. */
  restored(): void {
    const { epoch, commitLsn } = this.server.checkpoint;
    this.#epoch = epoch;
    this.#commitLsn = commitLsn ?? 0n;
  }

  /** What is before a position must have been recomputed, or be part of a resync that is still to come. */
  #requireRecomputed(before: (commit: Commit) => boolean, text: string): void {
    const { wal, resync } = this.server;
    const owed = wal.firstOwed(resync?.commits ?? 0);
    require(owed === undefined || !before(owed), () => `${text} ${describe(owed as Commit)}`);
  }
}
