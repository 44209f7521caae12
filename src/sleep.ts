import { setTimeout as delay } from 'node:timers/promises';

/** Waits, or until aborted; never rejects. */
export async function sleep(ms: number, signal: AbortSignal): Promise<void> {
  await delay(ms, undefined, { signal }).catch(() => undefined);
}
