import { appendFileSync } from 'node:fs';
import type { Tally } from './tally.ts';

/** Violations are counted all, and described so many times each. */
const DESCRIBED_MAX = 20;

/** Where everybody reports what they saw. */
export interface Observations {
  readonly tally: Tally;
  /** A broken promise, with what a person needs to look into it. */
  violation(name: keyof Tally, what: string): void;
  /** What happened, for whoever reads the run afterwards. */
  note(what: string): void;
}

/** `file`: every note goes there, with its time; violations go to standard error too. */
export function createObservations(tally: Tally, file: string): Observations {
  const described = new Map<string, number>();
  const note = (what: string): void => appendFileSync(file, `${new Date().toISOString()} ${what}\n`);
  return {
    tally,
    note,
    violation: (name, what) => {
      tally[name] += 1;
      const count = (described.get(name) ?? 0) + 1;
      described.set(name, count);
      note(`VIOLATION ${name}: ${what}`);
      if (count <= DESCRIBED_MAX) process.stderr.write(`${name}: ${what}\n`);
    },
  };
}
