import type { Batch, DirtySet } from '../../pipeline/dirty.ts';
import type { Lsn } from '../../src/lsn.ts';
import { BatchWatch } from './batch-watch.ts';
import type { Machine } from './machine.ts';
import type { Stream } from './slot.ts';
import { EVERYTHING, KEYS, keyNames } from './wal.ts';

/** What a session has received: its stream, read into the pipeline's own `DirtySet`, and paused when that is full. */
export class Inbox {
  readonly dirty: DirtySet;
  stream: Stream | undefined;
  readonly #machine: Machine;
  readonly #watch: BatchWatch;
  readonly #arrived: () => void;
  readonly #asked: () => void;
  #paused = false;
  #reading = false;

  /** `arrived`: there may be work. `asked`: the server wants a sign of life. */
  constructor(
    machine: Machine,
    startLsn: Lsn,
    { arrived, asked }: { arrived: () => void; asked: () => void },
  ) {
    this.#machine = machine;
    this.dirty = machine.rules.createDirtySet(startLsn);
    this.#watch = new BatchWatch(this.dirty);
    this.#arrived = arrived;
    this.#asked = asked;
  }

  open(stream: Stream): void {
    this.stream = stream;
    this.wake();
  }

  close(): void {
    this.stream?.end({ cut: true });
    this.stream = undefined;
  }

  /** The socket may have something. */
  wake(): void {
    if (this.stream === undefined || this.#reading) return;
    this.#reading = true;
    this.#machine.later(this.#machine.sim.latencyMs(), () => {
      this.#reading = false;
      const { stream } = this;
      if (stream === undefined || this.#paused) return;
      this.#readSome(stream);
      if (stream.open && !stream.caughtUp && !this.#paused) this.wake();
    });
  }

  take(weightMax: number): Batch {
    const batch = this.dirty.take(weightMax);
    this.#watch.taken(batch, weightMax);
    return batch;
  }

  /** Reads on once half of what may be held is worked off. */
  resumeIfRoom(): void {
    if (!this.#paused || this.dirty.isFull(this.#machine.settings.pendingKeysMax / 2)) return;
    this.#paused = false;
    this.wake();
  }

  #readSome(stream: Stream): void {
    const { sim } = this.#machine;
    for (let left = 1 + sim.random.below(8); left > 0 && !this.#paused; left -= 1) {
      const sent = stream.read();
      if (sent?.kind === 'begin') {
        this.dirty.begin({ xid: sent.commit.xid, committedAtMs: sim.nowMs });
      } else if (sent?.kind === 'keys') {
        this.#addKeys(sent.mask);
      } else if (sent?.kind === 'commit') {
        this.dirty.commit(sent.endLsn);
        this.#arrived();
      }
      if (stream.open && sim.random.chance(0.1)) this.#keepalive(stream);
      if (sent === undefined) return;
      this.#pauseIfFull();
    }
  }

  #keepalive(stream: Stream): void {
    this.dirty.keepalive(stream.decodedLsn());
    if (this.#machine.sim.random.chance(0.3)) this.#asked();
  }

  #addKeys(mask: number): void {
    this.#machine.sim.note(() => `${this.#machine.name} receives ${keyNames(mask)}`);
    this.#watch.received(mask);
    for (const [index, { kind, id }] of KEYS.entries()) {
      if ((mask & (1 << index)) === 0) continue;
      if (kind === 'booking') this.dirty.addBookings([id]);
      else this.dirty.addMessage({ v: 1, [kind]: [id] });
    }
    if ((mask & EVERYTHING) !== 0) this.dirty.addMessage({ v: 1, all: 'iot_sensors' });
  }

  #pauseIfFull(): void {
    const { pendingKeysMax } = this.#machine.settings;
    if (this.#machine.rules.pausesReading && this.dirty.isFull(pendingKeysMax)) {
      this.#paused = true;
      this.#arrived();
    }
    this.#watch.bounded(pendingKeysMax);
  }
}
