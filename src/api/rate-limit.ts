import { isIPv6 } from 'node:net';
import type { Context, MiddlewareHandler } from 'hono';
import { RateLimiterMemory, RateLimiterRes } from 'rate-limiter-flexible';
import type { ApiEnv } from './context.ts';
import { ProblemError } from './problem.ts';

export interface RateLimits {
  /** Calls a second that one caller may make on average. */
  perSecond: number;
  /** Calls that one caller may make at once. */
  burst: number;
  /** Wrong keys that one address may send a minute before every further one is refused unlooked at. */
  failuresPerMinute: number;
}

/**
 * Limits each caller, by name, to `burst` calls in the time in which `perSecond` allows them. Every answer says how many
 * are left (the draft standard's `RateLimit` headers). In the memory of this process: several APIs allow several times as
 * much.
 */
export function limitRate({ perSecond, burst }: RateLimits): MiddlewareHandler<ApiEnv> {
  const windowSeconds = burst / perSecond;
  const limiter = new RateLimiterMemory({ points: burst, duration: windowSeconds });
  const policy = `"caller";q=${burst};w=${Math.ceil(windowSeconds)}`;
  return async (c, next) => {
    const caller = c.get('caller');
    if (caller !== undefined) {
      const { counted, allowed } = await consume(limiter, caller.name);
      c.header('ratelimit-policy', policy);
      c.header('ratelimit', `"caller";r=${counted.remainingPoints};t=${secondsLeft(counted)}`);
      if (!allowed) {
        throw rateLimited(counted, 'Too many calls with this key.');
      }
    }
    await next();
  };
}

/** Counts wrong keys by the address they come from. */
export interface FailureLimit {
  /** Throws `rate_limited` when this address has sent too many. */
  check(c: Context<ApiEnv>): Promise<void>;
  count(c: Context<ApiEnv>): Promise<void>;
}

export function createFailureLimit({ failuresPerMinute }: RateLimits): FailureLimit {
  const limiter = new RateLimiterMemory({ points: failuresPerMinute, duration: 60 });
  return {
    async check(c) {
      const counted = await limiter.get(addressOf(c));
      if (counted !== null && counted.consumedPoints >= failuresPerMinute) {
        throw rateLimited(counted, 'Too many wrong keys from this address.');
      }
    },
    async count(c) {
      await consume(limiter, addressOf(c));
    },
  };
}

async function consume(
  limiter: RateLimiterMemory,
  name: string,
): Promise<{ counted: RateLimiterRes; allowed: boolean }> {
  try {
    return { counted: await limiter.consume(name), allowed: true };
  } catch (refused) {
    if (refused instanceof RateLimiterRes) return { counted: refused, allowed: false };
    throw refused;
  }
}

const secondsLeft = ({ msBeforeNext }: RateLimiterRes): number => Math.max(1, Math.ceil(msBeforeNext / 1000));

function rateLimited(counted: RateLimiterRes, what: string): ProblemError {
  const seconds = secondsLeft(counted);
  return new ProblemError('rate_limited', {
    detail: `${what} Try again in ${seconds} s.`,
    headers: { 'retry-after': String(seconds) },
  });
}

/**
 * Where the call comes from: the connection, not what a header says. Of IPv6 the network, which one caller has whole.
 * Behind a proxy all calls come from the proxy.
 */
export function addressOf(c: Context<ApiEnv>): string {
  const env = c.env as { incoming?: { socket?: { remoteAddress?: string } } } | undefined;
  const address = env?.incoming?.socket?.remoteAddress ?? 'unknown';
  return isIPv6(address) && !address.startsWith('::ffff:') ? networkOf(address) : address;
}

function networkOf(address: string): string {
  const NETWORK_GROUPS = 4; // of 16 bits
  const [head = '', tail] = address.split('::');
  const left = head.split(':').filter((group) => group !== '');
  const right = tail?.split(':').filter((group) => group !== '') ?? [];
  const groups = [...left, ...Array<string>(8 - left.length - right.length).fill('0'), ...right];
  return groups.slice(0, NETWORK_GROUPS).join(':');
}
