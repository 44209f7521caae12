import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { join } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import { findServerAccount } from '../../src/embedded/account.ts';
import { findFreePort } from '../../src/embedded/ports.ts';
import { createClusterDirectory } from '../../test/support/cluster-directory.ts';
import type { BenchCase } from '../bench-case.ts';
import { PROGRAM_FLAGS } from '../program.ts';
import { toResult } from '../result.ts';
import type { Scope } from '../stage.ts';

const REPETITIONS = 5;
const POLL_MS = 5;
const READY_MAX_MS = 60_000;
const STOP_MAX_MS = 20_000;

/** From the start of the process to ready, everything embedded, the demo running, on data of a run before. */
export const start: BenchCase = {
  name: 'start',
  run: async (ctx) => {
    const directory = ctx.scope.add(await createClusterDirectory(await findServerAccount()), (made) =>
      made.remove(),
    );
    const dataDir = join(directory.path, 'data');
    ctx.progress('the first start, which makes the servers');
    await startOnce(ctx.scope, dataDir);
    const samples: number[] = [];
    for (let repetition = 0; repetition < REPETITIONS; repetition += 1) {
      samples.push(await startOnce(ctx.scope, dataDir));
      ctx.progress(`ready after ${Math.round(samples.at(-1) ?? 0)} ms`);
    }
    return [toResult({ name: 'start', case: 'warm data directory', unit: 'ms', samples, reach: '<= 1500' })];
  },
};

/** Starts the program, waits until it says that it is ready, and stops it. Answers what the start took. */
async function startOnce(scope: Scope, dataDir: string): Promise<number> {
  const port = await findFreePort();
  const root = join(import.meta.dirname, '..', '..');
  const startedAt = performance.now();
  const child = spawn(process.execPath, [...PROGRAM_FLAGS, join(root, 'src', 'main.ts'), 'start'], {
    cwd: root,
    env: {
      ...process.env,
      DATA_DIR: dataDir,
      PORT: String(port),
      DEMO: 'on',
      LOG_LEVEL: process.env.BENCH_LOG ?? 'silent',
    },
    stdio: ['ignore', 'ignore', 'inherit'],
  });
  const ended = once(child, 'close');
  const stop = async (): Promise<void> => {
    if (child.exitCode === null && child.signalCode === null) child.kill('SIGTERM');
    await Promise.race([ended, delay(STOP_MAX_MS, undefined, { ref: false })]);
    child.kill('SIGKILL');
  };
  scope.add(child, stop);
  const deadline = startedAt + READY_MAX_MS;
  for (;;) {
    const answer = await fetch(`http://127.0.0.1:${port}/readyz`).catch(() => undefined);
    await answer?.arrayBuffer();
    if (answer?.status === 200) break;
    if (performance.now() > deadline || child.exitCode !== null) throw new Error('start: never ready');
    await delay(POLL_MS);
  }
  const elapsedMs = performance.now() - startedAt;
  await stop();
  return elapsedMs;
}
