import type { Random } from '../support/random.ts';
import type { Machine } from './machine.ts';
import type { Backup, Server } from './server.ts';
import type { Simulation } from './simulation.ts';
import { ModelSlot } from './slot.ts';
import type { Watch } from './watch.ts';

export interface World {
  sim: Simulation;
  server: Server;
  watch: Watch;
  machines: readonly Machine[];
}

const KINDS = [
  ...([
    'kill',
    'kill',
    'kill',
    'freeze',
    'freeze',
    'freeze',
    'crash',
    'crash',
    'terminate',
    'terminate',
  ] as const),
  ...([
    'disconnect',
    'stop',
    'drop_slot',
    'replace_slot',
    'lose_slot',
    'restore',
    'fail_over',
    'cut_history',
  ] as const),
];

/** Faults that nobody may take for lost changes. */
const HARMLESS: readonly string[] = ['kill', 'stop', 'crash', 'terminate', 'disconnect'];

/** Breaks things: so many faults at random moments, each of which ends. */
export class Nemesis {
  readonly #world: World;
  /** Faults that have not ended yet. */
  open = 0;
  /** False while nothing has happened after which changes may be missing. */
  mayCut = false;
  #restored = 0;

  constructor(world: World, random: Random, { faults, withinMs }: { faults: number; withinMs: number }) {
    this.#world = world;
    for (let left = faults; left > 0; left -= 1) {
      this.open += 1;
      const [kind, own] = [random.pick(KINDS), random.fork()];
      if (!HARMLESS.includes(kind)) this.mayCut = true;
      world.sim.after(random.next() * withinMs, () => this.#strike(kind, own));
    }
  }

  /** Strikes, and answers after how long which end of it follows. */
  #strike(kind: (typeof KINDS)[number], random: Random): void {
    const { sim } = this.#world;
    const [lastsMs, end] = this.#begin(kind, random) ?? [0, () => undefined];
    sim.after(lastsMs, () => {
      end();
      this.open -= 1;
    });
  }

  #begin(kind: (typeof KINDS)[number], random: Random): [number, () => void] | undefined {
    const { server } = this.#world;
    const machine = this.#victim(random);
    switch (kind) {
      case 'kill':
        machine.kill();
        return undefined;
      case 'stop':
        machine.stop();
        return undefined;
      case 'freeze':
        machine.freeze();
        return [random.pick([50, 1_500, 4_000, 11_000, 14_000]), () => machine.thaw()];
      case 'disconnect':
        machine.session?.connectionEnded();
        return undefined;
      case 'terminate':
        server.terminateHolder();
        return undefined;
      case 'crash':
        this.#crash(random);
        return undefined;
      case 'cut_history':
        server.cutHistory();
        return undefined;
      case 'drop_slot':
      case 'replace_slot':
      case 'lose_slot':
        this.#breakSlot(kind);
        return undefined;
      case 'restore':
      case 'fail_over': {
        const [backup, restored] = [server.backup(), this.#restored];
        const goBack = (): void => {
          // A backup of a time that has itself been undone is of no use here.
          if (restored !== this.#restored) return;
          if (kind === 'restore') this.#restore(backup);
          else this.#failOver(backup, random.pick(['absent', 'copied', 'synced', 'synced']));
        };
        return [random.next() * 1_500, goBack];
      }
    }
  }

  #breakSlot(kind: 'drop_slot' | 'replace_slot' | 'lose_slot'): void {
    const { sim, server } = this.#world;
    sim.note(() => `the slot: ${kind}`);
    server.terminateHolder();
    if (kind === 'drop_slot') server.slot = undefined;
    else if (kind === 'replace_slot') server.slot = new ModelSlot(server.wal.end);
    else if (server.slot !== undefined) server.slot.lost = true;
  }

  /** Whoever has the place, or anyone. */
  #victim(random: Random): Machine {
    const { machines } = this.#world;
    const holder = machines.find(({ session }) => session !== undefined);
    return holder !== undefined && random.chance(0.7) ? holder : random.pick(machines);
  }

  /** kill -9 of the postmaster: the slot falls back to what is on disk. */
  #crash(random: Random): void {
    const { sim, server } = this.#world;
    sim.note(() => 'PostgreSQL crashes');
    this.#takeDown(random.pick([20, 300, 3_000]), { cut: random.chance(0.5) });
    if (server.slot !== undefined) server.slot.confirmedLsn = server.slot.durableLsn;
  }

  #takeDown(downMs: number, { cut }: { cut: boolean }): void {
    const { sim, server, machines } = this.#world;
    server.goDown(downMs, { cut });
    for (const machine of machines) {
      const { session } = machine;
      machine.later(sim.latencyMs(), () => session?.connectionEnded());
    }
  }

  /** The tables as they were a while ago, the server as it is. */
  #restore(backup: Backup): void {
    const { sim, server, watch } = this.#world;
    sim.note(() => 'the tables are restored from a backup');
    this.#goBack(backup);
    const [{ slot }, { commitLsn }] = [server, server.checkpoint];
    if (slot === undefined) return;
    slot.durableLsn = slot.confirmedLsn;
    if (commitLsn !== undefined && slot.confirmedLsn > commitLsn) watch.historyCut();
  }

  /**
   * Another server takes over, and what was committed since a while ago never happened. It has the slot of the server
   * before it when that was synchronised, lately or a while ago; a copy of its file, or another one, is not to be trusted.
   */
  #failOver(backup: Backup, slot: 'absent' | 'copied' | 'synced'): void {
    const { sim, server, watch } = this.#world;
    sim.note(() => `a failover loses the last transactions, slot ${slot}`);
    const { timeline } = server.system;
    const newestLsn = server.slot?.confirmedLsn;
    this.#goBack(backup);
    server.wal.truncate(backup.wal);
    server.system = {
      ...server.system,
      timeline: timeline + 1,
      parent: { timeline, leftAtLsn: backup.wal.end },
    };
    // A standby takes no position of a slot that it has not the WAL for.
    const lately = slot === 'synced' && newestLsn !== undefined && newestLsn <= backup.wal.end;
    const slotLsn = lately ? newestLsn : backup.slotLsn;
    server.slot = slot === 'absent' || slotLsn === undefined ? undefined : new ModelSlot(slotLsn);
    if (slot !== 'synced' || server.slot === undefined) {
      watch.historyCut();
      return;
    }
    server.slot.synced = true;
    // Nothing is missing on its stream. What MongoDB has seen and this server has not, the comparison finds.
    sim.after(sim.latencyMs() * 50, () => server.cutHistory());
  }

  #goBack(backup: Backup): void {
    this.#restored += 1;
    this.#takeDown(200, { cut: true });
    this.#world.server.restore(backup);
    this.#world.watch.restored();
  }
}
