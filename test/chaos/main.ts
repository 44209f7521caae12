import { randomInt } from 'node:crypto';
import { mkdtempSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { parseArgs } from 'node:util';
import { createObservations } from './observations.ts';
import { FOCUSES } from './plan.ts';
import { runChaos } from './run.ts';
import { ROOT } from './stage.ts';
import { createTally, type Tally, violationsOf } from './tally.ts';

// npm run chaos -- --seed S --kills K --seconds T
// The last line of standard output is the tally as JSON; ends with 1 unless every promise was kept.

const PROGRESS_MS = 5_000;

const { values } = parseArgs({
  options: {
    seed: { type: 'string' },
    kills: { type: 'string', default: '20' },
    'postmaster-kills': { type: 'string' },
    seconds: { type: 'string', default: '600' },
    operations: { type: 'string', default: '0' },
    brisk: { type: 'boolean', default: false },
    focus: { type: 'string' },
    'pause-ms': { type: 'string', default: '8' },
    root: { type: 'string', default: ROOT },
  },
});

const whole = (name: string, text: string): number => {
  const number = Number(text);
  if (Number.isSafeInteger(number) && number >= 0) return number;
  process.stderr.write(`--${name}=${text}: not a whole number\n`);
  process.exit(2);
};

const focus = FOCUSES.find((name) => name === values.focus);
if (values.focus !== undefined && focus === undefined) {
  process.stderr.write(`--focus=${values.focus}: not one of ${FOCUSES.join(', ')}\n`);
  process.exit(2);
}
const seed = values.seed === undefined ? randomInt(2 ** 31) : whole('seed', values.seed);
const kills = whole('kills', values.kills);
const operations = whole('operations', values.operations);
const tally = createTally(seed);
const notes = join(mkdtempSync(join(tmpdir(), 'market-sync-chaos-')), `seed-${seed}.log`);
process.stderr.write(`chaos: seed ${seed}, notes in ${notes}\n`);
const startedAt = performance.now();
let stop: (() => Promise<void>) | undefined;
const onSignal = (): void => {
  process.stderr.write('chaos: stopping\n');
  void (stop?.() ?? Promise.resolve()).finally(() => process.exit(130));
};
process.once('SIGINT', onSignal);
process.once('SIGTERM', onSignal);
const progress = setInterval(() => process.stderr.write(`${describe(tally)}\n`), PROGRESS_MS);
try {
  await runChaos(
    {
      seed,
      kills,
      focus,
      brisk: values.brisk,
      postmasterKills: whole(
        'postmaster-kills',
        values['postmaster-kills'] ?? String(Math.max(Math.min(3, kills), Math.floor(kills / 10))),
      ),
      seconds: whole('seconds', values.seconds),
      operations,
      pauseMs: whole('pause-ms', values['pause-ms']),
      root: values.root,
    },
    createObservations(tally, notes),
    (stage) => {
      stop = stage.stop;
      // Whatever ends this process, none of those under test outlives it.
      process.once('exit', () => {
        for (const { service } of [...stage.pipelines, stage.api]) service.current.signal('SIGKILL');
      });
    },
  );
  const complete = tally.kills >= kills && tally.operations >= operations;
  if (!complete) process.stderr.write('the seconds were over before the kills or the operations were done\n');
  process.exitCode = complete && violationsOf(tally).length === 0 ? 0 : 1;
} catch (error) {
  process.stderr.write(`${error instanceof Error ? error.stack : String(error)}\n`);
  process.exitCode = 1;
} finally {
  clearInterval(progress);
}
process.stdout.write(`${JSON.stringify(tally)}\n`);
process.exit();

function describe(now: Tally): string {
  const seconds = Math.round((performance.now() - startedAt) / 1000);
  const broken = violationsOf(now);
  return [
    `${seconds} s`,
    `${now.kills}/${kills} kills (${now.postmaster_kills} of the postmaster)`,
    `${now.operations} rows in ${now.commits} commits`,
    `${now.appends} appends`,
    `${now.reads} listings read`,
    `${now.takeovers} takeovers`,
    broken.length === 0 ? 'nothing broken' : broken.map((name) => `${name}: ${now[name]}`).join(', '),
  ].join(', ');
}
