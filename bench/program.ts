import { spawn } from 'node:child_process';
import { delimiter, join } from 'node:path';
import { access, constants } from 'node:fs/promises';
import { createInterface } from 'node:readline';

/** How Node.js runs the program, as `npm start` and `bin/market-sync.js` do it, and where it keeps what it compiled. */
export const PROGRAM_FLAGS = ['--max-semi-space-size=8'];
export const COMPILE_CACHE = join(import.meta.dirname, '..', 'node_modules', '.cache', 'market-sync');

/** A program of PostgreSQL's client package, if it is on this machine. */
export async function findProgram(name: string): Promise<string | undefined> {
  for (const folder of (process.env.PATH ?? '').split(delimiter)) {
    const file = join(folder, name);
    const found = await access(file, constants.X_OK).then(
      () => true,
      () => false,
    );
    if (found) return file;
  }
  return undefined;
}

/** Runs a program to its end; answers what it printed. Throws with what it said when it fails, or takes too long. */
export async function runProgram(
  file: string,
  args: string[],
  options: {
    timeoutMs: number;
    input?: string;
    environment?: NodeJS.ProcessEnv;
    onErrorLine?: (line: string) => void;
  },
): Promise<string> {
  const child = spawn(file, args, {
    env: { ...process.env, ...options.environment },
    stdio: ['pipe', 'pipe', 'pipe'],
    timeout: options.timeoutMs,
  });
  let printed = '';
  const said: string[] = [];
  child.stdout.setEncoding('utf8').on('data', (chunk: string) => {
    printed += chunk;
  });
  createInterface({ input: child.stderr }).on('line', (line) => {
    said.push(line);
    options.onErrorLine?.(line);
  });
  child.stdin.end(options.input ?? '');
  const code = await new Promise<number | null>((resolve, reject) => {
    child.once('error', reject);
    child.once('close', resolve);
  });
  if (code !== 0) throw new Error(`${file} ended with ${code}: ${said.slice(-20).join('\n')}`);
  return printed;
}
