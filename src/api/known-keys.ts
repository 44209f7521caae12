import { timingSafeEqual } from 'node:crypto';
import type pg from 'pg';
import { describeError } from '../errors.ts';
import type { Logger } from '../log.ts';
import { classifyPostgresError } from '../postgres.ts';
import {
  type ActiveKey,
  findActiveKey,
  hashSecret,
  noteUse,
  parseKey,
  wereKeysMade,
} from '../store/api-keys.ts';
import { unavailable } from './problem.ts';
import { LateError, within } from './time-limit.ts';

/** A key is looked up again after this long: a revoked one works that much longer. */
const FRESH_MS = 5_000;
/** While PostgreSQL cannot be had, whoever called within this time may still call, to hear that it cannot be had. */
const STALE_MS = 5 * 60_000;
/** How long a call waits for PostgreSQL when it has a stale answer, and when it has none. */
const WAIT_WITH_STALE_MS = 300;
const WAIT_MS = 2_000;
const KEYS_MAX = 1_000;
const USE_NOTED_MS = 60_000;

/** What no secret has as its hash; compared with where there is no key, so that this takes no less time. */
const NO_HASH = Buffer.alloc(32);

type Entry = { key: ActiveKey; lookedUpAt: number; usedAt: number | undefined };

/** The keys of the table `api_key`, through a small cache. */
export interface KnownKeys {
  /** The key that this text is; undefined when it is none. Throws `database_unavailable` when nobody can say. */
  verify(text: string): Promise<ActiveKey | undefined>;
  /** Whether this text was a valid key a short while ago. */
  remembers(text: string): boolean;
  /** Whether there was ever a key. While PostgreSQL cannot be had: as far as known. */
  anyMade(): Promise<boolean>;
}

export function createKnownKeys({ pool, log }: { pool: pg.Pool; log: Logger }): KnownKeys {
  const entries = new Map<string, Entry>();
  const lookUp = shareByKey(async (prefix) => {
    const key = await findActiveKey(pool, prefix);
    const before = entries.get(prefix);
    entries.delete(prefix);
    if (key === undefined) return undefined;
    const entry: Entry = { key, lookedUpAt: performance.now(), usedAt: before?.usedAt };
    entries.set(prefix, entry);
    if (entries.size > KEYS_MAX) entries.delete(entries.keys().next().value ?? prefix);
    return entry;
  });

  /** What was looked up no longer ago than this, and has not expired since. */
  const recall = (prefix: string, withinMs: number): Entry | undefined => {
    const entry = entries.get(prefix);
    if (entry === undefined) return undefined;
    const ageMs = performance.now() - entry.lookedUpAt;
    return ageMs <= withinMs && ageMs < (entry.key.expiresInMs ?? Infinity) ? entry : undefined;
  };

  const find = async (prefix: string): Promise<Entry | undefined> => {
    const fresh = recall(prefix, FRESH_MS);
    if (fresh !== undefined) return fresh;
    const stale = recall(prefix, STALE_MS);
    try {
      return await within(stale === undefined ? WAIT_MS : WAIT_WITH_STALE_MS, lookUp(prefix));
    } catch (cause) {
      if (!(cause instanceof LateError) && classifyPostgresError(cause) !== 'retryable') throw cause;
      if (stale !== undefined) return stale;
      throw unavailable('database_unavailable', {
        detail: 'The key cannot be checked: PostgreSQL cannot be reached, or is too busy, at the moment.',
        cause,
      });
    }
  };

  const noteUsed = (prefix: string, entry: Entry): void => {
    const now = performance.now();
    if (entry.usedAt !== undefined && now - entry.usedAt < USE_NOTED_MS) return;
    entry.usedAt = now;
    // Nobody waits for it, and no call fails by it.
    noteUse(pool, prefix).catch((error: unknown) =>
      log.debug({ error: describeError(error) }, 'use of an api key not noted'),
    );
  };

  return {
    async verify(text) {
      const { prefix, secret } = parseKey(text) ?? { prefix: '', secret: text };
      const hash = hashSecret(secret);
      const entry = prefix === '' ? undefined : await find(prefix);
      if (!timingSafeEqual(hash, entry?.key.secretHash ?? NO_HASH) || entry === undefined) return undefined;
      noteUsed(prefix, entry);
      return entry.key;
    },
    remembers(text) {
      const parsed = parseKey(text);
      const entry = parsed && recall(parsed.prefix, STALE_MS);
      return (
        parsed !== undefined &&
        entry !== undefined &&
        timingSafeEqual(hashSecret(parsed.secret), entry.key.secretHash)
      );
    },
    anyMade: createAnyMade({ pool, log }),
  };
}

/** Once there was a key, calls need one until the process ends: revoking the last one must not open the API. */
function createAnyMade({ pool, log }: { pool: pg.Pool; log: Logger }): () => Promise<boolean> {
  let found = false;
  let askedAt = Number.NEGATIVE_INFINITY;
  const ask = shareByKey(async () => {
    found ||= await wereKeysMade(pool);
  });
  return async () => {
    if (found || performance.now() - askedAt < FRESH_MS) return found;
    askedAt = performance.now();
    await within(WAIT_WITH_STALE_MS, ask('')).catch((error: unknown) =>
      log.debug({ error: describeError(error) }, 'whether there are api keys cannot be asked'),
    );
    return found;
  };
}

/** Those who ask for the same while it is under way share one answer. */
function shareByKey<Value>(ask: (key: string) => Promise<Value>): (key: string) => Promise<Value> {
  const underWay = new Map<string, Promise<Value>>();
  return (key) => {
    const known = underWay.get(key);
    if (known !== undefined) return known;
    const asked = ask(key).finally(() => underWay.delete(key));
    underWay.set(key, asked);
    // Whoever gave up waiting does not hear of its failure.
    asked.catch(() => undefined);
    return asked;
  };
}
