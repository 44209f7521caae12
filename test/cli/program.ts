import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { join } from 'node:path';
import { afterEach } from 'vitest';
import { listSettings } from '../../src/config.ts';
import { until } from '../support/pipeline.ts';

const BIN = join(import.meta.dirname, '..', '..', 'bin', 'market-sync.js');

/** A running `market-sync`. */
export interface Program {
  /** The process started, which runs the program's own in a child of its own. */
  child: ChildProcess;
  stdout(): string;
  stderr(): string;
  /** Its exit code once it has ended. */
  exited: Promise<number>;
  /** Resolves with the match once standard output has it; rejects when the program ends before. */
  printed(pattern: RegExp): Promise<RegExpExecArray>;
  /** Sends the signal and resolves with the exit code and how long it took. */
  end(signal: NodeJS.Signals): Promise<{ code: number; durationMs: number }>;
}

const running = new Set<Program>();

/** Whatever a test leaves running is killed with all its processes. */
afterEach(async () => {
  for (const { child, exited } of [...running]) {
    if (child.pid !== undefined) process.kill(-child.pid, 'SIGKILL');
    await exited;
  }
});

/** Starts `market-sync ARGUMENTS` as a shell would, with these settings and none of this process. */
export function startProgram(args: string[], settings: NodeJS.ProcessEnv = {}): Program {
  const names = new Set<string>(listSettings().flatMap(({ name }) => [name, `${name}_FILE`]));
  const inherited = Object.entries(process.env).filter(
    ([name]) => !names.has(name) && !name.startsWith('VITEST'),
  );
  const child = spawn(process.execPath, [BIN, ...args], {
    env: { ...Object.fromEntries(inherited), NODE_ENV: '', ...settings },
    stdio: ['ignore', 'pipe', 'pipe'],
    detached: true, // A process group of its own, which can be killed whole.
  });
  let [stdout, stderr] = ['', ''];
  child.stdout.setEncoding('utf8').on('data', (chunk: string) => {
    stdout += chunk;
  });
  child.stderr.setEncoding('utf8').on('data', (chunk: string) => {
    stderr += chunk;
  });
  let ended = false;
  const exited = once(child, 'close').then(([code]) => {
    ended = true;
    running.delete(program);
    return code as number;
  });
  const program: Program = {
    child,
    stdout: () => stdout,
    stderr: () => stderr,
    exited,
    printed: async (pattern) => {
      let match: RegExpExecArray | null = null;
      await until(`${args.join(' ')} prints ${pattern}`, () => {
        match = pattern.exec(stdout);
        if (match === null && ended) throw new Error(`${args.join(' ')} ended: ${stdout}${stderr}`);
        return match !== null;
      });
      return match ?? failNever();
    },
    end: async (signal) => {
      const startedAt = performance.now();
      child.kill(signal);
      return { code: await exited, durationMs: performance.now() - startedAt };
    },
  };
  running.add(program);
  return program;
}

function failNever(): never {
  throw new Error('unreachable');
}

/** Runs `market-sync ARGUMENTS` to its end. */
export async function runProgram(
  args: string[],
  settings: NodeJS.ProcessEnv = {},
): Promise<{ code: number; stdout: string; stderr: string }> {
  const program = startProgram(args, settings);
  const code = await program.exited;
  return { code, stdout: program.stdout(), stderr: program.stderr() };
}
