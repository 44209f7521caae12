import assert from 'node:assert/strict';
import { randomUUID } from 'node:crypto';
import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { type Batch, DirtySet } from '../../pipeline/dirty.ts';
import { KEY_KINDS, type KeyKind } from '../../src/domain/change.ts';
import { heldBytes } from '../support/held-bytes.ts';

const WEIGHTS: Record<KeyKind, number> = {
  booking: 1,
  sensor: 1 / 16,
  location: 10,
  vendor: 10,
  inspection: 10,
};

/** A moment of a change stream, or of the consumer that reads it. Those that make no sense where they stand are skipped. */
type Moment =
  | { type: 'begin' }
  | { type: 'key'; kind: KeyKind; id: string }
  | { type: 'everything' }
  | { type: 'commit' }
  | { type: 'keepalive' }
  | { type: 'take'; weightMax: number };

// Few ids, so that transactions dirty the same keys again and again.
const moments = fc.array(
  fc.oneof(
    { weight: 4, arbitrary: fc.constant<Moment>({ type: 'begin' }) },
    {
      weight: 8,
      arbitrary: fc.record({
        type: fc.constant<'key'>('key'),
        kind: fc.constantFrom(...KEY_KINDS),
        id: fc.constantFrom('a', 'b', 'c'),
      }),
    },
    { weight: 1, arbitrary: fc.constant<Moment>({ type: 'everything' }) },
    { weight: 4, arbitrary: fc.constant<Moment>({ type: 'commit' }) },
    { weight: 2, arbitrary: fc.constant<Moment>({ type: 'keepalive' }) },
    {
      weight: 3,
      arbitrary: fc.record({
        type: fc.constant<'take'>('take'),
        weightMax: fc.constantFrom(1, 2, 10, 11, 25, 1_000),
      }),
    },
  ),
  { maxLength: 80, size: 'max' },
);

interface Transaction {
  xid: number;
  committedAtMs: number;
  /** What was received whole before it began: the checkpoint may not pass this while a key of it waits. */
  beganAfter: bigint;
}

/** Plays a stream into a `DirtySet` and holds what it answers against a plain account of what was dirtied and taken. */
class Model {
  readonly dirty = new DirtySet(100n);
  /** Waiting keys, oldest first, each with the transactions that dirtied it since it was last taken. */
  readonly waiting = new Map<string, Transaction[]>();
  #everything: Transaction[] = [];
  #open: Transaction | undefined;
  #openTouched = false;
  #position = 100n;
  #received = 100n;
  #lastTouchedEnd = 100n;
  #xid = 700;
  #provedXids = new Set<number>();
  checkpoint = 100n;

