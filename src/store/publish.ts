import { hostname } from 'node:os';
import { setTimeout as delay } from 'node:timers/promises';
import type pg from 'pg';
import type { Config } from '../config.ts';
import { crashPoint } from '../crash-point.ts';
import { describeError } from '../errors.ts';
import type { Logger } from '../log.ts';
import type { Market } from '../mongo.ts';
import { type Attempted, writeClaimed } from './claimed-listings.ts';
import { forgetHistoryCheck, requireKnownVersions } from './history.ts';
import type { ListingVersion } from './listings.ts';
import {
  type ClaimedListing,
  claimListings,
  findPublishable,
  markPublished,
  type Published,
  recordFailure,
  releaseClaims,
} from './outbox.ts';

export interface PublishContext {
  pool: pg.Pool;
  market: Market;
  log: Logger;
  /** Names this publisher in its claims. */
  publisher: string;
  leaseSeconds: number;
  attemptsMax: number;
  /** Random number in [0, 1), for the jitter of retries. */
  random: () => number;
}

/** Names this process in leases and claims, for other processes and for people. */
export const processName = (): string => `${hostname()}:${process.pid}`;

/** The publishing part of a process, from its settings. */
export function publishContext(parts: {
  config: Config;
  pool: pg.Pool;
  market: Market;
  log: Logger;
  random: () => number;
  /** Tells the publishers of one process apart. */
  role: 'pipeline' | 'sweep' | 'api';
}): PublishContext {
  return {
    pool: parts.pool,
    market: parts.market,
    log: parts.log,
    publisher: `${processName()}:${parts.role}`,
    leaseSeconds: parts.config.publishLeaseSeconds,
    attemptsMax: parts.config.publishAttemptsMax,
    random: parts.random,
  };
}

export type PublishResult =
  | { bookingId: string; result: 'published'; listingId: string; revision: number }
  | { bookingId: string; result: 'failed' | 'parked'; error: string };

export type PublishOutcome =
  /** Nothing was there to publish. */
  | { outcome: 'idle' }
  /** Every claimed snapshot was dealt with on its own. */
  | { outcome: 'published'; results: PublishResult[] }
  /** MongoDB is not to be had: the claims were given back, nothing is lost, try again later. */
  | { outcome: 'unavailable'; error: unknown; claimed: number };

/** What became of a batch that there was. */
export type BatchPublished = Exclude<PublishOutcome, { outcome: 'idle' }>;

const OTHER_HISTORY = 'MongoDB has a version of another history; everything is being published again';

const RETRY_BASE_MS = 500;
const RETRY_CAP_MS = 60_000;

/** How long `publishBookings` waits for another publisher to finish with a snapshot. */
const HELD_WAIT_MS = 4_000;

/**
 * Publishes these bookings and no others, also when they are published already, parked or waiting for their next
 * attempt. One that another publisher holds right now is waited for, up to four seconds, and then left to it: it is in no
 * result, and neither is one without a snapshot.
 */
export async function publishBookings(
  ctx: PublishContext,
  bookingIds: readonly string[],
): Promise<BatchPublished> {
  const deadline = performance.now() + HELD_WAIT_MS;
  const results: PublishResult[] = [];
  let rest = [...bookingIds];
  for (;;) {
    const outcome = await publishBatch(ctx, { limit: rest.length, bookingIds: rest });
    if (outcome.outcome === 'unavailable') return outcome;
    if (outcome.outcome === 'published') {
      results.push(...outcome.results);
      const done = new Set(outcome.results.map((result) => result.bookingId));
      rest = rest.filter((id) => !done.has(id));
    }
    rest = rest.length === 0 ? [] : await findPublishable(ctx.pool, rest);
    if (rest.length === 0 || performance.now() > deadline) return { outcome: 'published', results };
    await delay(5);
  }
}

interface PublishRequest {
  limit: number;
  bookingIds?: string[];
  /** `live`: nothing that a backfill or a resync alone has made; `background`: nothing else. */
  only?: 'live' | 'background';
  /** Called once the batch is claimed, before it is written. */
  onClaimed?: (count: number) => void;
}

/**
 * Claims a batch of snapshots that are due (with `bookingIds`: any of those), writes their listings and marks what
 * MongoDB has confirmed.
 *
 * A version counts as published only after MongoDB acknowledged it with `w: "majority"` (I2); whatever fails in between
 * leads to the same write again, which the guard of (epoch, revision) absorbs (I3, I4).
 */
export async function publishBatch(ctx: PublishContext, request: PublishRequest): Promise<PublishOutcome> {
  return releasingClaims(ctx, request.bookingIds, () => claimAndPublish(ctx, request));
}

/** As `publishBatch`, of snapshots that are claimed for this publisher already. */
export async function publishClaimed(
  ctx: PublishContext,
  claims: readonly ClaimedListing[],
): Promise<BatchPublished> {
  return releasingClaims(ctx, undefined, () => writeAndMark(ctx, claims));
}

/** What is claimed when it fails, and what an answer that was lost may have claimed, would wait for the end of its lease. */
async function releasingClaims<Outcome>(
  ctx: PublishContext,
  bookingIds: string[] | undefined,
  work: () => Promise<Outcome>,
): Promise<Outcome> {
  try {
    return await work();
  } catch (error) {
    const { publisher } = ctx;
    await releaseClaims(ctx.pool, { publisher, ...(bookingIds === undefined ? {} : { bookingIds }) }).catch(
      (failure: unknown) => ctx.log.debug({ error: describeError(failure) }, 'claims wait for their lease'),
    );
    throw error;
  }
}

