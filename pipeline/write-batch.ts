import type pg from 'pg';
import { crashPoint } from '../src/crash-point.ts';
import { sleep } from '../src/sleep.ts';
import { reconcileBatch, reconcileBookings } from '../src/store/reconcile.ts';
import type { ConsumeContext } from './consume.ts';
import type { Batch } from './dirty.ts';
import { PAUSED_POLL_MS, untilResumed } from './resumed.ts';

const VISIBLE_WAIT_MAX_MS = 50;
const VISIBLE_WARN_AFTER_MS = 5_000;

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
 * paused it waits.
 */
export async function writeBatch(
  ctx: ConsumeContext,
  { control, generation, batch, stopIfNeeded, signal }: BatchWork,
): Promise<{ bookings: number; changed: number }> {
  const { leaseSeconds, batchKeysMax, clock } = ctx;
  let keys = batch.keys;
  const committedAt = batch.oldestCommitMs === undefined ? undefined : new Date(batch.oldestCommitMs);
  let [bookings, changed] = [0, 0];
  const notVisibleSince = performance.now();
  for (let waits = 0, warned = false; ; ) {
    stopIfNeeded();
    await crashPoint('consumer.before_reconcile');
    const outcome = await reconcileBatch(control, {
      generation: generation,
      commitLsn: batch.coversLsn,
      xids: batch.xids,
      keys,
      bookingsMax: batchKeysMax * 2,
      leaseSeconds,
      now: clock(),
      resyncReason: batch.resyncReason,
      committedAt,
      receivedMsAgo: batch.receivedAtMs === undefined ? undefined : performance.now() - batch.receivedAtMs,
    });
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
        const reconciled = await reconcileBookings(control, { bookingIds: chunk, now: clock(), committedAt });
        bookings += chunk.length;
        changed += reconciled.filter((entry) => entry.changed).length;
      }
      keys = { booking: [], location: [], sensor: [], vendor: [], inspection: [] };
      continue;
    }
    if (outcome.outcome === 'paused') {
      // Changes wait in the slot: nothing is confirmed until this batch is written.
      await sleep(PAUSED_POLL_MS, signal);
      continue;
    }
    const waitedMs = performance.now() - notVisibleSince;
    if (waitedMs > VISIBLE_WARN_AFTER_MS && !warned) {
      warned = true;
      ctx.log.warn(
        { waited_ms: Math.round(waitedMs) },
        'a commit that was received is not visible yet; a synchronous standby may be down',
      );
    }
    // It may take as long as a standby is down; what is given up here is redelivered after the next start.
    await sleep(Math.min(2 ** waits, VISIBLE_WAIT_MAX_MS), signal);
    waits += 1;
  }
}
