import type pg from 'pg';
import { describeError, FencedError } from '../src/errors.ts';
import type { Logger } from '../src/log.ts';
import { classifyPostgresError, sqlStateOf } from '../src/postgres.ts';
import { sleep } from '../src/sleep.ts';
import type { Clock } from '../src/store/reconcile.ts';
import type { Reservation } from './direct-lanes.ts';
import { explainFatal } from './explain-fatal.ts';
import { outageDelayMs } from './outage-delay.ts';
import { ConsumerSession } from './session.ts';

export interface ConsumeContext {
  pool: pg.Pool;
  databaseUrl: string;
  log: Logger;
  slotName: string;
  /** Whether standbys are to carry the slot over, where PostgreSQL can (17 and later). */
  slotFailover: boolean;
  /** Names this consumer to people and to others that want its place. */
  holder: string;
  leaseSeconds: number;
  /** Bookings, by estimate, that one reconcile takes. */
  batchKeysMax: number;
  /** Dirty keys held before reading pauses (I9). */
  pendingKeysMax: number;
  clock: Clock;
  /** The highest epoch that MongoDB has a listing of, 0 for none: a new history begins above it. */
  readMarketEpoch: () => Promise<number>;
  random: () => number;
  /** A publisher of this process that takes what is changed; undefined while none can. */
  reserve?: () => Reservation | undefined;
  /** Called when nothing that was sent in the name of an earlier generation of this process can commit any more. */
  onFenced?: () => void;
  /** How often capture and the source tables are looked at, in milliseconds; 5,000 unless a test is in a hurry. */
  checkIntervalMs?: number;
  /** Called after each batch; for tests and metrics. */
  onBatch?: (batch: BatchReport) => void;
}

export interface BatchReport {
  keys: number;
  bookings: number;
  changed: number;
  /** From the commit of the oldest transaction to now, by this machine's clock. */
  lagMs: number | undefined;
  durationMs: number;
}

/** `standby`: another consumer has the place. `active`: this one streams. */
export type ConsumerState = 'starting' | 'standby' | 'active' | 'stopped';

export interface Consumer {
  readonly state: ConsumerState;
  /** Settles when the consumer has ended: after `stop()`, or rejected with a fatal error. */
  ended: Promise<void>;
  stop(): Promise<void>;
}

/**
 * Runs the one consumer (D11): takes the place, streams the slot, reconciles, moves the checkpoint, confirms the slot.
 * Comes back by itself after every retryable failure; waits as a standby while another consumer works (I6).
 */
export function startConsumer(ctx: ConsumeContext): Consumer {
  const abort = new AbortController();
  let state: ConsumerState = 'starting';
  const run = async (): Promise<void> => {
    for (let attempt = 0; !abort.signal.aborted; ) {
      try {
        const session = new ConsumerSession(ctx, abort.signal, (next) => {
          state = next;
          if (next === 'active') attempt = 0;
        });
        await session.run();
      } catch (error) {
        if (abort.signal.aborted) break;
        state = 'starting';
        if (error instanceof FencedError || sqlStateOf(error) === 'MS001') {
          ctx.log.warn({ holder: ctx.holder }, 'another consumer has taken over');
        } else if (classifyPostgresError(error) === 'retryable') {
          ctx.log.warn({ error: describeError(error), attempt }, 'consumer interrupted, coming back');
        } else {
          throw await explainFatal(ctx.pool, error);
        }
        await sleep(outageDelayMs(attempt, ctx.random), abort.signal);
        attempt += 1;
      }
    }
    state = 'stopped';
  };
  const ended = run();
  return {
    get state() {
      return state;
    },
    ended,
    stop: async () => {
      abort.abort();
      await ended;
    },
  };
}
