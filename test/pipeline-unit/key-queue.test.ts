import { randomUUID } from 'node:crypto';
import fc from 'fast-check';
import { expect, test } from 'vitest';
import { KeyQueue } from '../../pipeline/key-queue.ts';
import { KEY_KINDS, type KeyKind } from '../../src/domain/change.ts';
import { heldBytes } from '../support/held-bytes.ts';

/** Adds keys `from` to `to`, and removes so many. Far more than there is room for at first, so that it grows and comes round. */
const steps = fc.array(
  fc.record({
    from: fc.nat(20_000),
    count: fc.nat(6_000),
    kind: fc.constantFrom(...KEY_KINDS),
    removed: fc.nat(8_000),
  }),
  { maxLength: 12, size: 'max' },
);

const uuids = Array.from({ length: 26_000 }, () => randomUUID());

test('does as a Map of strings does, however full it was', () => {
  fc.assert(
    fc.property(steps, (played) => {
      const queue = new KeyQueue();
      const map = new Map<string, bigint>();
      let lsn = 0n;
      for (const { from, count, kind, removed } of played) {
        lsn += 2n ** 60n;
        for (const id of uuids.slice(from, from + count)) {
          queue.add(kind, id, lsn);
          if (!map.has(`${kind}:${id}`)) map.set(`${kind}:${id}`, lsn);
        }
        expect(queue.size).toBe(map.size);
        expectSame(queue, map, removed);
      }
      expectSame(queue, map, Number.POSITIVE_INFINITY);
      expect(queue.oldest).toBeUndefined();
    }),
    { numRuns: 30 },
  );
});

/** Removes so many from both. */
function expectSame(queue: KeyQueue, map: Map<string, bigint>, removed: number): void {
  let left = removed;
  const [found, expected]: [string[], string[]] = [[], []];
  for (const [name, lsn] of map) {
    if (left <= 0) break;
    left -= 1;
    const { oldest } = queue;
    found.push(`${oldest?.kind}:${queue.shift()} ${oldest?.lsn}`);
    expected.push(`${name} ${lsn}`);
    map.delete(name);
  }
  expect(found).toEqual(expected);
}

test('keeps apart what differs in kind, in length or in the last character only', () => {
  const queue = new KeyQueue();
  const added: [KeyKind, string][] = [
    ['booking', 'a'],
    ['sensor', 'a'],
    ['booking', 'ab'],
    ['booking', ''],
    ['booking', '00000000-0000-7000-8000-000000000001'],
    ['booking', '00000000-0000-7000-8000-000000000002'],
  ];
  for (const [kind, id] of [...added, ...added]) queue.add(kind, id, 0n);
  expect(queue.size).toBe(added.length);
  for (const [kind, id] of added) expect([queue.oldest?.kind, queue.shift()]).toEqual([kind, id]);
});

test('an id that is too long is refused, not cut', () => {
  const queue = new KeyQueue();
  expect(() => queue.add('booking', 'x'.repeat(37), 0n)).toThrow('the id of a booking has 37 characters');
  expect(queue.size).toBe(0);
  expect(() => queue.shift()).toThrow('no key waits');
});

test('I9: what a hundred thousand keys took is given back with the last of them', () => {
  const queue = new KeyQueue();
  const before = heldBytes();
  for (let key = 0; key < 100_000; key += 1) queue.add('booking', randomUUID(), BigInt(key));
  expect(heldBytes() - before).toBeGreaterThan(4_000_000);
  while (queue.size > 0) queue.shift();
  expect(heldBytes() - before).toBeLessThan(1_000_000);
  queue.add('booking', 'a', 0n);
  expect(queue.shift()).toBe('a');
});
