import { expect, test } from 'vitest';
import { type Scenario, simulate } from './simulate.ts';

const EASY: Scenario = {
  publishers: 1,
  changesPerSecond: 100,
  bookings: 100_000,
  seconds: 20,
  batchMax: 200,
  recomputeMax: 250,
  recomputeBatchMs: 2,
  recomputeEachMs: 0.1,
  publishBatchMs: 10,
  publishEachMs: 1,
  databaseShare: 0.1,
  cores: 4,
  seed: 7,
};

test('what is below saturation is published as it comes, and nothing is left over but what is in work', () => {
  const outcome = simulate(EASY);
  expect(outcome.publishedPerSecond).toBeGreaterThanOrEqual(95);
  expect(outcome.waiting).toBeLessThan(10);
  expect(outcome.p50Ms).toBeLessThan(100);
});

test('the same seed gives the same outcome', () => {
  expect(simulate(EASY)).toEqual(simulate(EASY));
});

test('beyond what one publisher can write, a second one writes about twice as much, where MongoDB is what takes the time', () => {
  const busy = { ...EASY, changesPerSecond: 3_000 };
  const [one, two] = [simulate(busy), simulate({ ...busy, publishers: 2 })];
  expect(one.waiting).toBeGreaterThan(10_000);
  expect(two.publishedPerSecond / one.publishedPerSecond).toBeGreaterThan(1.8);
});

test('where PostgreSQL is what takes the time, more publishers than processors change nothing', () => {
  const bound = { ...EASY, changesPerSecond: 5_000, databaseShare: 1, cores: 1 };
  const [four, eight] = [simulate({ ...bound, publishers: 4 }), simulate({ ...bound, publishers: 8 })];
  expect(eight.publishedPerSecond / four.publishedPerSecond).toBeLessThan(1.2);
});

test('I9: a booking that changes again while it waits waits once', () => {
  const outcome = simulate({ ...EASY, bookings: 50, changesPerSecond: 5_000 });
  expect(outcome.waiting).toBeLessThanOrEqual(100);
});
