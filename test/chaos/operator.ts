import { setTimeout as delay } from 'node:timers/promises';
import type { Random } from '../support/random.ts';
import type { Observations } from './observations.ts';
import type { Supervised } from './supervisor.ts';

export interface Operator {
  stop(): Promise<void>;
}

const TIMEOUT_MS = 15_000;
const SYNC_ALL = 0.01;

/** What an API may answer while servers come and go: what was asked for, that it is not there, or that it must wait. */
const EXCUSED = new Set([200, 404, 503]);

/** The booking has ended meanwhile. */
const NOT_PUBLISHABLE = '"code":"not_publishable"';

/** Somebody who publishes and reconciles by hand, now and then everything, while the API comes and goes. */
export function startOperator(
  { api, observations, pauseMs }: { api: Supervised; observations: Observations; pauseMs: number },
  { bookingIds, random }: { bookingIds: () => string[]; random: Random },
): Operator {
  let stopped = false;
  const act = async (): Promise<void> => {
    const url = /^API +(http:\S+)$/m.exec(api.current.stdout())?.[1];
    const ids = bookingIds();
    if (url === undefined || ids.length === 0) return;
    const snapshots = `${url}/storage-guard/snapshots`;
    const path = random.chance(SYNC_ALL)
      ? `${snapshots}/sync-all`
      : `${snapshots}/${random.pick(ids)}/${random.pick(['publish', 'reconcile'])}`;
    let answer: Response;
    try {
      answer = await fetch(path, { method: 'POST', signal: AbortSignal.timeout(TIMEOUT_MS) });
    } catch {
      return; // Killed, stopped, or not up yet.
    }
    const body = await answer.text().catch(() => undefined);
    if (!EXCUSED.has(answer.status) && body?.includes(NOT_PUBLISHABLE) !== true) {
      observations.violation('api_errors', `POST ${new URL(path).pathname}: ${answer.status} ${body}`);
    }
  };
  const run = async (): Promise<void> => {
    while (!stopped) {
      await act();
      await delay(pauseMs * 2 * random.next());
    }
  };
  const running = run();
  return {
    stop: async () => {
      stopped = true;
      await running;
    },
  };
}
