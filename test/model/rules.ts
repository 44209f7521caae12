import { judgeContinuity } from '../../pipeline/continuity.ts';
import { type Batch, DirtySet } from '../../pipeline/dirty.ts';
import type { Lsn } from '../../src/lsn.ts';

/** What a consumer goes by. A schedule runs with the real ones; test/model/mutants.test.ts breaks one at a time. */
export interface Rules {
  createDirtySet: (startLsn: Lsn) => DirtySet;
  judge: typeof judgeContinuity;
  /** What is confirmed once a batch is written. */
  confirms: (batch: Batch, dirty: DirtySet) => Lsn;
  /** Sees to it, once the stream has begun, that the slot is still the one that was judged. */
  checksSlotAgain: boolean;
  /** Waits until the transactions of a batch are visible before it reads. */
  provesVisibility: boolean;
  /** The checkpoint is written by the newest generation only. */
  fences: boolean;
  /** Ends the stream of whoever held the place before. */
  terminatesHolder: boolean;
  /** Reads no more while enough is held. */
  pausesReading: boolean;
}

export const RULES: Rules = {
  createDirtySet: (startLsn) => new DirtySet(startLsn),
  judge: judgeContinuity,
  confirms: (batch) => batch.coversLsn,
  checksSlotAgain: true,
  provesVisibility: true,
  fences: true,
  terminatesHolder: true,
  pausesReading: true,
};
