import type pg from 'pg';
import type { Config } from '../src/config.ts';
import { describeError } from '../src/errors.ts';
import { startListening } from '../src/listen.ts';
import type { Logger } from '../src/log.ts';
import type { Market } from '../src/mongo.ts';
import { classifyPostgresError } from '../src/postgres.ts';
import { auditSettings, isPassing, workAudit } from '../src/store/drift-audit.ts';
import { AuditLostError, type Repair, readCounts } from '../src/store/drift-run.ts';
import type { PublishContext } from '../src/store/publish.ts';
import type { Clock } from '../src/store/reconcile.ts';
import { Wakeup } from './wakeup.ts';

export interface AuditorContext {
  pool: pg.Pool;
  market: Market;
  log: Logger;
  clock: Clock;
  config: Config;
  publish: PublishContext;
}

export interface Auditor {
  stop(): Promise<void>;
  /** Rejected with the error that nothing can be done about. */
  ended: Promise<void>;
}

/** What a process that was killed has left open is taken up within so long. */
const LOOK_AGAIN_MS = 30_000;

/** Works on audits that somebody has asked for in SQL, or that were left open; the daily one is a job's (schedules.ts). */
export function startAuditor(ctx: AuditorContext): Auditor {
  const wakeup = new Wakeup();
  const abort = new AbortController();
  const onNotify = (): void => wakeup.notify();
  const listener = startListening(ctx, { channel: 'market_sync_audit', onNotify, onConnect: onNotify });
  const run = async (): Promise<void> => {
    while (!abort.signal.aborted) {
      await wakeup.wait(LOOK_AGAIN_MS);
      if (abort.signal.aborted) return;
      try {
        await auditOnce(ctx, { signal: abort.signal });
      } catch (error) {
        if (abort.signal.aborted) return;
        ctx.log.warn({ error: describeError(error) }, 'audit interrupted');
        const passing = isPassing(error) || error instanceof AuditLostError;
        if (!passing && classifyPostgresError(error) === 'fatal') continue; // It is closed, with its error.
      }
    }
  };
  const ended = run();
  return {
    ended,
    stop: async () => {
      abort.abort();
      wakeup.notify();
      await Promise.all([ended, listener.stop()]);
    },
  };
}

/**
 * Works on the audit that is open, or on a new one where one is asked for, to its end. Answers what came of it; nothing
 * when there is none, or another process works on it.
 */
export async function auditOnce(
  ctx: AuditorContext,
  { asked, signal }: { asked?: { reason: string; repair: Repair }; signal: AbortSignal },
): Promise<Record<string, unknown>> {
  // Its claims are not the sweep's to give back.
  const publish = { ...ctx.publish, publisher: `${ctx.publish.publisher}:audit` };
  const run = await workAudit(
    { ...ctx, publish, signal, ...auditSettings(ctx.config) },
    asked && { ...asked, requestedBy: 'schedule', worker: 'pipeline' },
  );
  if (run === undefined) return {};
  if (run === 'in_work') return { in_work: true };
  const { id } = run;
  const counts = await readCounts(ctx.pool, id);
  const found = counts.reduce((sum, count) => sum + count.found, 0);
  const repaired = counts.reduce((sum, count) => sum + count.repaired, 0);
  const output = {
    audit: id,
    compared: run.compared,
    listings: run.listings,
    found,
    repaired,
    in_flight: run.in_flight,
    parked: run.parked,
    kinds: Object.fromEntries(counts.map((count) => [count.kind, count.found])),
  };
  if (found > repaired) ctx.log.error(output, 'drift found');
  else ctx.log.info(output, found > 0 ? 'drift found and repaired' : 'audit found nothing');
  return output;
}
