import { type ChildProcess, fork } from 'node:child_process';
import { once } from 'node:events';
import { join } from 'node:path';

export interface WriterOptions {
  url: string;
  /** Connections that write, each one statement after the other. */
  connections: number;
  /** Of all of them together; as many as they can unless named. */
  statementsPerSecond?: number | undefined;
}

/** What the application's statements took in one phase, in milliseconds. */
export interface PhaseReport {
  phase: string;
  seconds: number;
  statements: number;
  p50Ms: number;
  p99Ms: number;
  maxMs: number;
}

export interface ApplicationReport {
  /** In the order in which they were first entered; the first is `warm up`. */
  phases: PhaseReport[];
  /** The first of those that statements ended with, and how many there were. */
  errors: string[];
  failed: number;
}

/** What the process is told: the next phase, or, without one, to stop and report. */
export interface Order {
  enter?: string;
}

export interface BusyApplication {
  /** What follows is measured under this name. */
  enter(phase: string): void;
  /** Ends the writers; answers what each phase saw. */
  stop(): Promise<ApplicationReport>;
  /** Ends the process, whatever it does. */
  kill(): void;
}

/**
 * The Storage Guard application, which knows nothing of all this and goes on writing: readings, bookings, detections, on
 * connections of its own in a process of its own, without a statement or lock timeout of its own.
 */
export async function startBusyApplication(options: WriterOptions): Promise<BusyApplication> {
  const child = fork(join(import.meta.dirname, 'fixtures', 'application.ts'), [JSON.stringify(options)]);
  await nextMessage(child);
  const tell = (order: Order): void => void child.send(order);
  return {
    enter: (phase) => tell({ enter: phase }),
    stop: () => {
      const report = nextMessage(child) as Promise<ApplicationReport>;
      tell({});
      return report;
    },
    kill: () => void child.kill('SIGKILL'),
  };
}

async function nextMessage(child: ChildProcess): Promise<unknown> {
  const ended = once(child, 'exit').then(([code]) => {
    throw new Error(`the application ended with ${String(code)}`);
  });
  const [message] = await Promise.race([once(child, 'message'), ended]);
  ended.catch(() => undefined);
  return message;
}
