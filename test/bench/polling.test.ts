import { expect, test } from 'vitest';
import { simulatePolling } from '../../bench/polling-simulation.ts';

const RULES = {
  publishEveryMs: 5,
  publishMax: 1,
  publishMs: 1,
  reconcileEveryMs: 10,
  reconcileMax: 2,
  reconcileMs: 1,
};

test('the polling system shows a change at the publish after the re-read that found it, one listing after the other', () => {
  const outcome = simulatePolling({
    listings: 4,
    changes: [
      { listing: 3, atMs: 1 },
      { listing: 0, atMs: 2 },
      { listing: 1, atMs: 3 },
      { listing: 2, atMs: 4 },
      { listing: 0, atMs: 12 },
    ],
    untilMs: 30,
    rules: RULES,
  });
  // By hand. At 10 listings 0 and 1 are re-read (ready at 11 and 12), at 20 listings 2 and 3 (ready at 21 and 22).
  // At 15, 20 and 25 one is published each, 1 ms later: 0 at 16, 1 at 21, 2 at 26. At 30, the end, the second change of
  // 0 and the only one of 3 are still unseen.
  expect(outcome.stalenessMs).toEqual([16 - 2, 21 - 3, 26 - 4, 30 - 12, 30 - 1]);
  expect(outcome.writes).toBe(3);
  expect(outcome.neverReached).toBe(1);
});

test('a change right after the re-read waits for the next one', () => {
  const outcome = simulatePolling({
    listings: 1,
    changes: [
      { listing: 0, atMs: 11 },
      { listing: 0, atMs: 11.5 },
    ],
    untilMs: 100,
    rules: RULES,
  });
  // Re-read at 11, published at 16; unchanged until the re-read at 20, which is done at 21, published at 26.
  expect(outcome).toEqual({ stalenessMs: [16 - 11, 26 - 11.5], writes: 2, neverReached: 0 });
});

test('nothing is written when nothing changes', () => {
  const outcome = simulatePolling({ listings: 10, changes: [], untilMs: 1_000, rules: RULES });
  expect(outcome).toEqual({ stalenessMs: [], writes: 0, neverReached: 0 });
});
