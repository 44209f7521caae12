import { expect, test } from 'vitest';
import { Pace } from '../../pipeline/pace.ts';

const ALONE = { waiting: false, batches: 5 };

function createPace() {
  let now = 0;
  const pace = new Pace({ chunkMax: 250, nowMs: () => now });
  const pass = (ms: number): void => {
    now += ms;
  };
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

test('once somebody has waited for its lock it takes a quarter of the time', () => {
  const { pace } = createPace();
  expect(pace.restMs({ items: 250, tookMs: 50, live: { waiting: true, batches: 5 } })).toBe(150);
  expect(pace.size).toBe(50);
});

test('when live work has not been seen for two seconds it goes at full speed again', () => {
  const { pace, pass } = createPace();
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
  expect(pace.restMs({ items: 10, tookMs: 20_000, live: { waiting: true, batches: 5 } })).toBe(1_000);
  expect(pace.size).toBe(25);
});
