import type pg from 'pg';
import { describeError } from '../src/errors.ts';
import type { Logger } from '../src/log.ts';
import { sleep } from '../src/sleep.ts';
import { letSlotAdvance, readSlotHealth, type SlotHealth } from '../src/store/slot-health.ts';

export interface SlotWatch {
  stop(): Promise<void>;
}

const LOOK_MS = 5_000;

/** While the slot keeps more WAL than this back, in bytes, PostgreSQL is asked for a place from which it needs less. */
const KEEP_MAX_BYTES = 33_554_432;

/** While nothing changes, what is wrong is said again this often. */
const REPEAT_MS = 60_000;

const NEW_SLOT = 'a consumer must run: it makes a new slot, and recomputes and publishes everything again';

/** What to do about it, for whoever reads the log. */
const REMEDIES: Record<'filling' | 'lost' | 'missing', string> = {
  filling:
    'find out why the consumer does not confirm (market-sync status, long transactions, locks) before the slot is lost or the disk is full',
  lost: NEW_SLOT,
  missing: NEW_SLOT,
};

/**
 * Keeps the slot from holding more WAL back than it needs. Says so, before it is lost, that it holds more and more (row 15),
 * and that it is gone. Apart from the
 * consumer, so that one that is stalled, absent or another process' own does not keep it quiet.
 */
export function startSlotWatch(
  { pool, log }: { pool: pg.Pool; log: Logger },
  { lookMs = LOOK_MS }: { lookMs?: number } = {},
): SlotWatch {
  const abort = new AbortController();
  const run = async (): Promise<void> => {
    let said: { state: SlotHealth['state']; atMs: number } = { state: 'none', atMs: 0 };
    while (!abort.signal.aborted) {
      try {
        const health = await readSlotHealth(pool);
        if (health.state !== said.state || performance.now() - said.atMs > REPEAT_MS) {
          report(log, { health, before: said.state });
          said = { state: health.state, atMs: performance.now() };
        }
        const { state, retainedWalBytes = 0 } = health;
        if ((state === 'ok' || state === 'filling') && retainedWalBytes > KEEP_MAX_BYTES)
          await letSlotAdvance(pool);
      } catch (error) {
        // Whoever works with PostgreSQL says what is wrong with it; nothing is known of the slot meanwhile.
        log.debug({ error: describeError(error) }, 'the replication slot could not be looked at');
      }
      await sleep(lookMs, abort.signal);
    }
  };
  const ended = run();
  return {
    stop: async () => {
      abort.abort();
      await ended;
    },
  };
}

function report(log: Logger, { health, before }: { health: SlotHealth; before: SlotHealth['state'] }): void {
  const { state, slotName, walStatus, retainedWalBytes, safeWalBytes } = health;
  const fields = {
    slot_name: slotName,
    wal_status: walStatus,
    retained_wal_bytes: retainedWalBytes,
    safe_wal_bytes: safeWalBytes,
  };
  switch (state) {
    case 'filling':
      log.warn({ ...fields, remedy: REMEDIES[state] }, 'the replication slot keeps too much wal back');
      break;
    case 'lost':
      log.error({ ...fields, remedy: REMEDIES[state] }, 'the replication slot is lost');
      break;
    case 'missing':
      log.error({ ...fields, remedy: REMEDIES[state] }, 'the replication slot is missing');
      break;
    case 'ok':
    case 'none':
      if (before !== 'none' && before !== state) log.info(fields, 'the replication slot is well again');
  }
}
