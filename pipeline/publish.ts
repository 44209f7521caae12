import { describeError } from '../src/errors.ts';
import { startListening } from '../src/listen.ts';
import { classifyPostgresError } from '../src/postgres.ts';
import { sleep } from '../src/sleep.ts';
import { nextAttemptInMs, releaseClaims } from '../src/store/outbox.ts';
import { type PublishContext, publishBatch } from '../src/store/publish.ts';
import { outageDelayMs } from './outage-delay.ts';
import { Wakeup } from './wakeup.ts';

export interface Publisher {
  /** Looks for work at once, as after a notification. */
  wake(): void;
  /** Finishes the batch in work, then ends. */
  stop(): Promise<void>;
  /** Rejected with the error that nothing can be done about. */
  ended: Promise<void>;
}

/** Nothing is due: look again after this long, whatever was notified or not. */
const LOOK_AGAIN_MS = 30_000;

/**
 * Publishes as soon as reconcile has committed, batch after batch until the outbox is empty. While MongoDB is not to be
 * had it waits with growing, jittered delays; snapshots wait in their table, the slot does not (D8).
 */
export function startPublisher(ctx: PublishContext, { batchMax }: { batchMax: number }): Publisher {
  const wakeup = new Wakeup();
  const abort = new AbortController();
  // Claims in this publisher's name that nobody works on would hold their snapshots back until the lease runs out: of a
  // process of the same name before this one, or from before PostgreSQL went away. Marks do not wait for the disk, so a
  // crash may undo one that was made and bring its claim back, while this publisher notices nothing but a new connection.
  let abandoned = true;
  const onConnect = (): void => {
    abandoned = true;
    wakeup.notify();
  };
  const listener = startListening(ctx, {
    channel: 'market_sync_publish',
    onNotify: () => wakeup.notify(),
    onConnect,
  });
  const run = async (): Promise<void> => {
    for (let failures = 0; !abort.signal.aborted; ) {
      const release = abandoned;
      abandoned = false;
      const step = await publishStep(ctx, { batchMax, failures, abandoned: release });
      failures = step.failed ? failures + 1 : 0;
      abandoned ||= step.interrupted;
      if (step.waitMs === 0) continue;
      // A notification cuts the wait for work short, never the wait for MongoDB.
      if (step.failed) await sleep(step.waitMs, abort.signal);
      else await wakeup.wait(step.waitMs);
    }
  };
  const ended = run();
  return {
    wake: () => wakeup.notify(),
    ended,
    stop: async () => {
      abort.abort();
      wakeup.notify();
      await Promise.all([ended, listener.stop()]);
    },
  };
}

interface Step {
  waitMs: number;
  failed: boolean;
  /** PostgreSQL went away on the way: what was claimed may be claimed still. */
  interrupted: boolean;
}

/** One batch; answers how long to wait before the next. Throws what is fatal. */
async function publishStep(
  ctx: PublishContext,
  { batchMax, failures, abandoned }: { batchMax: number; failures: number; abandoned: boolean },
): Promise<Step> {
  try {
    if (abandoned) await releaseClaims(ctx.pool, { publisher: ctx.publisher });
    const startedAt = performance.now();
    const outcome = await publishBatch(ctx, { limit: batchMax });
    switch (outcome.outcome) {
      case 'published':
        ctx.log.debug(
          { listings: outcome.results.length, duration_ms: Math.round(performance.now() - startedAt) },
          'batch published',
        );
        return { waitMs: 0, failed: false, interrupted: false };
      case 'idle':
        return {
          waitMs: Math.min((await nextAttemptInMs(ctx.pool)) ?? LOOK_AGAIN_MS, LOOK_AGAIN_MS) + 1,
          failed: false,
          interrupted: false,
        };
      case 'unavailable': {
        const waitMs = outageDelayMs(failures, ctx.random);
        ctx.log.warn(
          {
            error: describeError(outcome.error),
            listings: outcome.claimed,
            retry_ms: Math.round(waitMs),
          },
          'mongodb cannot be written, trying again',
        );
        return { waitMs, failed: true, interrupted: false };
      }
    }
  } catch (error) {
    if (classifyPostgresError(error) !== 'retryable') throw error;
    const waitMs = outageDelayMs(failures, ctx.random);
    ctx.log.warn({ error: describeError(error) }, 'publisher interrupted, coming back');
    return { waitMs, failed: true, interrupted: true };
  }
}
