import { expect, test } from 'vitest';
import { explainSchedule } from './explain.ts';
import { MUTANTS } from './mutants.ts';
import { RULES } from './rules.ts';
import { runSchedule } from './schedule.ts';

/** In 100,000 schedules each bug shows dozens of times, the rarest within the first few thousand. */
const SCHEDULES_MAX = 30_000;

test.each(Object.entries(MUTANTS))(
  'the model finds a consumer that %s',
  (_name, { rules: broken, violates }) => {
    const rules = { ...RULES, ...broken };
    for (let seed = 1; seed <= SCHEDULES_MAX; seed += 1) {
      const { violation } = runSchedule(seed, { rules });
      if (violation !== undefined && violates.test(violation)) return;
    }
    expect.unreachable(`${SCHEDULES_MAX} schedules did not notice`);
  },
);

test('a schedule that fails is explained by the smallest that still does, with its trace', () => {
  const rules = { ...RULES, ...MUTANTS['confirms what it received']?.rules };
  const seed = Array.from({ length: 1_000 }, (_, index) => index).find(
    (candidate) => runSchedule(candidate, { rules }).violation !== undefined,
  );
  const text = explainSchedule(seed ?? 0, { rules });
  expect(text).toMatch(/^I2: the slot is confirmed at \d+, the checkpoint is at \d+ \(seed \d+\)\n/);
  expect(text).toContain(`MODEL_SEED=${seed} MODEL_RUNS=1 MODEL_FAULTS=0`);
  expect(text).toMatch(/takes the place, generation 1\n/);
});
