import { outageDelayMs } from '../../pipeline/outage-delay.ts';
import { FencedError } from '../../src/errors.ts';
import { classifyPostgresError, sqlStateOf } from '../../src/postgres.ts';
import type { Rules } from './rules.ts';
import { LOST, type Server, sqlError } from './server.ts';
import { ModelSession } from './session.ts';
import { type Simulation, Violation } from './simulation.ts';
import type { Watch } from './watch.ts';

const STANDBY_POLL_MS = 1_000;

/** What a statement may fail with. The last two end the process: somebody has to start it again. */
const FAILURES = ['40001', '40P01', '57014', '57P01', '53300', '53100', '55P03', '42703', 'XX000'].map(
  sqlError,
);

/** What failed statements do to a schedule, out of a thousand. */
const [LOST_BEFORE, LOST_AFTER, FAILED] = [8, 16, 20];

export interface Settings {
  leaseMs: number;
  batchKeysMax: number;
  pendingKeysMax: number;
  idleCheckpointMs: number;
}

/** A process that runs a consumer: as `pipeline/consume.ts`, and what an operating system can do to it. */
export class Machine {
  readonly name: string;
  readonly sim: Simulation;
  readonly server: Server;
  readonly watch: Watch;
  readonly rules: Rules;
  readonly settings: Settings;
  session: ModelSession | undefined;
  /** Runs, stopped or not. */
  alive = false;
  standby = false;
  #life = 0;
  #attempt = 0;
  #stopping = false;
  /** While stopped (SIGSTOP): what would have happened. */
  #held: (() => void)[] | undefined;

  constructor(
    name: string,
    world: { sim: Simulation; server: Server; watch: Watch; rules: Rules; settings: Settings },
  ) {
    this.name = name;
    this.sim = world.sim;
    this.server = world.server;
    this.watch = world.watch;
    this.rules = world.rules;
    this.settings = world.settings;
  }

  start(): void {
    if (this.alive) return;
    this.alive = true;
    this.#life += 1;
    this.#attempt = 0;
    this.#stopping = false;
    this.#acquire();
  }

  /** SIGKILL. What it has asked of PostgreSQL happens all the same. */
  kill(): void {
    this.sim.note(() => `${this.name} is killed`);
    this.#held = undefined;
    const { session } = this;
    this.#exit();
    session?.abandon();
  }

  /** SIGTERM. */
  stop(): void {
    this.sim.note(() => `${this.name} is asked to end`);
    this.#stopping = true;
    if (this.session !== undefined) this.later(0, () => this.session?.stop());
    else this.#exit();
  }

  /** SIGSTOP. */
  freeze(): void {
    this.sim.note(() => `${this.name} is stopped`);
    this.#held ??= [];
  }

  /** SIGCONT. */
  thaw(): void {
    const held = this.#held ?? [];
    this.#held = undefined;
    if (this.alive) this.sim.note(() => `${this.name} continues`);
    for (const run of held) this.sim.after(0, run);
  }

  worked(): void {
    this.#attempt = 0;
  }

  /** Something this process does, unless it is dead by then; after it continues, if it is stopped. */
  later(delayMs: number, run: () => void, life = this.#life): void {
    const whenAble = (): void => {
      if (this.#life !== life) return;
      if (this.#held === undefined) run();
      else this.#held.push(whenAble);
    };
    this.sim.after(delayMs, whenAble);
  }

  /**
   * A statement: it arrives, happens, and is answered, with anything in between. Its connection may be lost before it
   * arrived, or its answer. `orphaned` gets an answer that nobody waits for any more.
   */
  call<T>(
    statement: () => T,
    then: (answer: T) => void,
    failed: (error: unknown) => void,
    orphaned?: (answer: T) => void,
  ): void {
    const { sim } = this;
    const life = this.#life;
    sim.after(sim.latencyMs(), () => {
      const fate = sim.faulty ? sim.random.below(1_000) : 1_000;
      const answer = this.#execute(statement, fate);
      if ('error' in answer) {
        this.later(sim.latencyMs(), () => failed(answer.error), life);
        return;
      }
      const lost = fate >= LOST_BEFORE && fate < LOST_AFTER;
      if (lost) sim.note(() => `${this.name} loses an answer`);
      if (lost || this.#life !== life) orphaned?.(answer.value);
      const { incarnation } = this.server;
      const reply = (): void => {
        // A crash loses it too. That is kinder than life: an `acquire` answered before a restore could be read after it,
        // and its generation be given away a second time.
        if (lost || this.server.incarnation !== incarnation) failed(LOST);
        else then(answer.value);
      };
      this.later(sim.latencyMs(), reply, life);
    });
  }

  #execute<T>(statement: () => T, fate: number): { value: T } | { error: unknown } {
    if (!this.server.up || fate < LOST_BEFORE) return { error: LOST };
    if (fate >= LOST_AFTER && fate < FAILED) return { error: this.sim.random.pick(FAILURES) };
    try {
      return { value: statement() };
    } catch (error) {
      if (error instanceof Violation) throw error;
      return { error };
    }
  }

  #acquire(): void {
    if (this.#stopping) {
      this.#exit();
      return;
    }
    this.call(
      () => this.server.acquire(this.name),
      (generation) => {
        this.standby = generation === undefined;
        if (generation === undefined) {
          this.later(STANDBY_POLL_MS, () => this.#acquire());
          return;
        }
        this.sim.note(() => `${this.name} takes the place, generation ${generation}`);
        this.session = new ModelSession(this, generation, (failure) => this.#ended(failure));
      },
      (error) => this.#ended(error),
    );
  }

  #ended(failure: unknown): void {
    this.session = undefined;
    this.standby = false;
    this.sim.note(() => `${this.name} is interrupted: ${String(failure)}`);
    const fenced = failure instanceof FencedError || sqlStateOf(failure) === 'MS001';
    if (this.#stopping || (!fenced && classifyPostgresError(failure) !== 'retryable')) {
      this.#exit();
      return;
    }
    const delayMs = outageDelayMs(this.#attempt, this.sim.random.next);
    this.#attempt += 1;
    this.later(delayMs, () => this.#acquire());
  }

  #exit(): void {
    if (!this.alive) return;
    this.#life += 1;
    this.alive = false;
    this.standby = false;
    this.session = undefined;
    // Whoever supervises it starts it again.
    this.sim.after(this.sim.random.between(100, 3_000), () => this.start());
  }
}
