import type { Rules } from './rules.ts';
import { runSchedule } from './schedule.ts';

const TRACE_LINES_MAX = 200;

/**
 * A failing schedule for people: with as few faults and transactions as still fail, what happened in it, and how to run it
 * again. Each part of a schedule has random numbers of its own, so that leaving some of it out changes little else.
 */
export function explainSchedule(
  seed: number,
  { rules, faultsMax, transactionsMax }: { rules?: Rules; faultsMax?: number; transactionsMax?: number } = {},
): string {
  const given = rules === undefined ? {} : { rules };
  const whole = runSchedule(seed, {
    ...given,
    ...(faultsMax === undefined ? {} : { faultsMax }),
    ...(transactionsMax === undefined ? {} : { transactionsMax }),
  });
  const smallest = findSmallest(seed, { given, faults: whole.faults, transactions: whole.transactions });
  const { violation, trace = [] } = runSchedule(seed, { ...given, ...smallest, traced: true });
  const shown = trace.slice(-TRACE_LINES_MAX);
  return [
    `${violation} (seed ${seed})`,
    `replay: MODEL_SEED=${seed} MODEL_RUNS=1 MODEL_FAULTS=${smallest.faultsMax} MODEL_TRANSACTIONS=${smallest.transactionsMax} npx vitest run test/model/model.test.ts`,
    ...(shown.length < trace.length ? [`(${trace.length - shown.length} lines before)`] : []),
    ...shown,
  ].join('\n');
}

function findSmallest(
  seed: number,
  { given, faults, transactions }: { given: { rules?: Rules }; faults: number; transactions: number },
): { faultsMax: number; transactionsMax: number } {
  for (let faultsMax = 0; faultsMax <= faults; faultsMax += 1) {
    for (let transactionsMax = 1; transactionsMax <= transactions; transactionsMax += 1) {
      const options = { faultsMax, transactionsMax };
      if (runSchedule(seed, { ...given, ...options }).violation !== undefined) return options;
    }
  }
  return { faultsMax: faults, transactionsMax: transactions };
}
