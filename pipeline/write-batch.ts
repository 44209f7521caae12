import type pg from 'pg';
import { crashPoint } from '../src/crash-point.ts';
import { sqlStateOf } from '../src/postgres.ts';
import { sleep } from '../src/sleep.ts';
import { type ClaimFor, reconcileAndClaim, reconcileBatch } from '../src/store/reconcile.ts';
import type { ClaimedListing } from '../src/store/outbox.ts';
import type { ConsumeContext } from './consume.ts';
import type { Batch } from './dirty.ts';
import { PAUSED_POLL_MS, untilResumed } from './resumed.ts';

const WARN_AFTER_MS = 5_000;

/** What is waited for, and the longest between two attempts. */
const NOT_VISIBLE = {
  reason: 'a commit that was received is not visible yet; a synchronous standby may be down',
  waitMaxMs: 50,
};
/** An attempt takes its 400 ms, and does for nothing what comes before the lock. */
const LOCKED = {
  reason: 'a lock that a recompute needs is held; the transaction that has it keeps changes back',
  waitMaxMs: 500,
};

const LOCK_NOT_AVAILABLE = '55P03';

export interface BatchWork {
  /** The consumer's own connection. */
  control: pg.ClientBase;
  generation: number;
  batch: Batch;
  /** Throws when the session has failed or is to stop. Nothing half-done is left: what was not recorded is redelivered. */
  stopIfNeeded: () => void;
  signal: AbortSignal;
}

/**
 * Writes snapshots and checkpoint in one transaction, as soon as everything covered is visible (D3a). A batch that
 * fans out to too many bookings is recomputed in chunks first, and the checkpoint moves at the end. While the pipeline is
 * paused it waits, and while a table is locked it tries again and again.
 */
export async function writeBatch(
  ctx: ConsumeContext,
  { control, generation, batch, stopIfNeeded, signal }: BatchWork,
): Promise<{ bookings: number; changed: number }> {
  const { leaseSeconds, batchKeysMax, clock } = ctx;
  let keys = batch.keys;
  const committedAt = batch.oldestCommitMs === undefined ? undefined : new Date(batch.oldestCommitMs);
  let [bookings, changed] = [0, 0];
  const patience = new Patience(ctx, signal);
  const untilUnlocked = async <Outcome extends { claims: ClaimedListing[] }>(
    recompute: (claimFor: ClaimFor | undefined) => Promise<Outcome>,
  ): Promise<Outcome> => {
    for (;;) {
      try {
        return await claiming(ctx, recompute);
      } catch (error) {
        if (sqlStateOf(error) !== LOCK_NOT_AVAILABLE) throw error;
        await patience.wait(LOCKED);
        stopIfNeeded();
      }
    }
  };
  for (;;) {
    stopIfNeeded();
    await crashPoint('consumer.before_reconcile');
    const outcome = await untilUnlocked((claimFor) =>
      reconcileBatch(control, {
        claimFor,
        generation,
        commitLsn: batch.coversLsn,
        xids: batch.xids,
        keys,
        bookingsMax: batchKeysMax * 2,
        leaseSeconds,
        now: clock(),
        resyncReason: batch.resyncReason,
        committedAt,
        receivedMsAgo: batch.receivedAtMs === undefined ? undefined : performance.now() - batch.receivedAtMs,
      }),
    );
    if (outcome.outcome === 'done') {
      return { bookings: bookings + outcome.bookings, changed: changed + outcome.changed };
    }
    if (outcome.outcome === 'too_many') {
      // Visibility is proved: what is read from now on is at least as new. The checkpoint moves at the end.
      for (let first = 0; first < outcome.bookingIds.length; first += batchKeysMax) {
        // The pause is asked for here, not by the chunk.
        await untilResumed(control, { stopIfNeeded, signal });
        await crashPoint('consumer.between_chunks');
        const chunk = outcome.bookingIds.slice(first, first + batchKeysMax);
        const reconciled = await untilUnlocked((claimFor) =>
          reconcileAndClaim(control, { generation, bookingIds: chunk, now: clock(), committedAt, claimFor }),
        );
        bookings += chunk.length;
        changed += reconciled.changed;
      }
      keys = { booking: [], location: [], sensor: [], vendor: [], inspection: [] };
      continue;
    }
    if (outcome.outcome === 'paused') {
      // Changes wait in the slot: nothing is confirmed until this batch is written.
      await sleep(PAUSED_POLL_MS, signal);
      continue;
    }
    // It may take as long as a standby is down; what is given up here is redelivered after the next start.
    await patience.wait(NOT_VISIBLE);
  }
}

/** Waits a little longer each time, and says once what for when that takes long. */
class Patience {
  readonly #ctx: ConsumeContext;
  readonly #signal: AbortSignal;
  readonly #sinceMs = performance.now();
  #waits = 0;
  #warned = false;

  constructor(ctx: ConsumeContext, signal: AbortSignal) {
    this.#ctx = ctx;
    this.#signal = signal;
  }

  async wait({ reason, waitMaxMs }: { reason: string; waitMaxMs: number }): Promise<void> {
    const waitedMs = performance.now() - this.#sinceMs;
    if (waitedMs > WARN_AFTER_MS && !this.#warned) {
      this.#warned = true;
      this.#ctx.log.warn({ waited_ms: Math.round(waitedMs) }, reason);
    }
    await sleep(Math.min(2 ** this.#waits, waitMaxMs), this.#signal);
    this.#waits += 1;
  }
}

/** A recompute that claims what it changes for a publisher of this process, if one has time, and hands it over once it is committed. */
async function claiming<Outcome extends { claims: ClaimedListing[] }>(
  { reserve }: ConsumeContext,
  recompute: (claimFor: ClaimFor | undefined) => Promise<Outcome>,
): Promise<Outcome> {
  const reservation = reserve?.();
  try {
    const outcome = await recompute(reservation);
    if (outcome.claims.length > 0) reservation?.publish(outcome.claims);
    else reservation?.cancel({ uncertain: false });
    return outcome;
  } catch (error) {
    reservation?.cancel({ uncertain: sqlStateOf(error) !== LOCK_NOT_AVAILABLE });
    throw error;
  }
}
