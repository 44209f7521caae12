import { type Batch, DirtySet } from '../../pipeline/dirty.ts';
import type { Lsn } from '../../src/lsn.ts';
import { RULES, type Rules } from './rules.ts';

/** Covers what was received, though keys of it wait. */
class CoversReceived extends DirtySet {
  override take(weightMax: number): Batch {
    return { ...super.take(weightMax), coversLsn: this.received };
  }
}

/** Remembers of a key where its own transaction ended, instead of the one before. */
class CoversOwnCommit extends DirtySet {
  readonly #ends: Lsn[] = [];

  override commit(endLsn: Lsn): void {
    super.commit(endLsn);
    this.#ends.push(endLsn);
  }

  override take(weightMax: number): Batch {
    const batch = super.take(weightMax);
    const own = this.#ends.find((endLsn) => endLsn > batch.coversLsn);
    return { ...batch, coversLsn: own ?? batch.coversLsn };
  }
}

/** Forgets which transactions must be visible. */
class ForgetsXids extends DirtySet {
  override take(weightMax: number): Batch {
    return { ...super.take(weightMax), xids: [] };
  }
}

/** Remembers the transaction received last alone: merged keys were dirtied by others too. */
class KeepsLastXid extends DirtySet {
  override take(weightMax: number): Batch {
    const batch = super.take(weightMax);
    return { ...batch, xids: batch.xids.slice(-1) };
  }
}

/** Takes every keepalive for a position that was received, inside a transaction too. */
class BelievesKeepalives extends DirtySet {
  #walEnd: Lsn = 0n;

  override keepalive(walEnd: Lsn): void {
    super.keepalive(walEnd);
    this.#walEnd = walEnd;
  }

  override take(weightMax: number): Batch {
    const batch = super.take(weightMax);
    if (this.size > 0 || this.#walEnd < batch.coversLsn) return batch;
    return { ...batch, coversLsn: this.#walEnd };
  }
}

/** Does not record a transaction whose keys were all taken before it ended. */
class ForgetsToRecord extends DirtySet {
  override get hasWork(): boolean {
    return this.size > 0;
  }
}

/** Drops what a TRUNCATE says. */
class IgnoresTruncate extends DirtySet {
  override addEverything(): void {}
}

/** Takes whatever waits. */
class TakesEverything extends DirtySet {
  override take(): Batch {
    return super.take(1_000_000);
  }
}

/** The consumer of this project, with one bug each, and the invariant that tells. */
export const MUTANTS: Record<string, { rules: Partial<Rules>; violates: RegExp }> = {
  'confirms what it received': {
    rules: { confirms: (_batch, dirty) => dirty.received },
    violates: /I2: the slot is confirmed/,
  },
  'confirms one more than the checkpoint, as the library does': {
    rules: { confirms: (batch) => batch.coversLsn + 1n },
    violates: /I2: the slot is confirmed/,
  },
  'covers what it received while keys wait': {
    rules: { createDirtySet: (lsn) => new CoversReceived(lsn) },
    violates: /I2: the checkpoint passes/,
  },
  'covers the commit of the oldest key that waits': {
    rules: { createDirtySet: (lsn) => new CoversOwnCommit(lsn) },
    violates: /I2: the checkpoint passes/,
  },
  'forgets which transactions must be visible': {
    rules: { createDirtySet: (lsn) => new ForgetsXids(lsn) },
    violates: /I2: the checkpoint passes/,
  },
  'proves only the last transaction visible': {
    rules: { createDirtySet: (lsn) => new KeepsLastXid(lsn) },
    violates: /I2: the checkpoint passes/,
  },
  'reads before what it read of is visible': {
    rules: { provesVisibility: false },
    violates: /I2: the checkpoint passes/,
  },
  'takes a keepalive inside a transaction for its end': {
    rules: { createDirtySet: (lsn) => new BelievesKeepalives(lsn) },
    violates: /I2: the checkpoint passes/,
  },
  'does not record a transaction that was taken while it arrived': {
    rules: { createDirtySet: (lsn) => new ForgetsToRecord(lsn) },
    violates: /I1: not at rest/,
  },
  'ignores a TRUNCATE': {
    rules: { createDirtySet: (lsn) => new IgnoresTruncate(lsn) },
    violates: /I2: the checkpoint passes|I1: not at rest/,
  },
  'takes more than a batch may hold': {
    rules: { createDirtySet: (lsn) => new TakesEverything(lsn) },
    violates: /D4: a batch weighs/,
  },
  'goes on reading when it holds enough': {
    rules: { pausesReading: false },
    violates: /I9/,
  },
  'writes after it has lost its place': {
    rules: { fences: false },
    violates: /I6: generation/,
  },
  'leaves the stream of its predecessor alone': {
    rules: { terminatesHolder: false },
    violates: /I6: nothing is recomputed|I1: not at rest/,
  },
  'continues whatever the slot says': {
    rules: {
      judge: ({ commitLsn }) =>
        commitLsn === undefined ? { state: 'begin' } : { state: 'continue', startLsn: commitLsn },
    },
    violates: /I2: a stream from|in silence|I1: not at rest/,
  },
  'continues behind a slot that is ahead of the checkpoint': {
    rules: {
      judge: (checkpoint, slot, system) =>
        RULES.judge(checkpoint, slot && { ...slot, confirmedLsn: 0n }, system),
      checksSlotAgain: false,
    },
    violates: /I2: a stream from/,
  },
  'continues on another timeline': {
    rules: {
      judge: (checkpoint, slot, system) =>
        RULES.judge({ ...checkpoint, timeline: system.timeline }, slot, system),
    },
    violates: /I2: a stream from|in silence/,
  },
  'takes a slot that was copied for one that a standby was given': {
    rules: {
      judge: (checkpoint, slot, system) => RULES.judge(checkpoint, slot && { ...slot, synced: true }, system),
    },
    violates: /in silence/,
  },
  'continues with a slot that is lost': {
    rules: {
      judge: (checkpoint, slot, system) => RULES.judge(checkpoint, slot && { ...slot, lost: false }, system),
    },
    violates: /I1: not at rest|I2: a stream/,
  },
  'does not look at the slot again once it streams': {
    rules: { checksSlotAgain: false },
    violates: /I2: a stream from/,
  },
  'begins where the slot stands': {
    rules: {
      judge: (checkpoint, slot, system) => {
        const verdict = RULES.judge(checkpoint, slot, system);
        if (verdict.state !== 'continue' || slot === undefined) return verdict;
        return { state: 'continue', startLsn: slot.confirmedLsn + 1n };
      },
    },
    violates: /I2: a stream from|I2: the slot is confirmed/,
  },
};