  play(moment: Moment): void {
    switch (moment.type) {
      case 'begin':
        if (this.#open === undefined) this.#begin();
        break;
      case 'key':
        if (this.#open !== undefined) this.#touch(this.#open, moment.kind, moment.id);
        break;
      case 'everything':
        if (this.#open === undefined) break;
        this.#openTouched = true;
        this.#everything.push(this.#open);
        this.dirty.addEverything('because');
        break;
      case 'commit':
        if (this.#open !== undefined) this.#commit();
        break;
      case 'keepalive':
        this.#position += 7n;
        this.dirty.keepalive(this.#position);
        if (this.#open === undefined) this.#received = this.#position;
        break;
      case 'take':
        if (this.dirty.hasWork) this.take(moment.weightMax);
        break;
    }
    this.#checkAccount();
  }

  #begin(): void {
    this.#xid += 1;
    this.#open = { xid: this.#xid, committedAtMs: this.#xid * 10, beganAfter: this.#received };
    this.#openTouched = false;
    this.#position += 5n;
    this.dirty.begin(this.#open);
  }

  #touch(transaction: Transaction, kind: KeyKind, id: string): void {
    this.#openTouched = true;
    const name = `${kind}:${id}`;
    this.waiting.set(name, [...(this.waiting.get(name) ?? []), transaction]);
    if (kind === 'booking') this.dirty.addBookings([id]);
    else this.dirty.addMessage({ v: 1, [kind]: [id] });
  }

  #commit(): void {
    this.#open = undefined;
    this.#position += 5n;
    this.#received = this.#position;
    if (this.#openTouched) this.#lastTouchedEnd = this.#position;
    this.dirty.commit(this.#position);
  }

  /** As the consumer does: a batch, written, then the checkpoint stands at what it covers. */
  take(weightMax: number): Batch {
    const batch = this.dirty.take(weightMax);
    for (const xid of batch.xids) this.#provedXids.add(xid);
    this.#checkKeys(batch, weightMax);
    expect(batch.resyncReason).toBe(this.#everything.length === 0 ? undefined : 'because');
    this.#requireProved(this.#everything);
    this.#everything = [];
    expect(batch.coversLsn, 'the checkpoint never goes back').toBeGreaterThanOrEqual(this.checkpoint);
    this.checkpoint = batch.coversLsn;
    return batch;
  }

  #checkKeys(batch: Batch, weightMax: number): void {
    const taken = KEY_KINDS.flatMap((kind) => batch.keys[kind].map((id) => `${kind}:${id}`));
    const oldest = [...this.waiting.keys()].slice(0, taken.length);
    expect(taken.toSorted(), 'the oldest keys are taken').toEqual(oldest.toSorted());
    expect(batch.keyCount).toBe(taken.length);
    const weight = taken.reduce((sum, name) => sum + WEIGHTS[name.split(':')[0] as KeyKind], 0);
    expect(weight <= weightMax || taken.length === 1, `weight ${weight} of ${weightMax}`).toBe(true);
    expect(taken.length > 0 || this.waiting.size === 0).toBe(true);
    for (const name of taken) {
      this.#requireProved(this.waiting.get(name) ?? []);
      this.waiting.delete(name);
    }
  }

  /** D3a: what is read for a key is read after its transactions were proved visible. */
  #requireProved(transactions: Transaction[]): void {
    for (const { xid } of transactions) {
      assert.ok(this.#provedXids.has(xid), `transaction ${xid} must be proved visible with its keys`);
    }
  }

  // After every moment: plain assertions, because there are hundreds of thousands of them.
  #checkAccount(): void {
    const unfinished = [...this.waiting.values(), this.#everything].flat();
    if (this.#open !== undefined) unfinished.push(this.#open);
    for (const { beganAfter, xid } of unfinished) {
      assert.ok(this.checkpoint <= beganAfter, `the checkpoint passes transaction ${xid}`);
    }
    assert.equal(this.dirty.received, this.#received);
    assert.equal(this.dirty.size, this.waiting.size, 'I9: as many keys as are distinct');
    if (unfinished.length > 0) assert.equal(this.dirty.idle, false);
    if (this.waiting.size > 0 || this.#everything.length > 0) assert.ok(this.dirty.hasWork);
    if (this.waiting.size === 0 && this.#everything.length === 0 && this.checkpoint >= this.#lastTouchedEnd) {
      assert.equal(this.dirty.hasWork, false, 'nothing is written for what touches nothing of ours');
    }
    if (this.#open === undefined && !this.dirty.hasWork) {
      assert.ok(this.checkpoint >= this.#lastTouchedEnd, 'what was reconciled is recorded');
    }
  }

  /** The stream falls silent. */
  drain(): void {
    this.play({ type: 'commit' });
    for (let batches = 0; this.dirty.hasWork; batches += 1) {
      expect(batches, 'a finite number of batches').toBeLessThan(100);
      this.take(25);
      this.#checkAccount();
    }
    expect(this.waiting.size).toBe(0);
    expect(this.dirty.idle).toBe(true);
    expect(this.take(1)).toMatchObject({ keyCount: 0, xids: [], coversLsn: this.#received });
  }
}

test('I2: whatever the stream, and wherever batches are taken, the checkpoint covers what was taken and nothing else', () => {
  fc.assert(
    fc.property(moments, (played) => {
      const model = new Model();
      for (const moment of played) model.play(moment);
      model.drain();
    }),
    { numRuns: 2_000 },
  );
});

const transaction = (xid: number) => ({ xid, committedAtMs: xid * 1_000 });

test('I2: a transaction whose last keys were taken while it was still arriving is recorded when it ends', () => {
  const dirty = new DirtySet(0n);
  dirty.begin(transaction(1));
  dirty.addBookings(['a']);
  expect(dirty.take(250)).toMatchObject({ keyCount: 1, coversLsn: 0n, xids: [1] });
  expect(dirty.hasWork).toBe(false);
  dirty.commit(50n);
  expect(dirty.hasWork).toBe(true);
  expect(dirty.take(250)).toMatchObject({ keyCount: 0, coversLsn: 50n });
  expect(dirty.hasWork).toBe(false);
});

test('I2: a key dirtied again in the transaction it was taken from is taken again', () => {
  const dirty = new DirtySet(0n);
  dirty.begin(transaction(1));
  dirty.addBookings(['a']);
  dirty.take(250);
  dirty.addBookings(['a']);
  dirty.commit(50n);
  const batch = dirty.take(250);
  expect(batch.keys.booking).toEqual(['a']);
  expect(batch.coversLsn).toBe(50n);
});

test('D4: keys of many transactions merge while they wait, and one batch covers them all', () => {
  const dirty = new DirtySet(0n);
  for (let xid = 1; xid <= 100; xid += 1) {
    dirty.begin(transaction(xid));
    dirty.addMessage({ v: 1, location: ['l'], sensor: ['s1', 's2'] });
    dirty.commit(BigInt(xid) * 10n);
  }
  expect(dirty.size).toBe(3);
  const batch = dirty.take(250);
  expect(batch.keys).toEqual({
    booking: [],
    location: ['l'],
    sensor: ['s1', 's2'],
    vendor: [],
    inspection: [],
  });
  expect(batch.coversLsn).toBe(1_000n);
  expect(batch.xids).toHaveLength(100);
  expect(batch.oldestCommitMs).toBe(1_000);
});

test('I9: transactions that touch nothing of ours leave nothing behind', () => {
  const dirty = new DirtySet(0n);
  for (let xid = 1; xid <= 50_000; xid += 1) {
    dirty.begin(transaction(xid));
    dirty.commit(BigInt(xid));
  }
  expect(dirty.isFull(1)).toBe(false);
  expect(dirty.idle).toBe(true);
  expect(dirty.take(1)).toMatchObject({ xids: [], coversLsn: 50_000n, oldestCommitMs: undefined });
});

test('I9: reading pauses when enough keys wait, or enough transactions on one key', () => {
  const keys = new DirtySet(0n);
  keys.begin(transaction(1));
  keys.addBookings(Array.from({ length: 999 }, (_, index) => `booking-${index}`));
  expect(keys.isFull(1_000)).toBe(false);
  keys.addBookings(['one-more']);
  expect(keys.isFull(1_000)).toBe(true);

  const transactions = new DirtySet(0n);
  for (let xid = 1; !transactions.isFull(1_000); xid += 1) {
    expect(xid).toBeLessThan(50_000);
    transactions.begin(transaction(xid));
    transactions.addBookings(['hot']);
    transactions.commit(BigInt(xid));
  }
  transactions.take(250);
  expect(transactions.isFull(1_000)).toBe(false);
});

test('I9: a hundred thousand keys of as many transactions that wait take less than 100 bytes each', () => {
  const dirty = new DirtySet(0n);
  const before = heldBytes();
  for (let xid = 1; xid <= 100_000; xid += 1) {
    dirty.begin(transaction(xid));
    dirty.addBookings([Buffer.from(randomUUID()).toString('latin1')]); // in one piece, as it comes from the decoder
    dirty.commit(BigInt(xid) * 1_000n);
  }
  expect((heldBytes() - before) / dirty.size).toBeLessThan(100);
  expect(dirty.take(100_000).keyCount).toBe(100_000);
});

test('a keepalive inside a transaction, or behind what was received, moves nothing', () => {
  const dirty = new DirtySet(100n);
  dirty.keepalive(50n);
  expect(dirty.received).toBe(100n);
  dirty.begin(transaction(1));
  dirty.keepalive(500n);
  expect(dirty.received).toBe(100n);
  dirty.commit(120n);
  dirty.keepalive(500n);
  expect(dirty.received).toBe(500n);
});

describe('a resync', () => {
  test('names the truncated table, and comes with the first batch after it only', () => {
    const dirty = new DirtySet(0n);
    dirty.begin(transaction(1));
    dirty.addMessage({ v: 1, all: 'sensor_readings' });
    dirty.addEverything('a second reason');
    dirty.commit(9n);
    expect(dirty.take(250)).toMatchObject({
      resyncReason: 'sensor_readings was truncated',
      xids: [1],
      coversLsn: 9n,
    });
    expect(dirty.hasWork).toBe(false);
    expect(dirty.take(250).resyncReason).toBeUndefined();
  });

  test('names the SQLSTATE when capture itself failed', () => {
    const dirty = new DirtySet(0n);
    dirty.begin(transaction(1));
    dirty.addMessage({ v: 1, all: 'iot_sensors', sqlstate: '42703' });
    expect(dirty.take(250).resyncReason).toBe('capture of iot_sensors failed with 42703');
  });
});

test('a stream out of order is refused: going on could lose changes', () => {
  const dirty = new DirtySet(0n);
  expect(() => dirty.commit(1n)).toThrow('a transaction ended that had not begun');
  dirty.begin(transaction(1));
  expect(() => dirty.begin(transaction(2))).toThrow('a transaction began inside another');
});
