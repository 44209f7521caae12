import type { Random } from '../support/random.ts';

interface Planned {
  atMs: number;
  run: () => void;
}

/** An invariant that did not hold. */
export class Violation extends Error {
  override name = 'Violation';
}

/** Clock and scheduler of one schedule: what is planned happens in the order of its instants, which are random. */
export class Simulation {
  nowMs = 0;
  steps = 0;
  /** False once the schedule is to come to rest: no more faults, and nothing is slow. */
  faulty = true;
  /** What happened, one line each; only where somebody reads it. */
  readonly trace: string[] | undefined;
  readonly random: Random;
  readonly #planned: Planned[] = [];

  constructor(random: Random, traced: boolean) {
    this.random = random;
    this.trace = traced ? [] : undefined;
  }

  after(delayMs: number, run: () => void): void {
    // The fraction decides who is first of those that are planned for the same millisecond.
    this.#planned.push({ atMs: this.nowMs + delayMs + this.random.next(), run });
  }

  /** How long one step takes: mostly nothing worth mentioning, now and then long enough for anything to get in between. */
  latencyMs(): number {
    const { random } = this;
    const share = random.next();
    if (share < 0.85) return random.next() * 4;
    if (share < 0.985 || !this.faulty) return random.next() * 50;
    return random.next() * 900;
  }

  /** Runs what comes next; false when nothing is planned. */
  step(): boolean {
    const planned = this.#planned;
    let first = 0;
    for (let index = 1; index < planned.length; index += 1) {
      if ((planned[index] as Planned).atMs < (planned[first] as Planned).atMs) first = index;
    }
    const next = planned[first];
    if (next === undefined) return false;
    const last = planned.pop() as Planned;
    if (first < planned.length) planned[first] = last;
    this.nowMs = next.atMs;
    this.steps += 1;
    next.run();
    return true;
  }

  note(text: () => string): void {
    this.trace?.push(`${(this.nowMs / 1000).toFixed(3).padStart(8)} s  ${text()}`);
  }
}

/** States an invariant. The text is made only when it does not hold. */
export function require(holds: boolean, text: () => string): asserts holds {
  if (!holds) throw new Violation(text());
}
