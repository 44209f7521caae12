import { styleText } from 'node:util';
import type { Config } from '../config.ts';
import { describeError } from '../errors.ts';
import type { Logger } from '../log.ts';
import { auditSettings, isPassing, workAudit } from '../store/drift-audit.ts';
import type { AuditContext } from '../store/drift-confirm.ts';
import {
  type AuditRequest,
  type AuditRun,
  auditInWork,
  type KindCount,
  readCounts,
} from '../store/drift-run.ts';
import { processName, publishContext } from '../store/publish.ts';
import { sleep } from '../sleep.ts';
import { withRunningServers } from './running-database.ts';

const RETRIES_MAX = 10;
const RETRY_MS = 1_000;

/**
 * `market-sync audit`: compares everything in this process, beside whatever runs. Goes on with an audit that was
 * interrupted. Sets exit code 1 when something was found, also when it was repaired: a second run says whether it is gone.
 */
export async function runAudit(
  config: Config,
  log: Logger,
  { repair, json }: { repair: boolean; json: boolean },
): Promise<void> {
  const lines = json || process.stdout.isTTY !== true;
  const abort = new AbortController();
  const stop = (): void => abort.abort();
  process.once('SIGINT', stop).once('SIGTERM', stop);
  await withRunningServers(config, log, async ({ pool, market }) => {
    const publish = publishContext({ config, pool, market, log, random: Math.random, role: 'pipeline' });
    const ctx: AuditContext = {
      pool,
      market,
      log,
      clock: () => undefined,
      publish: { ...publish, publisher: `${processName()}:audit` },
      signal: abort.signal,
      ...auditSettings(config),
      onProgress: createProgress({ lines }),
    };
    const run = await workPatiently(ctx, {
      reason: 'market-sync audit',
      requestedBy: processName(),
      repair: repair ? 'all' : 'off',
      worker: 'command',
    });
    const counts = await readCounts(pool, run.id);
    const found = counts.reduce((sum, count) => sum + count.found, 0);
    if (found > 0) process.exitCode = 1;
    if (lines) {
      process.stdout.write(`${JSON.stringify({ event: 'done', ...toResult(run, counts) })}\n`);
    } else {
      process.stdout.write(describeAudit(run, counts, { colour: true }));
    }
  });
}

/** A server that restarts does not cost the audit: it goes on behind its last chunk. */
async function workPatiently(ctx: AuditContext, asked: AuditRequest): Promise<AuditRun> {
  for (let attempt = 1; ; attempt += 1) {
    try {
      const run = await workAudit(ctx, asked);
      if (run === 'in_work' || run === undefined) throw auditInWork();
      return run;
    } catch (error) {
      if (ctx.signal.aborted) throw new Error('stopped: the next audit goes on with it', { cause: error });
      if (!isPassing(error) || attempt >= RETRIES_MAX) throw error;
      ctx.log.warn({ error: describeError(error), attempt }, 'audit interrupted, coming back');
      await sleep(RETRY_MS, ctx.signal);
    }
  }
}

/** A bar on a terminal, lines of JSON elsewhere. */
function createProgress({ lines }: { lines: boolean }): NonNullable<AuditContext['onProgress']> {
  const startedAt = performance.now();
  let first: number | undefined;
  let found = 0;
  return (progress) => {
    first ??= progress.compared;
    found += progress.found;
    const seconds = (performance.now() - startedAt) / 1_000;
    // What was done before this process took it up says nothing of its rate.
    const rate = (progress.compared - first) / Math.max(seconds, 0.001);
    const left = progress.total === null || rate === 0 ? null : (progress.total - progress.compared) / rate;
    if (lines) {
      const line = {
        event: 'progress',
        compared: progress.compared,
        total: progress.total,
        found,
        per_second: Math.round(rate),
        seconds_left: left === null ? null : Math.max(0, Math.round(left)),
      };
      process.stdout.write(`${JSON.stringify(line)}\n`);
      return;
    }
    const share = progress.total ? Math.min(1, progress.compared / progress.total) : 1;
    const bar = '█'.repeat(Math.round(share * 30)).padEnd(30, '░');
    const time = left === null ? '' : `, ${Math.max(0, Math.round(left))} s left`;
    process.stdout.write(
      `\r\u001b[2K${bar} ${Math.round(share * 100)} %  ${progress.compared} compared, ${Math.round(rate)}/s${time}, ${found} found`,
    );
  };
}

function toResult(run: AuditRun, counts: KindCount[]): Record<string, unknown> {
  return {
    audit: run.id,
    state: run.state,
    compared: run.compared,
    listings: run.listings,
    found: counts.reduce((sum, count) => sum + count.found, 0),
    repaired: counts.reduce((sum, count) => sum + count.repaired, 0),
    in_flight: run.in_flight,
    parked: run.parked,
    seconds: Math.round(run.busy_ms) / 1_000,
    kinds: counts,
  };
}

/** A line for each kind, and what to do about it. */
function describeAudit(run: AuditRun, counts: KindCount[], { colour }: { colour: boolean }): string {
  const tone = (name: 'green' | 'yellow' | 'red', text: string): string =>
    colour ? styleText(name, text, { validateStream: false }) : text;
  const seconds = Math.round(run.busy_ms) / 1_000;
  const head =
    `${run.compared} bookings and ${run.listings} listings compared in ${seconds} s; ` +
    `${run.in_flight} left out in flight, ${run.parked} parked`;
  const lines = counts.map(({ kind, found, repaired, examples }) => {
    const left = found - repaired;
    const verdict =
      left === 0
        ? tone('yellow', `${found} found, all repaired`)
        : tone('red', `${found} found, ${left} left`);
    return `${kind.padEnd(18)} ${verdict}  ${examples.join(' ')}`;
  });
  const left = counts.reduce((sum, count) => sum + count.found - count.repaired, 0);
  const remedy =
    counts.length === 0
      ? tone('green', 'Nothing found.')
      : left === 0
        ? 'Run it again: it finds nothing now.'
        : run.repair === 'off'
          ? 'Repair it: market-sync audit --repair'
          : 'See select * from market_sync.drift_findings where not repaired';
  return `\n${[head, ...lines, remedy].join('\n')}\n`;
}
