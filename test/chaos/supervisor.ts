import { setTimeout as delay } from 'node:timers/promises';
import type { LogLine, Service } from '../support/service.ts';
import type { Observations } from './observations.ts';

/** One process that is always there again, as systemd or a container runtime keeps it. */
export interface Supervised {
  readonly name: string;
  readonly current: Service;
  kill(): Promise<void>;
  pause(): void;
  continue(): void;
  stop(): Promise<void>;
}

/** As systemd's `RestartSec=100ms`, its default. */
const RESTART_MS = 100;

const WARNING = 40;

export function supervise({
  name,
  observations,
  start,
}: {
  name: string;
  observations: Observations;
  start: () => Service;
}): Supervised {
  let [stopped, paused] = [false, false];
  let current = start();
  const run = async (): Promise<void> => {
    for (;;) {
      const { code, signal } = await current.exited;
      if (stopped) return;
      for (const line of current.log.filter(isWarning).slice(-10)) {
        observations.note(`${name} ${current.pid}: ${JSON.stringify(line)}`);
      }
      observations.note(`${name} ${current.pid} ended: code ${code}, signal ${signal}`);
      await delay(RESTART_MS);
      if (stopped) return;
      paused = false;
      current = start();
      observations.note(`${name} ${current.pid} started`);
    }
  };
  const running = run();
  return {
    name,
    get current() {
      return current;
    },
    kill: async () => {
      await current.end('SIGKILL');
    },
    pause: () => {
      paused = true;
      current.signal('SIGSTOP');
    },
    continue: () => {
      if (paused) current.signal('SIGCONT');
      paused = false;
    },
    stop: async () => {
      stopped = true;
      await current.end('SIGTERM');
      await running;
    },
  };
}

const isWarning = (line: LogLine): boolean => line.level === undefined || line.level >= WARNING;
