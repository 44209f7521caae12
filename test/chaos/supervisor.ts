import { setTimeout as delay } from 'node:timers/promises';
import type { LogLine, Service } from '../support/service.ts';
import type { Observations } from './observations.ts';

/** One process that is always there again, as systemd or a container runtime keeps it. */
export interface Supervised {
  readonly name: string;
  readonly current: Service;
  /** Waits for a living process and kills it. False when it ended by itself just before. */
  kill(): Promise<boolean>;
  pause(): void;
  continue(): void;
  stop(): Promise<void>;
}

/** As systemd's `RestartSec=100ms`, its default. */
const RESTART_MS = 100;

const WARNING = 40;

/** What a pipeline and an API print once they run. */
const STARTED = /^(pipeline running|API +http\S+)$/m;

export function supervise({
  name,
  observations,
  start,
}: {
  name: string;
  observations: Observations;
  start: () => Service;
}): Supervised {
  let [stopped, paused, alive] = [false, false, true];
  let current = start();
  const run = async (): Promise<void> => {
    for (;;) {
      const { code, signal } = await current.exited;
      alive = false;
      if (stopped) return;
      for (const line of current.log.filter(isWarning).slice(-10)) {
        observations.note(`${name} ${current.pid}: ${JSON.stringify(line)}`);
      }
      observations.note(`${name} ${current.pid} ended: code ${code}, signal ${signal}`);
      // Before it runs it may find a server away, say so and end; afterwards it has to bear that.
      if (code !== null && STARTED.test(current.stdout())) {
        observations.violation('crashed', `${name} ${current.pid} ended by itself with code ${code}`);
      }
      await delay(RESTART_MS);
      if (stopped) return;
      paused = false;
      current = start();
      alive = true;
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
      while (!alive) await delay(RESTART_MS / 10);
      return (await current.end('SIGKILL')).signal === 'SIGKILL';
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
