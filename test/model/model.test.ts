import { setImmediate } from 'node:timers/promises';
import { expect, test } from 'vitest';
import { explainSchedule } from './explain.ts';
import { runSchedule } from './schedule.ts';
import { noCounts } from './watch.ts';

// MODEL_SEED, MODEL_RUNS, MODEL_FAULTS and MODEL_TRANSACTIONS replay a schedule, as the failure that printed them says.

const wholeNumber = (name: string): number | undefined => {
  const text = process.env[name];
  return text === undefined ? undefined : Number.parseInt(text, 10);
};

const RUNS_DEFAULT = 100_000;

/** Half a minute on a busy machine; the schedules take no time of their own. */
const TIMEOUT_MS = 5 * 60_000;

const limits = {
  ...(wholeNumber('MODEL_FAULTS') === undefined ? {} : { faultsMax: wholeNumber('MODEL_FAULTS') as number }),
  ...(wholeNumber('MODEL_TRANSACTIONS') === undefined
    ? {}
    : { transactionsMax: wholeNumber('MODEL_TRANSACTIONS') as number }),
};

test('I1, I2, I6, I9, D4, rows 1, 2, 4 and 10–13: whatever is killed, stopped, lost or undone in whichever order, nothing is lost and one consumer works', {
  timeout: TIMEOUT_MS,
  retry: 0, // A schedule that fails is a finding.
}, async () => {
  const runs = wholeNumber('MODEL_RUNS') ?? RUNS_DEFAULT;
  // Others every time; a failure names the seed that replays it.
  const first = wholeNumber('MODEL_SEED') ?? Math.floor(Math.random() * 2 ** 31);
  const counts = noCounts();
  for (let seed = first; seed < first + runs; seed += 1) {
    const report = runSchedule(seed, limits);
    if (report.violation !== undefined) throw new Error(explainSchedule(seed, limits));
    for (const name of Object.keys(counts) as (keyof typeof counts)[]) counts[name] += report.counts[name];
    // Lets vitest hear from its worker.
    if (seed % 5_000 === 0) await setImmediate();
  }
  if (runs < 10_000) return;
  // In a thousand schedules each of it has happened, and some of it in every one.
  for (const [name, count] of Object.entries(counts)) expect(count, name).toBeGreaterThan(runs / 1_000);
  expect(counts.written, 'written').toBeGreaterThan(runs);
});

test('a schedule is decided by its seed', () => {
  for (const seed of [1, 2, 3, 4, 5]) {
    const [once, again] = [runSchedule(seed, { traced: true }), runSchedule(seed, { traced: true })];
    expect(once).toEqual(again);
    expect(once.trace?.length).toBeGreaterThan(3);
  }
});
