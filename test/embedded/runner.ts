import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { createInterface } from 'node:readline';
import { fileURLToPath } from 'node:url';

/** What the program of `fixtures/run-postgres.ts` wrote first: that it is ready, or why not. */
type Report = { url: string; location: string } | { error: string; message: string };

export type Runner = {
  child: ChildProcess;
  report: Report;
  /** The next line it writes. */
  next(): Promise<Record<string, unknown>>;
  /** What it logged so far. */
  logged(): string;
  /** Sends a signal and waits for its end; gives the exit code. */
  end(signal: NodeJS.Signals): Promise<number | null>;
};

const PROGRAM = fileURLToPath(new URL('./fixtures/run-postgres.ts', import.meta.url));

/** Starts the embedded PostgreSQL in a Node process of its own, in a process group of its own like a terminal's. */
export async function runPostgres(
  input: { dataDir: string; port?: number; sharedHome?: string; umask?: number },
  options: { program?: string; user?: { uid: number; gid: number } } = {},
): Promise<Runner> {
  const argument = JSON.stringify({ port: 0, ...input });
  const child = spawn(process.execPath, [options.program ?? PROGRAM, argument], {
    cwd: '/',
    detached: true,
    stdio: ['ignore', 'pipe', 'pipe'],
    env: { PATH: process.env.PATH, HOME: '/nonexistent' },
    ...(options.user === undefined ? {} : { uid: options.user.uid, gid: options.user.gid }),
  });
  let log = '';
  child.stderr.setEncoding('utf8').on('data', (chunk: string) => {
    log += chunk;
  });
  const exited = once(child, 'exit');
  const lines = createInterface(child.stdout)[Symbol.asyncIterator]();
  const next = async () => {
    const { done, value } = await lines.next();
    if (done === true) throw new Error(`run-postgres ended: ${log}`);
    return JSON.parse(value) as Record<string, unknown>;
  };
  return {
    child,
    report: (await next()) as Report,
    next,
    logged: () => log,
    async end(signal) {
      child.kill(signal);
      const [code] = await exited;
      return code;
    },
  };
}
