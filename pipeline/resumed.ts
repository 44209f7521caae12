import type { Database } from '../src/postgres.ts';
import { sleep } from '../src/sleep.ts';
import { findPause } from '../src/store/manual-actions.ts';

/** How soon a resumed pipeline goes on. */
export const PAUSED_POLL_MS = 250;

/** Waits while somebody has paused the pipeline. `stopIfNeeded` is called before each look and throws what ends the wait. */
export async function untilResumed(
  db: Database,
  { stopIfNeeded, signal }: { stopIfNeeded: () => void; signal: AbortSignal },
): Promise<void> {
  for (;;) {
    stopIfNeeded();
    if ((await findPause(db)) === undefined) return;
    await sleep(PAUSED_POLL_MS, signal);
  }
}
