import { expect, test } from 'vitest';
import { judgeContinuity, requireOwnSlot, type Slot } from '../../pipeline/slot.ts';
import { EnvironmentError } from '../../src/errors.ts';

const SYSTEM = { systemIdentifier: '7301', timeline: 3 };
const CHECKPOINT = { ...SYSTEM, commitLsn: 1_000n };
const SLOT = { confirmedLsn: 1_000n, lost: false };

test.each<[what: string, slot: typeof SLOT]>([
  ['at the checkpoint', SLOT],
  ['behind, as after a crash of PostgreSQL', { ...SLOT, confirmedLsn: 999n }],
  ['that was never confirmed', { ...SLOT, confirmedLsn: 0n }],
])('D6: a slot %s goes on from the checkpoint', (_, slot) => {
  expect(judgeContinuity(CHECKPOINT, slot, SYSTEM)).toEqual({ state: 'continue', startLsn: 1_000n });
});

test('the first start begins, whatever slot is there', () => {
  const checkpoint = { commitLsn: undefined, systemIdentifier: undefined, timeline: undefined };
  for (const slot of [undefined, SLOT, { ...SLOT, lost: true }]) {
    expect(judgeContinuity(checkpoint, slot, SYSTEM)).toEqual({ state: 'begin' });
  }
});

test.each<[what: string, found: Parameters<typeof judgeContinuity>, reason: RegExp]>([
  ['a slot that is gone', [CHECKPOINT, undefined, SYSTEM], /slot is gone/],
  ['a slot whose WAL was removed', [CHECKPOINT, { ...SLOT, lost: true }, SYSTEM], /slot is lost/],
  [
    'a slot one byte ahead of the checkpoint',
    [CHECKPOINT, { ...SLOT, confirmedLsn: 1_001n }, SYSTEM],
    /slot \(0\/3E9\) is ahead of the checkpoint \(0\/3E8\)/,
  ],
  [
    'a later timeline, after a failover',
    [CHECKPOINT, SLOT, { ...SYSTEM, timeline: 4 }],
    /timeline 3, .* on 4/,
  ],
  ['an earlier timeline', [CHECKPOINT, SLOT, { ...SYSTEM, timeline: 2 }], /timeline 3, .* on 2/],
  [
    'another cluster',
    [CHECKPOINT, SLOT, { ...SYSTEM, systemIdentifier: '7302' }],
    /another PostgreSQL cluster/,
  ],
  [
    'another cluster, though its slot and timeline would fit',
    [CHECKPOINT, { ...SLOT, confirmedLsn: 5n }, { ...SYSTEM, systemIdentifier: '1' }],
    /another PostgreSQL cluster/,
  ],
  [
    'a checkpoint that says a position but no cluster',
    [{ ...CHECKPOINT, systemIdentifier: undefined }, SLOT, SYSTEM],
    /another/,
  ],
])('D6: %s cuts the history and says why', (_, found, reason) => {
  expect(judgeContinuity(...found)).toEqual({ state: 'cut', reason: expect.stringMatching(reason) });
});

const FOUND: Slot = {
  confirmedLsn: 0n,
  active: false,
  activePid: undefined,
  lost: false,
  plugin: 'pgoutput',
  database: 'storage_guard',
};

test('a slot of this name that is of another database or plugin is refused, with what to do', () => {
  const own = { slotName: 'market_sync', database: 'storage_guard' };
  expect(() => requireOwnSlot(FOUND, own)).not.toThrow();
  for (const foreign of [
    { database: 'other' },
    { plugin: 'wal2json' },
    { plugin: '(physical)', database: '(none)' },
  ]) {
    expect(() => requireOwnSlot({ ...FOUND, ...foreign }, own)).toThrow(EnvironmentError);
    expect(() => requireOwnSlot({ ...FOUND, ...foreign }, own)).toThrow(
      /^SLOT_NAME=market_sync: .*Choose another SLOT_NAME/,
    );
  }
});
