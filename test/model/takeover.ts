import type { Random } from '../support/random.ts';
import { SILENCE_MS } from './lease.ts';
import type { Schedule } from './schedule.ts';
import { require } from './simulation.ts';

/** How often a standby asks for the place. */
const POLL_MS = 1_000;

/** Statements on the way, while nothing is slow. */
const SLACK_MS = 500;

/** What the issue promises, from the fault to the recompute of what was committed after it. */
const PROMISED_MS = { kill: 5_000, freeze: 15_000 };

/**
 * While everything is at rest the active consumer dies or stops: a standby has its place, and has recomputed what was
 * committed since, in the time that the lease's rules promise; and the stopped one, once it wakes, stands by.
 */
export function probeTakeover(schedule: Schedule, random: Random): void {
  const { sim, server, machines } = schedule;
  const victim = machines.find(({ session }) => session?.active);
  const generation = victim?.session?.generation;
  if (victim === undefined || generation === undefined) return;
  const fault = random.pick(['kill', 'freeze'] as const);
  const sinceMs = sim.nowMs;
  victim[fault]();
  schedule.commit([1]);
  const dueMs = fault === 'kill' ? SILENCE_MS : victim.settings.leaseMs;
  const taken = schedule.until(() => server.lease.generation > generation, dueMs + POLL_MS + SLACK_MS);
  require(taken, () => `I6: nobody has taken over ${Math.round(sim.nowMs - sinceMs)} ms after a ${fault}`);
  const leftMs = PROMISED_MS[fault] - (sim.nowMs - sinceMs);
  require(schedule.until(() => schedule.recomputed, leftMs), () =>
    `I6: nothing is recomputed ${Math.round(sim.nowMs - sinceMs)} ms after a ${fault}`);
  const successor = server.lease.holder;
  victim.thaw();
  schedule.settle();
  require(server.lease.holder === successor && machines.filter(({ standby }) => !standby).length === 1, () =>
    `I6: ${successor} took over from ${victim.name}, and ${server.lease.holder} has the place`);
}
