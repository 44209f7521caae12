import { expect, test } from 'vitest';
import { judgeContinuity } from '../../pipeline/continuity.ts';
import { parseTimelineHistory } from '../../pipeline/replication-server.ts';
import { requireOwnSlot, type Slot } from '../../pipeline/slot.ts';
import { EnvironmentError } from '../../src/errors.ts';

const SYSTEM = { systemIdentifier: '7301', timeline: 3, parent: { timeline: 2, leftAtLsn: 700n } };
const CHECKPOINT = { systemIdentifier: '7301', timeline: 3, commitLsn: 1_000n };
const SLOT = { confirmedLsn: 1_000n, lost: false, synced: false };

/** A standby that has taken over, with the slot that it was given. */
const PROMOTED = { ...SYSTEM, timeline: 4, parent: { timeline: 3, leftAtLsn: 1_000n } };
const SYNCED = { ...SLOT, synced: true };

test.each<[what: string, slot: typeof SLOT]>([
  ['at the checkpoint', SLOT],
  ['behind, as after a crash of PostgreSQL', { ...SLOT, confirmedLsn: 999n }],
  ['that was never confirmed', { ...SLOT, confirmedLsn: 0n }],
])('D6: a slot %s goes on from the checkpoint', (_, slot) => {
  expect(judgeContinuity(CHECKPOINT, slot, SYSTEM)).toEqual({ state: 'continue', startLsn: 1_000n });
});

test.each<[what: string, found: Parameters<typeof judgeContinuity>]>([
  ['at the checkpoint', [CHECKPOINT, SYNCED, PROMOTED]],
  ['behind the checkpoint', [CHECKPOINT, { ...SYNCED, confirmedLsn: 1n }, PROMOTED]],
  [
    'that left the timeline of the checkpoint beyond it',
    [CHECKPOINT, SYNCED, { ...PROMOTED, parent: { timeline: 3, leftAtLsn: 9_000n } }],
  ],
])(
  'D6: a standby that has taken over goes on from the checkpoint with the slot that it was given, %s',
  (_, found) => {
    expect(judgeContinuity(...found)).toEqual({ state: 'continue', startLsn: 1_000n });
  },
);

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
  ['a failover without the slot', [CHECKPOINT, undefined, PROMOTED], /slot is gone/],
  [
    'a failover with a slot whose WAL was removed',
    [CHECKPOINT, { ...SYNCED, lost: true }, PROMOTED],
    /slot is lost/,
  ],
  [
    'a failover with a slot that is ahead of the checkpoint',
    [CHECKPOINT, { ...SYNCED, confirmedLsn: 1_001n }, PROMOTED],
    /slot \(0\/3E9\) is ahead of the checkpoint/,
  ],
  [
    'a new timeline, and a slot that was copied or made by hand',
    [CHECKPOINT, SLOT, PROMOTED],
    /timeline 3, .* on 4, .* did not come along/,
  ],
  [
    'a timeline that left ours one byte before the checkpoint',
    [CHECKPOINT, SYNCED, { ...PROMOTED, parent: { timeline: 3, leftAtLsn: 999n } }],
    /left timeline 3 at 0\/3E7, before the checkpoint \(0\/3E8\)/,
  ],
  [
    'a later timeline that left before ours began',
    [CHECKPOINT, SYNCED, { ...PROMOTED, parent: { timeline: 2, leftAtLsn: 9_000n } }],
    /timeline 3, .* on 4, which does not come right from there/,
  ],
  [
    'the second failover in a row',
    [CHECKPOINT, SYNCED, { ...PROMOTED, timeline: 5, parent: { timeline: 4, leftAtLsn: 9_000n } }],
    /timeline 3, .* on 5, which does not come right from there/,
  ],
  [
    'a timeline of which nobody knows where it comes from',
    [CHECKPOINT, SYNCED, { ...PROMOTED, parent: undefined }],
    /does not come right from there/,
  ],
  [
    'an earlier timeline',
    [CHECKPOINT, SYNCED, { ...SYSTEM, timeline: 2, parent: { timeline: 1, leftAtLsn: 300n } }],
    /timeline 3, .* on 2/,
  ],
  [
    'a checkpoint that says a position but no timeline',
    [{ ...CHECKPOINT, timeline: undefined }, SYNCED, PROMOTED],
    /does not come right from there/,
  ],
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
  synced: false,
  failover: true,
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

test('the last line of a timeline history says where the timeline before was left', () => {
  const history =
    '1\t0/3000158\tno recovery target specified\n\n# a comment, 7\t0/1\n2\tAB/5000\tat restore point "5\t0/6"\n';
  expect(parseTimelineHistory(history)).toEqual({ timeline: 2, leftAtLsn: 0xab00005000n });
  expect(parseTimelineHistory('')).toBeUndefined();
});
