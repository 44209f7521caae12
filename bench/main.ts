import { execFileSync } from 'node:child_process';
import { writeFileSync } from 'node:fs';
import { cpus, release, totalmem } from 'node:os';
import { parseArgs } from 'node:util';
import type { BenchCase, BenchContext } from './bench-case.ts';
import { audit } from './cases/audit.ts';
import { backlog } from './cases/backlog.ts';
import { capture } from './cases/capture.ts';
import { catchUp } from './cases/catch-up.ts';
import { decode } from './cases/decode.ts';
import { isolation } from './cases/isolation.ts';
import { latency } from './cases/latency.ts';
import { overload } from './cases/overload.ts';
import { polling } from './cases/polling.ts';
import { publish } from './cases/publish.ts';
import { reconcile } from './cases/reconcile.ts';
import { scale } from './cases/scale.ts';
import { soak } from './cases/soak.ts';
import { start } from './cases/start.ts';
import { formatTable, type Result } from './result.ts';
import { type BenchMarket, openMarket, Scope } from './stage.ts';

// npm run bench -- [--quick] [--only NAME[,NAME…]] [--seed N] [--json FILE]
// Ends with 0 when everything was measured, whatever was reached.

const CASES: BenchCase[] = [
  decode,
  capture,
  catchUp,
  reconcile,
  latency,
  overload,
  publish,
  backlog,
  audit,
  scale,
  isolation,
  polling,
  start,
];

/** Run when named only: ten minutes of nothing much. */
const ON_REQUEST: BenchCase[] = [soak];

const { values } = parseArgs({
  options: {
    quick: { type: 'boolean', default: false },
    only: { type: 'string' },
    seed: { type: 'string', default: '1' },
    json: { type: 'string' },
  },
});

const refuse = (message: string): never => {
  process.stderr.write(`bench: ${message}\n`);
  process.exit(2);
};

const seed = Number(values.seed);
if (!Number.isSafeInteger(seed)) refuse(`--seed=${values.seed}: not a whole number`);
const known = [...CASES, ...ON_REQUEST];
const named = values.only?.split(',');
const unknown = named?.find((name) => known.every((each) => each.name !== name));
if (unknown !== undefined)
  refuse(`--only=${unknown}: not one of ${known.map(({ name }) => name).join(', ')}`);
const chosen = named === undefined ? CASES : known.filter(({ name }) => named.includes(name));

const shared = new Scope();
let market: Promise<BenchMarket> | undefined;
let running: Scope | undefined;
const onSignal = (): void => {
  process.stderr.write('bench: stopping\n');
  void (async () => {
    await running?.end();
    await shared.end();
  })().finally(() => process.exit(130));
};
process.once('SIGINT', onSignal);
process.once('SIGTERM', onSignal);

const results: Result[] = [];
let failed = false;
const startedAt = performance.now();
const seconds = (): number => Math.round((performance.now() - startedAt) / 1000);
for (const { name, run } of chosen) {
  const scope = new Scope();
  running = scope;
  const progress = (text: string): void =>
    void process.stderr.write(`bench: ${seconds()} s: ${name}: ${text}\n`);
  const ctx: BenchContext = {
    scope,
    quick: values.quick,
    seed,
    market: () => {
      market ??= openMarket(shared);
      return market;
    },
    progress,
  };
  try {
    progress('begins');
    results.push(...(await run(ctx)));
  } catch (error) {
    failed = true;
    process.stderr.write(`bench: ${name} failed: ${error instanceof Error ? error.stack : String(error)}\n`);
  } finally {
    await scope.end();
    running = undefined;
  }
}
const marketName = market === undefined ? null : (await market).name;
await shared.end();

process.stdout.write(`${formatTable(results)}\n`);
process.stdout.write(
  `market: ${marketName ?? 'none needed'}; seed ${seed}; ${seconds()} s${values.quick ? '; --quick' : ''}\n`,
);
if (values.json !== undefined) {
  const report = {
    commit: commit(),
    machine: machine(),
    market: marketName,
    quick: values.quick,
    seed,
    results,
  };
  writeFileSync(values.json, `${JSON.stringify(report, null, 2)}\n`);
}
process.exit(failed ? 1 : 0);

function commit(): string | null {
  try {
    const git = (...args: string[]): string =>
      execFileSync('git', args, { encoding: 'utf8', stdio: ['ignore', 'pipe', 'ignore'] }).trim();
    return git('rev-parse', 'HEAD') + (git('status', '--porcelain') === '' ? '' : ' (with changes)');
  } catch {
    return null;
  }
}

function machine(): Record<string, unknown> {
  return {
    cpu: cpus()[0]?.model ?? 'unknown',
    cores: cpus().length,
    memory_bytes: totalmem(),
    system: `${process.platform} ${release()}`,
    node: process.version,
  };
}
