import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import { listSettings } from '../../src/config.ts';
import { until } from './pipeline.ts';

/** A part of market-sync in a process of its own, which tests may signal and kill. */
export interface Service {
  readonly pid: number;
  /** Lines of its log so far, oldest first; what is not JSON has it all in `msg`. */
  readonly log: readonly LogLine[];
  /** What it printed on standard output. */
  stdout(): string;
  /** Resolves once a line of its log has this message; rejects when the process ends before. */
  logged(message: string): Promise<LogLine>;
  /** Resolves with the match once standard output has it; rejects when the process ends before. */
  printed(pattern: RegExp): Promise<RegExpExecArray>;
  /** Sends a signal to exactly this process; does nothing once it has ended. */
  signal(signal: NodeJS.Signals): void;
  /** Sends a signal (SIGKILL unless named) and waits for the end. */
  end(signal?: NodeJS.Signals): Promise<{ code: number | null; signal: NodeJS.Signals | null }>;
  /** How it ended. */
  readonly exited: Promise<{ code: number | null; signal: NodeJS.Signals | null }>;
  /** Messages from the process by its IPC channel, where it was asked for. */
  readonly child: ChildProcess;
}

export interface LogLine {
  msg: string;
  level?: number;
  [field: string]: unknown;
}

/** Lines of log kept: a chaos run writes many. */
const LOG_LINES_MAX = 20_000;

const ROOT = join(import.meta.dirname, '..', '..');

/**
 * Starts `market-sync COMMAND` with these settings and none of this process, in one process whose id is `pid`.
 * `root` is another tree of this project; `ipc` gives the child a channel.
 */
export function startService(
  command: 'pipeline' | 'api' | 'migrate',
  settings: NodeJS.ProcessEnv,
  { root = ROOT, ipc = false }: { root?: string; ipc?: boolean } = {},
): Service {
  const names = new Set<string>(listSettings().flatMap(({ name }) => [name, `${name}_FILE`]));
  const inherited = Object.entries(process.env).filter(
    ([name]) => !names.has(name) && !name.startsWith('VITEST') && name !== 'NODE_OPTIONS',
  );
  const child = spawn(process.execPath, [join(root, 'src', 'main.ts'), command], {
    cwd: root,
    env: { ...Object.fromEntries(inherited), NODE_ENV: '', ...settings },
    stdio: ['ignore', 'pipe', 'pipe', ...(ipc ? (['ipc'] as const) : [])],
  });
  const { pid, stdout, stderr } = child;
  if (pid === undefined || stdout === null || stderr === null) throw new Error(`${command} did not start`);
  let [printed, ended] = ['', false];
  const log: LogLine[] = [];
  stdout.setEncoding('utf8').on('data', (chunk: string) => {
    printed += chunk;
  });
  createInterface({ input: stderr }).on('line', (line) => {
    log.push(parseLine(line));
    if (log.length > LOG_LINES_MAX) log.shift();
    if (process.env.TEST_LOG === 'debug') process.stderr.write(`${command} ${pid}: ${line}\n`);
  });
  const exited = once(child, 'close').then(([code, signal]) => {
    ended = true;
    return { code: code as number | null, signal: signal as NodeJS.Signals | null };
  });
  const find = async <Found>(what: string, look: () => Found | undefined): Promise<Found> => {
    let found: Found | undefined;
    await until(`${command} ${what}`, () => {
      found = look();
      if (found === undefined && ended) {
        throw new Error(`${command} ended:\n${log.map((line) => JSON.stringify(line)).join('\n')}`);
      }
      return found !== undefined;
    });
    return found as Found;
  };
  const signal = (name: NodeJS.Signals): void => {
    if (!ended) child.kill(name);
  };
  return {
    pid,
    log,
    child,
    exited,
    stdout: () => printed,
    logged: (message) => find(`logs "${message}"`, () => log.find((line) => line.msg === message)),
    printed: (pattern) => find(`prints ${pattern}`, () => pattern.exec(printed) ?? undefined),
    signal,
    end: async (name = 'SIGKILL') => {
      signal(name);
      // One that is stopped by SIGSTOP hears of nothing else.
      if (name !== 'SIGKILL') signal('SIGCONT');
      return exited;
    },
  };
}

function parseLine(line: string): LogLine {
  try {
    return JSON.parse(line) as LogLine;
  } catch {
    return { msg: line };
  }
}
