import { expect, test } from 'vitest';
import { Pace } from '../../pipeline/pace.ts';

const ALONE = { waiting: false, batches: 5 };

/** One that has looked twice, and found that the application writes so many rows a second. */
function createPace({ writesPerSecond = 0 }: { writesPerSecond?: number } = {}) {
  let now = 0;
  const pace = new Pace({ chunkMax: 250, nowMs: () => now });
  const pass = (ms: number): void => {
    now += ms;
  };
  pace.lookAtWrites(1_000);
  pass(1_000);
  pace.lookAtWrites(1_000 + writesPerSecond);
  return { pace, pass };
}

test('alone a backfill takes whole chunks and does not rest', () => {
  const { pace } = createPace();
  for (let chunk = 0; chunk < 20; chunk += 1) {
    expect(pace.size).toBe(250);
    expect(pace.restMs({ items: 250, tookMs: 40, live: ALONE })).toBe(0);
  }
});

test('beside live batches its chunks take 10 ms, and it rests as long as it works', () => {
  const { pace } = createPace();
  pace.restMs({ items: 250, tookMs: 50, live: ALONE });
  expect(pace.restMs({ items: 250, tookMs: 50, live: { waiting: false, batches: 6 } })).toBe(50);
  expect(pace.size).toBe(50);
});

test('once somebody has waited for its lock twice it takes a quarter of the time', () => {
  const { pace } = createPace();
  pace.restMs({ items: 250, tookMs: 50, live: { waiting: true, batches: 5 } });
  expect(pace.restMs({ items: 250, tookMs: 50, live: { waiting: true, batches: 5 } })).toBe(150);
  expect(pace.size).toBe(50);
});

test('somebody who waits for its lock once in a while, as the checkpoint of an idle consumer does, does not slow it down', () => {
  const { pace, pass } = createPace();
  for (let wait = 0; wait < 3; wait += 1) {
    expect(pace.restMs({ items: 250, tookMs: 50, live: { waiting: true, batches: 5 } })).toBe(0);
    expect(pace.size).toBe(250);
    pass(10_000);
  }
});

test('when live work has not been seen for two seconds it goes at full speed again', () => {
  const { pace, pass } = createPace();
  pace.restMs({ items: 250, tookMs: 50, live: { waiting: true, batches: 5 } });
  pace.restMs({ items: 250, tookMs: 50, live: { waiting: true, batches: 5 } });
  pass(1_999);
  expect(pace.restMs({ items: 50, tookMs: 10, live: ALONE })).toBeGreaterThan(0);
  pass(1);
  expect(pace.restMs({ items: 50, tookMs: 10, live: ALONE })).toBe(0);
  expect(pace.size).toBe(250);
});

test('a minute that is left out of the count of live batches is no live batch, and the next one is', () => {
  const { pace } = createPace();
  pace.restMs({ items: 250, tookMs: 50, live: { waiting: false, batches: 900 } });
  expect(pace.restMs({ items: 250, tookMs: 50, live: { waiting: false, batches: 3 } })).toBe(0);
  expect(pace.restMs({ items: 250, tookMs: 50, live: { waiting: false, batches: 4 } })).toBe(50);
});

test('however slow it is, a chunk has 25 bookings and a rest takes a second at most', () => {
  const { pace } = createPace();
  pace.restMs({ items: 10, tookMs: 20_000, live: { waiting: true, batches: 5 } });
  expect(pace.restMs({ items: 10, tookMs: 20_000, live: { waiting: true, batches: 5 } })).toBe(1_000);
  expect(pace.size).toBe(25);
});

test.each([
  [1, 10],
  [250, 20],
  [1_000, 50],
  [100_000, 90],
])(
  'I5: beside an application that writes %i rows a second a chunk of 10 ms is followed by a rest of %i ms, without any live batch',
  (writesPerSecond, restMs) => {
    const { pace } = createPace({ writesPerSecond });
    expect(pace.size).toBeLessThan(250);
    expect(Math.round(pace.restMs({ items: 100, tookMs: 10, live: ALONE }))).toBe(restMs);
    expect(pace.size).toBe(100);
  },
);

test('whoever waits for its lock counts beside an application that writes little', () => {
  const { pace } = createPace({ writesPerSecond: 1 });
  pace.restMs({ items: 100, tookMs: 10, live: { waiting: true, batches: 5 } });
  expect(pace.restMs({ items: 100, tookMs: 10, live: { waiting: true, batches: 5 } })).toBe(30);
});

test('what makes a chunk take longer than its work makes the rest for the application no longer', () => {
  const { pace } = createPace({ writesPerSecond: 1_000 });
  pace.restMs({ items: 100, tookMs: 10, live: ALONE });
  expect(Math.round(pace.restMs({ items: 50, tookMs: 40, live: ALONE }))).toBe(25);
});

test('until it was looked twice, a second apart, it goes as if the application wrote', () => {
  let now = 0;
  const pace = new Pace({ chunkMax: 250, nowMs: () => now });
  expect(pace.isLookDue).toBe(true);
  pace.lookAtWrites(7);
  expect(pace.isLookDue).toBe(false);
  expect(pace.size).toBe(100);
  expect(pace.restMs({ items: 100, tookMs: 20, live: ALONE })).toBe(20);
  now = 1_000;
  expect(pace.isLookDue).toBe(true);
  pace.lookAtWrites(7);
  expect(pace.restMs({ items: 100, tookMs: 20, live: ALONE })).toBe(0);
});

test('statistics that were reset are no writes', () => {
  const { pace, pass } = createPace({ writesPerSecond: 10_000 });
  pass(1_000);
  pace.lookAtWrites(3);
  expect(pace.restMs({ items: 100, tookMs: 20, live: ALONE })).toBe(0);
});
