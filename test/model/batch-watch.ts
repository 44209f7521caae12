import type { Batch, DirtySet } from '../../pipeline/dirty.ts';
import { KEY_KINDS } from '../../src/domain/change.ts';
import { require } from './simulation.ts';
import { KEYS, keyBits } from './wal.ts';

const WEIGHTS = { booking: 1, sensor: 1 / 16, location: 10, vendor: 10, inspection: 10 };
const WEIGHT = KEYS.map(({ kind }) => WEIGHTS[kind]);

/** A plain account of the keys that wait in a `DirtySet`: what batches may take, and how much may be held. */
export class BatchWatch {
  readonly #dirty: DirtySet;
  /** Indices of the waiting keys, in the order in which they became dirty. */
  #waiting: number[] = [];
  /** How many keys the last message added. */
  #added = 0;
  #coveredLsn = 0n;

  constructor(dirty: DirtySet) {
    this.#dirty = dirty;
  }

  received(mask: number): void {
    const before = this.#waiting.length;
    for (let index = 0; index < KEYS.length; index += 1) {
      if ((mask & (1 << index)) !== 0 && !this.#waiting.includes(index)) this.#waiting.push(index);
    }
    this.#added = this.#waiting.length - before;
  }

  taken(batch: Batch, weightMax: number): void {
    const oldest = this.#waiting.splice(0, batch.keyCount);
    let [weight, count] = [0, 0];
    for (const kind of KEY_KINDS) {
      for (const id of batch.keys[kind]) {
        const index = 31 - Math.clz32(keyBits.get(id) as number);
        require(oldest.includes(index), () => `D4: ${id} is taken before older keys`);
        weight += WEIGHT[index] as number;
        count += 1;
      }
    }
    require(count === batch.keyCount, () => `D4: a batch of ${count} keys says ${batch.keyCount}`);
    require(weight <= weightMax || count === 1, () =>
      `D4: a batch weighs ${weight}, of ${weightMax} at most`);
    require(count > 0 || this.#waiting.length === 0, () => 'D4: a batch takes nothing of what waits');
    require(batch.coversLsn >= this.#coveredLsn, () => 'what batches cover goes back');
    this.#coveredLsn = batch.coversLsn;
  }

  /** I9. */
  bounded(keysMax: number): void {
    const { size } = this.#dirty;
    require(size === this.#waiting.length, () =>
      `I9: ${size} keys are held, ${this.#waiting.length} are distinct`);
    // Reading pauses after the message that fills it.
    require(size - this.#added < keysMax, () => `I9: ${size} keys are held, of ${keysMax} at most`);
  }
}
