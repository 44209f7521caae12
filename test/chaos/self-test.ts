import { spawnSync } from 'node:child_process';
import { join } from 'node:path';
import { BUGS, type Bug, copyWithBug } from './bugs.ts';
import type { Focus } from './plan.ts';
import { ROOT } from './stage.ts';
import type { Tally } from './tally.ts';

// npm run chaos:self-test
// A harness proves something only if it can fail: each deliberate mistake must be caught, and caught for what it is.

const SEED = 20261;
const KILLS = 16;

/** Runs until it is caught, with other seeds, so many times at most: some mistakes need a coincidence. */
const RUNS_MAX = 3;

function runWith(
  root: string,
  { seed, focus }: { seed: number; focus: Focus | undefined },
): { code: number | null; tally: Tally } {
  const { status, stdout } = spawnSync(
    process.execPath,
    [
      join(ROOT, 'test', 'chaos', 'main.ts'),
      ...['--seed', String(seed), '--kills', String(KILLS), '--root', root],
      ...(focus === undefined ? [] : ['--focus', focus]),
    ],
    { encoding: 'utf8', stdio: ['ignore', 'pipe', 'ignore'] },
  );
  return { code: status, tally: JSON.parse(stdout.trim().split('\n').at(-1) ?? '{}') as Tally };
}

/** What of the run shows the mistake; none when it went unnoticed. */
function catchBug(bug: Bug): (keyof Tally)[] {
  const copy = copyWithBug(ROOT, bug);
  try {
    for (let run = 0; run < RUNS_MAX; run += 1) {
      const { code, tally } = runWith(copy.root, { seed: SEED + run, focus: bug.focus });
      const shown = bug.shows.filter((name) => tally[name] > 0);
      if (code === 1 && shown.length > 0) return shown;
      process.stdout.write(`${bug.name}: not caught with seed ${SEED + run}\n`);
    }
    return [];
  } finally {
    copy.remove();
  }
}

let caught = 0;
for (const bug of BUGS) {
  const shown = catchBug(bug);
  if (shown.length > 0) caught += 1;
  process.stdout.write(`${bug.name}: ${shown.length > 0 ? `caught (${shown.join(', ')})` : 'NOT CAUGHT'}\n`);
}
process.stdout.write(`${caught} of ${BUGS.length} caught\n`);
process.exit(caught === BUGS.length ? 0 : 1);
