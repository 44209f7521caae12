import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { join } from 'node:path';
import type pg from 'pg';
import { afterEach, expect } from 'vitest';
import { query } from '../../src/postgres.ts';
import { until } from './pipeline.ts';
import { createRandom } from './random.ts';

// Commands that work in chunks with a cursor (backfill, audit), killed again and again.

const MAIN = join(import.meta.dirname, '..', '..', 'src', 'main.ts');

/** A command in one process, whose output goes into a pipe. */
export interface Command {
  child: ChildProcess;
  stdout(): string;
  stderr(): string;
  /** The whole lines of JSON that it has printed so far. */
  lines<Line>(): Line[];
  /** Its exit code; null when it was killed. */
  ended: Promise<number | null>;
}

const running = new Set<ChildProcess>();

/** Whatever a test leaves running is killed. */
afterEach(() => {
  for (const child of running) child.kill('SIGKILL');
});

/** Starts `market-sync ARGUMENTS` with these settings and none of this process. */
export function startCommand(args: string[], settings: NodeJS.ProcessEnv): Command {
  const child = spawn(process.execPath, [MAIN, ...args], {
    env: { PATH: process.env.PATH, LOG_LEVEL: 'error', ...settings },
    stdio: ['ignore', 'pipe', 'pipe'],
  });
  running.add(child);
  let [stdout, stderr] = ['', ''];
  child.stdout.setEncoding('utf8').on('data', (text: string) => {
    stdout += text;
  });
  child.stderr.setEncoding('utf8').on('data', (text: string) => {
    stderr += text;
  });
  const ended = once(child, 'close').then(([code]) => {
    running.delete(child);
    return code as number | null;
  });
  const lines = <Line>(): Line[] =>
    stdout
      .split('\n')
      .slice(0, -1)
      .filter((line) => line.startsWith('{'))
      .map((line) => JSON.parse(line) as Line);
  return { child, stdout: () => stdout, stderr: () => stderr, lines, ended };
}

/** Notes every chunk whose cursor is written in this table, also when that is rolled back, and makes each take a while. */
export const noteChunks = (pool: pg.Pool, table: string): Promise<unknown> =>
  query(
    pool,
    // A sequence remembers what was rolled back: every chunk that came as far as its cursor counts.
    `create sequence chunk_attempts;
     create table chunk_done (after uuid, upto uuid);
     create function note_chunk() returns trigger language plpgsql as $$
     begin
       perform nextval('chunk_attempts');
       insert into chunk_done values (old.after_booking_id, new.after_booking_id);
       perform pg_sleep(0.02);
       return null;
     end $$;
     create trigger note_chunk after update of after_booking_id on ${table} for each row
       when (old.after_booking_id is distinct from new.after_booking_id) execute function note_chunk()`,
  );

/** Starts the command and kills it so many times, each time somewhere within the next `stepMax` of what it has to do. */
export async function killAtRandom(options: {
  start: () => Command;
  doneSoFar: () => Promise<number>;
  kills: number;
  stepMax: number;
  seed: number;
}): Promise<void> {
  const { doneSoFar } = options;
  const random = createRandom(options.seed);
  for (let kill = 0; kill < options.kills; kill += 1) {
    const command = options.start();
    const target = (await doneSoFar()) + 1 + random.below(options.stepMax);
    await until('it has come that far', async () => {
      if (command.child.exitCode !== null) throw new Error(`it ended: ${command.stderr()}`);
      return (await doneSoFar()) >= target;
    });
    command.child.kill('SIGKILL');
    await command.ended;
  }
}

/** That of the chunks noted none was committed twice, and each kill made at most one begin again. Ends the noting. */
export async function expectChunksOnce(
  pool: pg.Pool,
  { table, kills, chunksMin }: { table: string; kills: number; chunksMin: number },
): Promise<void> {
  const chunks = await query<{ after: string | null; upto: string }>(pool, 'select * from chunk_done');
  expect(chunks.length).toBeGreaterThanOrEqual(chunksMin);
  // Each committed chunk begins where another ended, so none was done twice.
  expect(new Set(chunks.map((chunk) => chunk.after)).size).toBe(chunks.length);
  expect(new Set(chunks.map((chunk) => chunk.upto)).size).toBe(chunks.length);
  const [attempts] = await query<{ count: number }>(pool, 'select last_value as count from chunk_attempts');
  expect(attempts?.count).toBeLessThanOrEqual(chunks.length + kills);
  await query(pool, `drop trigger note_chunk on ${table}; drop function note_chunk`);
}
