import type pg from 'pg';
import { describeError } from '../errors.ts';
import type { Logger } from '../log.ts';
import type { Market } from '../mongo.ts';
import { sleep } from '../sleep.ts';
import { lookAtBookings } from './drift-listings.ts';
import type { Finding } from './drift-run.ts';
import {
  hasPassed,
  isFollowed,
  lookAtSnapshots,
  markStream,
  type SnapshotVerdict,
} from './drift-snapshots.ts';
import type { ListingVerdict } from './drift-verdict.ts';
import type { PublishContext } from './publish.ts';
import type { Clock } from './reconcile.ts';

// What differs at one moment may be on its way. It counts as drift when it is the same after the change stream has carried
// everything that was committed at the first look, and once more.

export interface AuditContext {
  pool: pg.Pool;
  market: Market;
  log: Logger;
  clock: Clock;
  publish: PublishContext;
  /** Bookings that one look at the snapshots takes. */
  chunkMax: number;
  /** Snapshots recomputed in one transaction. */
  reconcileMax: number;
  /** Listings written at once. */
  publishMax: number;
  signal: AbortSignal;
  /** Called after each chunk. */
  onProgress?: (progress: { compared: number; total: number | null; found: number }) => void;
}

export type Drift = Finding & { snapshot?: SnapshotVerdict; listing?: ListingVerdict };

/** Looks after the first one; a booking that still changes is left out then. */
const ROUNDS_MAX = 6;

/** How often the same must be seen again. */
const AGREEMENTS = 2;

const SETTLE_MS = 50;
const POLL_MS = 10;
const STREAM_WAIT_MS_MAX = 60_000;

interface Confirmed<Verdict> {
  drift: Verdict[];
  inFlight: Set<string>;
  parked: Set<string>;
}

const isVerdictOf =
  (kind: 'in_flight' | 'parked') =>
  (verdict: { kind: string }): boolean =>
    verdict.kind === kind;

/** What of these verdicts about snapshots is drift. Whatever a change on its way may explain is so only while a consumer follows. */
export async function confirmSnapshots(
  ctx: AuditContext,
  verdicts: readonly SnapshotVerdict[],
): Promise<Confirmed<SnapshotVerdict>> {
  const inFlight = new Set(verdicts.filter(isVerdictOf('in_flight')).map(({ bookingId }) => bookingId));
  const parked = new Set(verdicts.filter(isVerdictOf('parked')).map(({ bookingId }) => bookingId));
  const drift: SnapshotVerdict[] = [];
  let open = new Map(
    verdicts
      .filter(({ bookingId }) => !inFlight.has(bookingId) && !parked.has(bookingId))
      .map((verdict) => [verdict.bookingId, { verdict, agreements: 0 }]),
  );
  for (let round = 1; open.size > 0 && round <= ROUNDS_MAX; round += 1) {
    const needsStream = [...open.values()].some(({ verdict }) => !verdict.certain);
    const followed = needsStream && (await untilStreamed(ctx));
    if (!followed) await sleep(SETTLE_MS, ctx.signal);
    ctx.signal.throwIfAborted();
    const again = await lookAtSnapshots(ctx.pool, { bookingIds: [...open.keys()], now: ctx.clock() });
    const next: typeof open = new Map();
    for (const verdict of again) {
      const before = open.get(verdict.bookingId);
      if (before === undefined) continue;
      if (verdict.kind === 'in_flight') inFlight.add(verdict.bookingId);
      else if (verdict.kind === 'parked') parked.add(verdict.bookingId);
      else if (!verdict.certain && !followed) inFlight.add(verdict.bookingId);
      // Somebody has just written it: it is looked after.
      else if (versionOf(verdict) !== versionOf(before.verdict)) inFlight.add(verdict.bookingId);
      else {
        const same =
          before.verdict.kind === verdict.kind && before.verdict.fingerprint === verdict.fingerprint;
        const agreements = same ? before.agreements + 1 : 0;
        if (agreements >= AGREEMENTS) drift.push(verdict);
        else next.set(verdict.bookingId, { verdict, agreements });
      }
    }
    open = next;
  }
  for (const id of open.keys()) inFlight.add(id);
  return { drift, inFlight, parked };
}

/** The fingerprint begins with epoch and revision. */
const versionOf = ({ fingerprint }: SnapshotVerdict): string => fingerprint.split(' ', 2).join();

/** Waits until everything committed by now is in the snapshots; false when nobody sees to that. */
async function untilStreamed(ctx: AuditContext): Promise<boolean> {
  if (!(await isFollowed(ctx.pool))) return false;
  const mark = await markStream(ctx.pool);
  const deadline = performance.now() + STREAM_WAIT_MS_MAX;
  while (!(await hasPassed(ctx.pool, mark))) {
    ctx.signal.throwIfAborted();
    if (performance.now() > deadline || !(await isFollowed(ctx.pool))) {
      ctx.log.warn(
        { waited_ms: STREAM_WAIT_MS_MAX },
        'the consumer does not follow, what may be in flight is left out',
      );
      return false;
    }
    await sleep(POLL_MS, ctx.signal);
  }
  return true;
}

/** What of these verdicts about listings is drift: seen again, while PostgreSQL knew the same of it before and after. */
export async function confirmListings(
  ctx: AuditContext,
  verdicts: readonly ListingVerdict[],
): Promise<Confirmed<ListingVerdict>> {
  const named = verdicts.filter(({ bookingId }) => bookingId !== null);
  const inFlight = new Set<string>();
  const parked = new Set(named.filter(isVerdictOf('parked')).map((verdict) => verdict.bookingId as string));
  const drift = verdicts.filter(({ bookingId }) => bookingId === null);
  for (const verdict of named) if (verdict.kind === 'in_flight') inFlight.add(verdict.bookingId as string);
  let open = named.filter(({ kind }) => kind !== 'in_flight' && kind !== 'parked');
  for (let round = 1; open.length > 0 && round <= ROUNDS_MAX; round += 1) {
    await sleep(SETTLE_MS, ctx.signal);
    ctx.signal.throwIfAborted();
    const before = new Set(open.map(nameOf));
    const again = await lookAtBookings(ctx, [...new Set(open.map(({ bookingId }) => bookingId as string))]);
    open = [];
    for (const verdict of again) {
      const id = verdict.bookingId as string;
      if (verdict.kind === 'in_flight') inFlight.add(id);
      else if (verdict.kind === 'parked') parked.add(id);
      else if (before.has(nameOf(verdict))) drift.push(verdict);
      else open.push(verdict);
    }
  }
  for (const { bookingId } of open) inFlight.add(bookingId as string);
  return { drift, inFlight, parked };
}

const nameOf = ({ kind, bookingId, listingId, document, fields }: ListingVerdict): string =>
  [kind, bookingId, listingId, String(document?.epoch), String(document?.revision), fields.join()].join(' ');

/** What must not keep an audit from its end, and is said. */
export const logged =
  (log: Logger, message: string) =>
  (error: unknown): void =>
    log.warn({ error: describeError(error) }, message);
