import fc from 'fast-check';
import { expect, test } from 'vitest';
import { retryDelayMs } from '../../src/store/publish.ts';

const fraction = fc.double({ min: 0, max: 1, maxExcluded: true, noNaN: true });

test('a retry waits half a second at first and twice as long each time, up to a minute', () => {
  const longest = () => 1 - Number.EPSILON;
  expect([0, 1, 2, 6, 7, 8].map((attempt) => Math.round(retryDelayMs(attempt, longest)))).toEqual([
    500, 1_000, 2_000, 32_000, 60_000, 60_000,
  ]);
});

test('whatever the attempt and the dice, a retry waits between a quarter of a second and a minute', () => {
  fc.assert(
    fc.property(fc.nat(1_000_000), fraction, (attempt, random) => {
      const delayMs = retryDelayMs(attempt, () => random);
      expect(delayMs).toBeGreaterThanOrEqual(250);
      expect(delayMs).toBeLessThan(60_000.01);
    }),
  );
});

test('retries of many are spread over half of the delay, so that they do not come back together', () => {
  expect(retryDelayMs(3, () => 0)).toBe(2_000);
  expect(retryDelayMs(3, () => 0.5)).toBe(3_000);
});
