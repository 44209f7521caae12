import { createRandom, type Random } from '../support/random.ts';

/** Which process of the stage: the pipeline that consumes, one that stands by (and publishes), the API. */
export type Role = 'consumer' | 'standby' | 'api';

/** What the nemesis does. `begin` and `end` steps of one disturbance stand apart: what comes between meets it. */
export type Step =
  | { do: 'kill'; role: Role }
  | { do: 'kill postmaster' }
  /** Somebody consumes again: so that the next kill meets a system at work. */
  | { do: 'await consumer' }
  | { do: 'pause'; role: Role }
  | { do: 'continue'; role: Role }
  | { do: 'terminate backends'; share: number }
  | { do: 'drop slot' }
  | { do: 'lose standby' }
  | { do: 'regain standby' }
  | { do: 'restart market' }
  /** Writes of a working publisher arrive after newer ones of another. */
  | { do: 'delay writes'; role: Role }
  | { do: 'break'; server: 'market' | 'database'; role: Role; how: Break }
  | { do: 'mend'; server: 'market' | 'database'; role: Role; how: Break };

/**
 * How a connection breaks. `refuse`: as of a server that is down; `hang`: what is sent is lost and nobody is told;
 * `hold`: it arrives late, after newer work of others; `cut`: replies are lost with their connections; `slow`.
 */
export type Break = 'refuse' | 'hang' | 'hold' | 'cut' | 'slow';

/** A step, and how many commits of the application are let through before it. */
export type Planned = { commitsBefore: number; step: Step };

export interface PlanOptions {
  seed: number;
  /** SIGKILLs in all, those of the postmaster among them. */
  kills: number;
  postmasterKills: number;
  /** Many kills in little time: most of them meet a system that has not come back from the last. */
  brisk?: boolean | undefined;
  /** A disturbance that comes again and again, for a mistake that needs it to show. */
  focus?: Focus | undefined;
}

export const FOCUSES = ['delay writes'] as const;
export type Focus = (typeof FOCUSES)[number];

const COMMITS_BETWEEN_MAX = 120;

/**
 * Slots are dropped in the first part of a run only, one per so many kills: each leads to a recompute of everything,
 * which would mend what was lost before it, and the comparison at the end would see nothing.
 */
const DROPPED_SLOTS_PART = 0.3;
const KILLS_PER_DROPPED_SLOT = 12;

/** Everything the nemesis will do, decided by the seed alone. */
export function makePlan({ seed, kills, postmasterKills, focus, brisk = false }: PlanOptions): Planned[] {
  const [immediately, awaited] = brisk ? [0.6, 0.1] : [0.25, 0.4];
  const random = createRandom(seed);
  const plan: Planned[] = [];
  const open: { afterKills: number; step: Step }[] = [];
  const add = (step: Step): void => {
    // Some faults meet a system at work, others one that has not come back from the last.
    plan.push({
      commitsBefore: random.chance(immediately) ? 0 : random.between(5, COMMITS_BETWEEN_MAX),
      step,
    });
  };
  for (let kill = 0; kill < kills; kill += 1) {
    for (const ended of open.filter(({ afterKills }) => afterKills <= kill)) add(ended.step);
    open.splice(0, open.length, ...open.filter(({ afterKills }) => afterKills > kill));
    if (random.chance(0.7)) {
      const [begin, end] =
        focus === undefined || random.chance(0.2)
          ? disturbance(random, brisk)
          : ([{ do: focus, role: publisherOf(random) }] satisfies [Step]);
      // One disturbance of a kind at a time: its end would end both.
      if (end === undefined) add(begin);
      else if (!open.some(({ step }) => JSON.stringify(step) === JSON.stringify(end))) {
        add(begin);
        open.push({ afterKills: kill + random.between(1, 3), step: end });
      }
    }
    const droppable = kill < kills * DROPPED_SLOTS_PART;
    if (droppable && kill % KILLS_PER_DROPPED_SLOT === KILLS_PER_DROPPED_SLOT / 3) add({ do: 'drop slot' });
    add(isPostmasterKill(kill, { kills, postmasterKills }) ? { do: 'kill postmaster' } : killOf(random));
    // While commits wait for a standby, nobody can take the consumer's place.
    const possible = !open.some(({ step }) => step.do === 'regain standby');
    if (possible && random.chance(awaited)) add({ do: 'await consumer' });
  }
  for (const ended of open) add(ended.step);
  return plan;
}

/** Spread evenly over the run. */
const isPostmasterKill = (
  kill: number,
  { kills, postmasterKills }: Pick<PlanOptions, 'kills' | 'postmasterKills'>,
): boolean =>
  Math.floor(((kill + 1) * postmasterKills) / kills) > Math.floor((kill * postmasterKills) / kills);

const killOf = (random: Random): Step => ({ do: 'kill', role: roleOf(random) });

const roleOf = (random: Random): Role =>
  random.pick(['consumer', 'consumer', 'consumer', 'standby', 'standby', 'api']);

const publisherOf = (random: Random): Role => random.pick(['consumer', 'standby']);

function disturbance(random: Random, brisk: boolean): [Step, Step?] {
  const role = roleOf(random);
  // The last takes seconds.
  switch (random.below(brisk && random.chance(0.8) ? 8 : 9)) {
    case 0:
      return [{ do: 'terminate backends', share: random.pick([0.2, 0.5, 1]) }];
    case 1:
      return [{ do: 'restart market' }];
    case 2:
      return [{ do: 'lose standby' }, { do: 'regain standby' }];
    case 3:
    case 4:
      return [
        { do: 'pause', role },
        { do: 'continue', role },
      ];
    case 8:
      return [{ do: 'delay writes', role: publisherOf(random) }];
    default: {
      const server = random.pick(['market', 'market', 'database'] as const);
      const how = random.pick(['refuse', 'hang', 'hold', 'hold', 'cut', 'slow'] as const);
      return [
        { do: 'break', server, role, how },
        { do: 'mend', server, role, how },
      ];
    }
  }
}
