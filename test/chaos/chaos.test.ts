import { execFile } from 'node:child_process';
import { join } from 'node:path';
import { expect, test } from 'vitest';
import type { Tally } from './tally.ts';

const MAIN = join(import.meta.dirname, 'main.ts');
const TIMEOUT_MS = 10 * 60_000;

test('I1–I5, I7: twenty kills, three of the postmaster, and every snapshot and listing is what the oracle says', {
  timeout: TIMEOUT_MS,
  retry: 0,
}, async () => {
  const arguments_ = ['--seed', process.env.CHAOS_SEED ?? '20261124', '--kills', '20'];
  const { code, tally, seen } = await new Promise<{ code: unknown; tally: Tally; seen: string }>(
    (resolve) => {
      execFile(
        process.execPath,
        [MAIN, ...arguments_],
        { timeout: TIMEOUT_MS - 30_000 },
        (error, stdout, stderr) => {
          const tally = JSON.parse(stdout.trim().split('\n').at(-1) ?? '{}') as Tally;
          resolve({ code: error?.code ?? 0, tally, seen: stderr });
        },
      );
    },
  );
  expect(code, seen).toBe(0);
  expect(tally).toMatchObject({
    kills: 20,
    postmaster_kills: 3,
    missing: 0,
    extra: 0,
    different: 0,
    regressed: 0,
    resurrected: 0,
    unaudited: 0,
  });
  // It has met a system at work.
  expect(tally.takeovers).toBeGreaterThan(2);
  expect(tally.appends).toBeGreaterThan(100);
  expect(tally.reads).toBeGreaterThan(1_000);
});
