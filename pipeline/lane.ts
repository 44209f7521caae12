import { describeError } from '../src/errors.ts';
import { classifyPostgresError } from '../src/postgres.ts';
import { sleep } from '../src/sleep.ts';
import { releaseClaims } from '../src/store/outbox.ts';
import type { BatchPublished, PublishContext } from '../src/store/publish.ts';
import { outageDelayMs } from './outage-delay.ts';
import { Wakeup } from './wakeup.ts';

/** Publishes one batch after the other, under a name of its own. */
export interface Lane {
  /** Waits for work, and not for MongoDB or PostgreSQL. */
  readonly idle: boolean;
  wakeup: Wakeup;
  /** Claims in its name may stand that it does not know of: it gives them back before it takes more. */
  abandonClaims(): void;
  /** Rejected with the error that nothing can be done about. */
  ended: Promise<void>;
}

export type LaneOutcome =
  | BatchPublished
  /** Nothing to do: wait so long, or for a notification. */
  | { outcome: 'idle'; waitMs: number };

/** Runs `publishNext` under the name `ctx.publisher` until stopped; while a server is not to be had, with growing, jittered delays. */
export function startLane(
  ctx: PublishContext,
  { publishNext, signal }: { publishNext: () => Promise<LaneOutcome>; signal: AbortSignal },
): Lane {
  const wakeup = new Wakeup();
  let idle = false;
  // Claims in this lane's name that nobody works on would hold their snapshots back until the lease runs out: of a
  // process of the same name before this one, or from before PostgreSQL went away. Marks do not wait for the disk, so a
  // crash may undo one that was made and bring its claim back, while this lane notices nothing but a new connection.
  let abandoned = true;
  const step = async (failures: number): Promise<Step> => {
    try {
      if (abandoned) {
        abandoned = false;
        await releaseClaims(ctx.pool, { publisher: ctx.publisher });
      }
      return await publishOnce(ctx, { publishNext, failures });
    } catch (error) {
      if (classifyPostgresError(error) !== 'retryable') throw error;
      // What was claimed may be claimed still.
      abandoned = true;
      const waitMs = outageDelayMs(failures, ctx.random);
      ctx.log.warn({ error: describeError(error) }, 'publisher interrupted, coming back');
      return { waitMs, failed: true };
    }
  };
  const run = async (): Promise<void> => {
    for (let failures = 0; !signal.aborted; ) {
      const { waitMs, failed } = await step(failures);
      failures = failed ? failures + 1 : 0;
      // A notification cuts the wait for work short, never the wait for a server.
      if (failed) await sleep(waitMs, signal);
      else if (waitMs > 0) {
        idle = true;
        await wakeup.wait(waitMs);
        idle = false;
      }
    }
  };
  return {
    get idle() {
      return idle && !abandoned;
    },
    wakeup,
    abandonClaims: () => {
      abandoned = true;
      wakeup.notify();
    },
    ended: run(),
  };
}

interface Step {
  waitMs: number;
  failed: boolean;
}

async function publishOnce(
  ctx: PublishContext,
  { publishNext, failures }: { publishNext: () => Promise<LaneOutcome>; failures: number },
): Promise<Step> {
  const startedAt = performance.now();
  const outcome = await publishNext();
  switch (outcome.outcome) {
    case 'published':
      ctx.log.debug(
        { listings: outcome.results.length, duration_ms: Math.round(performance.now() - startedAt) },
        'batch published',
      );
      return { waitMs: 0, failed: false };
    case 'idle':
      return { waitMs: outcome.waitMs, failed: false };
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
      return { waitMs, failed: true };
    }
  }
}
