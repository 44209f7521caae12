import { createRandom, type Random } from '../support/random.ts';
import { Machine } from './machine.ts';
import { Nemesis } from './nemesis.ts';
import { RULES, type Rules } from './rules.ts';
import { Server } from './server.ts';
import { require, Simulation, Violation } from './simulation.ts';
import { probeTakeover } from './takeover.ts';
import { EVERYTHING, KEYS } from './wal.ts';
import { Watch } from './watch.ts';

export interface ScheduleOptions {
  rules?: Rules;
  /** At most so many faults, or transactions: a failing schedule with fewer of them is easier to read. */
  faultsMax?: number;
  transactionsMax?: number;
  traced?: boolean;
}

export interface ScheduleReport {
  violation: string | undefined;
  steps: number;
  transactions: number;
  faults: number;
  counts: Watch['counts'];
  trace: string[] | undefined;
}

/** Simulated time in which everything must be recomputed and recorded once nothing is broken any more. */
const SETTLE_MS = 60_000;

const LEASE_MS = 10_000;

/** One history of consumers, PostgreSQL and an application, decided by its seed. */
export class Schedule {
  readonly sim: Simulation;
  readonly server: Server;
  readonly watch: Watch;
  readonly machines: Machine[];
  readonly nemesis: Nemesis;
  readonly transactions: number;
  readonly faults: number;
  readonly #application: Random;
  readonly #truncates: boolean;
  readonly #probes: boolean;
  #written = 0;

  constructor(seed: number, options: ScheduleOptions) {
    const random = createRandom(Math.imul(seed, 0x9e3779b1));
    const [faulting, application] = [random.fork(), random.fork()];
    this.sim = new Simulation(random.fork(), options.traced === true);
    this.watch = new Watch(this.sim);
    const rules = options.rules ?? RULES;
    this.server = new Server({ sim: this.sim, rules, watch: this.watch, leaseMs: LEASE_MS });
    this.watch.observe(this.server);
    const settings = {
      leaseMs: LEASE_MS,
      batchKeysMax: random.pick([1, 3, 12, 25, 250]),
      pendingKeysMax: random.pick([2, 4, 1_000]),
      idleCheckpointMs: random.pick([200, 10_000]),
    };
    const { sim, server, watch } = this;
    const names = ['a', 'b', 'c'].slice(0, random.pick([1, 1, 2, 2, 3]));
    this.machines = names.map((name) => new Machine(name, { sim, server, watch, rules, settings }));
    this.transactions = Math.min(
      random.pick([3, 6, 12, 20, 30]),
      options.transactionsMax ?? Number.POSITIVE_INFINITY,
    );
    this.faults = Math.min(
      random.pick([0, 1, 2, 2, 3, 4, 6, 9]),
      options.faultsMax ?? Number.POSITIVE_INFINITY,
    );
    this.#application = application;
    this.#truncates = random.chance(0.2);
    this.#probes = random.chance(0.15);
    this.nemesis = new Nemesis(this, faulting, { faults: this.faults, withinMs: this.transactions * 250 });
  }