async function claimAndPublish(
  ctx: PublishContext,
  { limit, bookingIds, onClaimed, only }: PublishRequest,
): Promise<PublishOutcome> {
  await crashPoint('publisher.before_claim');
  const claims = await claimListings(ctx.pool, {
    publisher: ctx.publisher,
    leaseSeconds: ctx.leaseSeconds,
    limit,
    only,
    ...(bookingIds === undefined ? {} : { bookingIds }),
  });
  if (claims.length === 0) return { outcome: 'idle' };
  onClaimed?.(claims.length);
  return writeAndMark(ctx, claims);
}

async function writeAndMark(ctx: PublishContext, claims: readonly ClaimedListing[]): Promise<BatchPublished> {
  await crashPoint('publisher.claimed');
  const attempted = await writeClaimed(ctx, claims);
  const repliedAtMs = performance.now();

  const unavailable = findOutage(attempted);
  const undone = await findUndone(ctx, attempted);
  const results = await settle(ctx, { attempted, undone, repliedAtMs });
  await crashPoint('publisher.marked');
  if (unavailable !== undefined) {
    return { outcome: 'unavailable', error: unavailable, claimed: claims.length };
  }
  return { outcome: 'published', results };
}

/** An error that says something about MongoDB and nothing about the booking. */
function findOutage(attempted: Attempted[]): unknown {
  for (const { outcome } of attempted) {
    if (outcome.result === 'failed' && outcome.kind !== 'poison') return outcome.error;
  }
  return undefined;
}

/**
 * The bookings whose newer version in MongoDB this database has never made, because it was put back to an older state.
 * When there are any, history is cut by now: they are published again in a new epoch (row 13).
 */
async function findUndone(ctx: PublishContext, attempted: Attempted[]): Promise<Set<string>> {
  const superseded = attempted.filter(({ outcome }) => outcome.result === 'superseded');
  if (superseded.length === 0) return new Set();
  return requireKnownVersions(
    ctx,
    superseded.map(({ bookingId }) => bookingId),
  );
}

interface Reply {
  attempted: Attempted[];
  undone: Set<string>;
  repliedAtMs: number;
}

/**
 * Marks what was confirmed, gives back what MongoDB could not take or what was undone, counts what failed for reasons of
 * its own.
 */
async function settle(
  ctx: PublishContext,
  { attempted, undone, repliedAtMs }: Reply,
): Promise<PublishResult[]> {
  const published: (Published & { result: 'published' })[] = [];
  const failed: PublishResult[] = [];
  const returned: string[] = [];
  for (const { outcome, ...version } of attempted) {
    const { bookingId } = version;
    if (undone.has(bookingId)) {
      returned.push(bookingId);
      failed.push({ bookingId, result: 'failed', error: OTHER_HISTORY });
    } else if (outcome.result !== 'failed') {
      published.push({ ...version, result: 'published', listingId: outcome.listingId });
    } else if (outcome.kind === 'poison') {
      failed.push(await recordPoison(ctx, version, outcome.error));
    } else {
      returned.push(bookingId);
    }
  }
  if (published.length > 0) await crashPoint('publisher.written');
  const unknown = published.length > 0 ? await mark(ctx, { published, repliedAtMs }) : new Set<string>();
  for (const bookingId of unknown) failed.push({ bookingId, result: 'failed', error: OTHER_HISTORY });
  returned.push(...unknown);
  if (returned.length > 0) await releaseClaims(ctx.pool, { publisher: ctx.publisher, bookingIds: returned });
  return [...published.filter(({ bookingId }) => !unknown.has(bookingId)), ...failed];
}

/**
 * Marks what MongoDB has confirmed. Answers the bookings whose version this database does not know: it was put back, or
 * another has taken over, between claim and mark. History is cut for them, now or, should MongoDB fail, once it answers.
 */
async function mark(
  ctx: PublishContext,
  { published, repliedAtMs }: { published: Published[]; repliedAtMs: number },
): Promise<Set<string>> {
  const unknown = await markPublished(ctx.pool, published, { repliedMsAgo: performance.now() - repliedAtMs });
  if (unknown.length > 0) {
    await forgetHistoryCheck(ctx.pool);
    await requireKnownVersions(ctx, unknown);
  }
  return new Set(unknown);
}

async function recordPoison(
  ctx: PublishContext,
  { bookingId, epoch, revision }: ListingVersion,
  cause: unknown,
): Promise<PublishResult> {
  const error = describeError(cause);
  await crashPoint('publisher.before_failure');
  const parked = await recordFailure(ctx.pool, {
    bookingId,
    epoch,
    revision,
    error,
    retryAfterMs: RETRY_BASE_MS,
    attemptsMax: ctx.attemptsMax,
  });
  ctx.log.warn(
    { booking_id: bookingId, error, parked },
    parked ? 'snapshot parked' : 'publishing a snapshot failed',
  );
  return { bookingId, result: parked ? 'parked' : 'failed', error };
}

/** Capped exponential backoff with jitter: between half and all of what the attempt's number calls for. */
export function retryDelayMs(attempt: number, random: () => number): number {
  const full = Math.min(RETRY_CAP_MS, RETRY_BASE_MS * 2 ** Math.min(attempt, 20));
  return full * (0.5 + random() / 2);
}
