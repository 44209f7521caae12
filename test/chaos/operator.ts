import { setTimeout as delay } from 'node:timers/promises';
import type pg from 'pg';
import { query } from '../../src/postgres.ts';
import type { Random } from '../support/random.ts';
import type { Observations } from './observations.ts';
import type { Supervised } from './supervisor.ts';

export interface Operator {
  stop(): Promise<void>;
  /** Compares what was answered with the audit log (I8). */
  check(): Promise<void>;
}

const TIMEOUT_MS = 15_000;
const SYNC_ALL = 0.01;

/** How often everything is paused in SQL, and for how long at most. */
const PAUSE = 0.01;
const PAUSE_MS_MAX = 1_000;
const RETRY_MS = 50;

/** A call without an answer is repeated with its key so many times, as a careful client does. */
const ATTEMPTS_MAX = 3;

/** What an API may answer while servers come and go: what was asked for, that it is not there, that it may not be, or that it must wait. */
const EXCUSED = new Set([200, 202, 404, 409, 503]);

/** The booking has ended meanwhile, or is held. */
const NOT_PUBLISHABLE = '"code":"not_publishable"';

interface Call {
  method: 'POST' | 'PUT' | 'DELETE';
  path: string;
  body?: Record<string, unknown>;
}

/** What is known of a call: performed, refused, or that nobody knows. */
type Outcome = 'performed' | 'refused' | 'unknown';

/** Somebody who publishes, holds, withdraws, corrects by hand, now and then everything, while the API comes and goes. */
export function startOperator(
  {
    api,
    pool,
    observations,
    pauseMs,
  }: { api: Supervised; pool: pg.Pool; observations: Observations; pauseMs: number },
  { bookingIds, random }: { bookingIds: () => string[]; random: Random },
): Operator {
  let stopped = false;
  const outcomes = new Map<string, { call: Call; outcome: Outcome }>();

  const attempt = async (call: Call, key: string): Promise<Outcome> => {
    const url = /^API +(http:\S+)$/m.exec(api.current.stdout())?.[1];
    if (url === undefined) return 'unknown';
    let answer: Response;
    try {
      answer = await fetch(`${url}/storage-guard/snapshots/${call.path}`, {
        method: call.method,
        headers: { 'idempotency-key': key, 'content-type': 'application/json' },
        ...(call.body === undefined ? {} : { body: JSON.stringify(call.body) }),
        signal: AbortSignal.timeout(TIMEOUT_MS),
      });
    } catch {
      return 'unknown'; // Killed, stopped, or not up yet.
    }
    const body = await answer.text().catch(() => undefined);
    if (body === undefined) return 'unknown';
    const excused = EXCUSED.has(answer.status) || body.includes(NOT_PUBLISHABLE);
    if (!excused) {
      observations.violation('api_errors', `${call.method} ${call.path}: ${answer.status} ${body}`);
    }
    if (answer.status === 200) return 'performed';
    // Not publishable: found at once, or only after it was audited, because the booking ended while it was being published.
    const open = answer.status === 503 || body.includes(NOT_PUBLISHABLE);
    return open || body.includes('"code":"idempotency_in_work"') ? 'unknown' : 'refused';
  };

  const act = async (): Promise<void> => {
    const ids = bookingIds();
    if (ids.length === 0) return;
    const call = drawCall(random, ids);
    const key = random.hex(32);
    let outcome: Outcome = 'unknown';
    for (let tries = 0; outcome === 'unknown' && tries < ATTEMPTS_MAX && !stopped; tries += 1) {
      const answer = await attempt(call, key);
      // A try before may have been performed, as far as its audit row, and the booking have ended since.
      outcome = answer === 'refused' && tries > 0 ? 'unknown' : answer;
      if (answer === 'refused') break;
    }
    // One that finds nothing to publish is not audited, and says so by its figures only.
    outcomes.set(key, { call, outcome: call.path === 'sync-all' ? 'unknown' : outcome });
    if (outcome === 'performed') observations.tally.manual_actions += 1;
  };

  /** A DBA, whose pause must not outlast the run, whatever happens to PostgreSQL meanwhile. */
  const pauseForAWhile = async (): Promise<void> => {
    const paused = await query(pool, `select market_sync.pause('chaos')`).then(
      () => true,
      () => false, // PostgreSQL is away, or went away with the answer.
    );
    if (paused) observations.tally.pauses += 1;
    await delay(PAUSE_MS_MAX * random.next());
    for (;;) {
      try {
        await query(
          pool,
          'select market_sync.resume() from market_sync.checkpoint where paused_at is not null',
        );
        return;
      } catch {
        await delay(RETRY_MS);
      }
    }
  };

  const run = async (): Promise<void> => {
    while (!stopped) {
      await (random.chance(PAUSE) ? pauseForAWhile() : act());
      await delay(pauseMs * 2 * random.next());
    }
  };
  const running = run();
  return {
    stop: async () => {
      stopped = true;
      await running;
    },
    check: async () => {
      const rows = await query<{ key: string; count: number }>(
        pool,
        `select idempotency_key as key, count(*) from market_sync.manual_action
         where idempotency_key is not null group by idempotency_key`,
      );
      const audited = new Map(rows.map(({ key, count }) => [key, count]));
      for (const [key, { call, outcome }] of outcomes) {
        const count = audited.get(key) ?? 0;
        const right = outcome === 'unknown' ? count <= 1 : count === Number(outcome === 'performed');
        if (!right) {
          observations.violation(
            'unaudited',
            `${call.method} ${call.path}, which was ${outcome}, has ${count} audit rows`,
          );
        }
      }
    },
  };
}

function drawCall(random: Random, ids: string[]): Call {
  if (random.chance(SYNC_ALL)) return { method: 'POST', path: 'sync-all' };
  const id = random.pick(ids);
  const what = random.pick([
    ...(['publish', 'publish', 'reconcile', 'reconcile'] as const),
    ...(['hold', 'hold', 'release', 'release', 'withdraw', 'override', 'override', 'end override'] as const),
  ]);
  switch (what) {
    case 'publish':
    case 'reconcile':
      return { method: 'POST', path: `${id}/${what}` };
    case 'override':
      return {
        method: 'PUT',
        path: `${id}/override`,
        body: {
          reason: 'chaos',
          ...random.pick([
            { grade: 'Z' },
            { quality_score: 42.5 },
            { special_notes: 'seen', freshness: 'so so' },
          ]),
        },
      };
    case 'end override':
      return { method: 'DELETE', path: `${id}/override` };
    default:
      return { method: 'POST', path: `${id}/${what}`, body: { reason: 'chaos' } };
  }
}