  run(): void {
    for (const machine of this.machines) this.sim.after(this.#application.below(300), () => machine.start());
    this.sim.after(this.#application.below(400), () => this.#write());
    while (this.#written < this.transactions || this.nemesis.open > 0) this.#step();
    this.sim.faulty = false;
    this.settle();
    const { histories } = this.watch.counts;
    require(this.nemesis.mayCut || histories === 1, () =>
      `${histories} histories begin, and nothing was lost`);
    if (this.#probes && this.machines.length > 1) probeTakeover(this, this.#application);
  }

  /** Until everything is recomputed, recorded and confirmed, and every consumer is in its place. */
  settle(): void {
    const deadlineMs = this.sim.nowMs + SETTLE_MS;
    while (!this.settled) {
      require(this.sim.nowMs < deadlineMs, () =>
        `I1: not at rest after ${SETTLE_MS / 1_000} s: ${this.#unrest()}`);
      this.#step();
    }
  }

  /** Runs until it holds, or the time is over. */
  until(holds: () => boolean, withinMs: number): boolean {
    const deadlineMs = this.sim.nowMs + withinMs;
    while (!holds()) {
      if (this.sim.nowMs > deadlineMs) return false;
      this.#step();
    }
    return true;
  }

  get settled(): boolean {
    const { machines, server } = this;
    const works = ({ session }: Machine): boolean => session?.active === true;
    const inPlace = machines.every((machine) => machine.standby || works(machine));
    return server.up && inPlace && machines.some(works) && this.recomputed;
  }

  /** I1, and I2 from behind: nothing is missing, and the slot need not keep anything. */
  get recomputed(): boolean {
    const { wal, slot, checkpoint, resync } = this.server;
    if (wal.firstOwed() !== undefined || resync !== undefined || slot === undefined) return false;
    const last = wal.commits.findLast(({ messages }) => messages.length > 0);
    const recorded = last === undefined || (checkpoint.commitLsn ?? 0n) >= last.endLsn;
    return recorded && slot.confirmedLsn === checkpoint.commitLsn;
  }

  #unrest(): string {
    const { wal, slot, checkpoint, resync } = this.server;
    const machines = this.machines.map(
      ({ name, standby, alive, session }) =>
        `${name} ${session === undefined ? (standby ? 'stands by' : alive ? 'waits' : 'is dead') : session.active ? 'works' : 'starts'}`,
    );
    return `${machines.join(', ')}; slot at ${slot?.confirmedLsn}, checkpoint at ${checkpoint.commitLsn}, WAL to ${wal.end}, ${
      wal.firstOwed() === undefined ? 'all' : 'not all'
    } recomputed, resync ${resync === undefined ? 'none' : 'open'}`;
  }

  #step(): void {
    require(this.sim.step(), () => 'nothing happens any more');
  }

  #write(): void {
    if (this.#written >= this.transactions) return;
    const random = this.#application;
    if (this.server.up) {
      this.#written += 1;
      this.commit();
      const { slot } = this.server;
      if (slot !== undefined && random.chance(0.3)) slot.durableLsn = slot.confirmedLsn;
    }
    this.sim.after(random.chance(0.5) ? random.next() * 3 : random.next() * 600, () => this.#write());
  }

  /** A transaction of the application commits, with any messages unless they are named. */
  commit(named?: number[]): void {
    const [{ wal }, random] = [this.server, this.#application];
    // Others are adjacent: one commit record ends where the next begins.
    if (random.chance(0.6)) wal.skip(random.chance(0.2) ? 20_000n : 8n);
    const visibleAtMs =
      this.sim.nowMs + (random.chance(0.6) ? 0 : random.next() * random.pick([20, 300, 3_000]));
    const commit = wal.append(named ?? this.#messages(), visibleAtMs);
    this.sim.note(() => `transaction ${commit.xid} commits (${commit.commitLsn}–${commit.endLsn})`);
    for (const machine of this.machines) {
      const { session } = machine;
      if (session !== undefined) machine.later(this.sim.latencyMs(), () => session.wake());
    }
  }

  #messages(): number[] {
    const random = this.#application;
    const messages: number[] = [];
    for (let left = random.pick([0, 1, 1, 1, 2, 4]); left > 0; left -= 1) {
      let mask = 1 << random.below(KEYS.length);
      if (random.chance(0.3)) mask |= 1 << random.below(KEYS.length);
      if (this.#truncates && random.chance(0.1)) mask = EVERYTHING;
      messages.push(mask);
    }
    return messages;
  }
}

/** Runs the schedule of a seed. */
export function runSchedule(seed: number, options: ScheduleOptions = {}): ScheduleReport {
  const schedule = new Schedule(seed, options);
  let violation: string | undefined;
  try {
    schedule.run();
  } catch (error) {
    if (!(error instanceof Violation)) throw error;
    violation = error.message;
  }
  const { sim, watch, transactions, faults } = schedule;
  return {
    violation,
    steps: sim.steps,
    transactions,
    faults,
    counts: watch.counts,
    trace: sim.trace,
  };
}
