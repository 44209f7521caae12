import { createRemoteJWKSet, errors, type JWTPayload, jwtVerify, type RemoteJWKSet } from 'jose';
import { z } from 'zod';
import { ROLES, type Role } from '../store/api-keys.ts';
import type { Caller } from './caller.ts';
import { keyRefused, ProblemError, unavailable } from './problem.ts';

/** Whose tokens are believed. All of it is pinned: a token decides nothing about how it is checked. */
export interface OidcSettings {
  issuer: string;
  audience: string;
  /** Never `none` and never a symmetric one: the settings take no such name. */
  algorithms: readonly string[];
  /** A claim, or the path of one (`realm_access.roles`), that holds a role or a list of them. */
  roleClaim: string;
}

const CLOCK_TOLERANCE_SECONDS = 30;
const FETCH_TIMEOUT_MS = 3_000;
/** The issuer says where its keys are; this often it is asked again. */
const DISCOVERY_FRESH_MS = 60 * 60_000;
/** While the issuer cannot be had it is not asked for each call. */
const RETRY_AFTER_MS = 2_000;
const KEYS_FRESH_MS = 10 * 60_000;
/** Forged key ids must not make us ask the issuer for each of them. */
const UNKNOWN_KEY_COOLDOWN_MS = 30_000;

const discoverySchema = z.object({ issuer: z.string(), jwks_uri: z.url() });
const subjectSchema = z.string().regex(/^[\x20-\x7e]{1,255}$/);

/** Whether a key has the form of a signed token. */
export const looksLikeToken = (text: string): boolean => /^[\w-]+\.[\w-]+\.[\w-]*$/.test(text);

/**
 * Checks tokens of one issuer (OpenID Connect): signature, issuer, audience, times, and which role they carry. Throws
 * `key_refused`, `role_refused` for a token without a role, and `identity_unavailable` while the issuer's keys cannot
 * be had.
 */
export function createTokenCheck(settings: OidcSettings): (token: string) => Promise<Caller> {
  const discover = createDiscovery(settings.issuer);
  return async (token) => {
    const keys = await discover();
    const { payload } = await jwtVerify(token, keys, {
      issuer: settings.issuer,
      audience: settings.audience,
      algorithms: [...settings.algorithms],
      clockTolerance: CLOCK_TOLERANCE_SECONDS,
      requiredClaims: ['exp', 'sub'],
    }).catch((cause: unknown) => {
      throw isOutage(cause) ? keysUnavailable(cause) : keyRefused(cause);
    });
    const subject = subjectSchema.safeParse(payload.sub);
    if (!subject.success) throw keyRefused();
    return {
      name: `oidc:${subject.data}`,
      role: requireTokenRole(payload, settings.roleClaim),
      via: 'oidc',
      expiresAt: payload.exp === undefined ? undefined : new Date(payload.exp * 1000),
    };
  };
}

/** Everything else is the token's fault, also what nobody foresaw: in doubt it is not believed. */
const isOutage = (error: unknown): boolean =>
  error instanceof errors.JWKSTimeout ||
  error instanceof errors.JWKSInvalid ||
  // A fetch that failed, and an answer that is none.
  (error instanceof TypeError && error.message === 'fetch failed') ||
  (error instanceof errors.JOSEError && error.code === 'ERR_JOSE_GENERIC');

const keysUnavailable = (cause: unknown): ProblemError =>
  unavailable('identity_unavailable', {
    detail: 'The keys of OIDC_ISSUER cannot be had at the moment.',
    cause,
  });

/** The highest role that the claim holds. */
function requireTokenRole(payload: JWTPayload, claim: string): Role {
  const held = readClaim(payload, claim);
  const names = typeof held === 'string' ? held.split(' ') : Array.isArray(held) ? held : [];
  const role = ROLES.findLast((known) => names.includes(known) || names.includes(`market_sync_${known}`));
  if (role !== undefined) return role;
  throw new ProblemError('role_refused', {
    detail: `The token carries no role: its claim ${claim} must hold reader, operator or admin.`,
  });
}

function readClaim(payload: JWTPayload, claim: string): unknown {
  if (Object.hasOwn(payload, claim)) return payload[claim];
  let value: unknown = payload;
  for (const name of claim.split('.')) {
    if (typeof value !== 'object' || value === null || !Object.hasOwn(value, name)) return undefined;
    value = (value as Record<string, unknown>)[name];
  }
  return value;
}

/** The issuer's keys, as its own description says where they are. */
function createDiscovery(issuer: string): () => Promise<RemoteJWKSet> {
  let keys: RemoteJWKSet | undefined;
  let askedAt = Number.NEGATIVE_INFINITY;
  let failure: unknown;
  let underWay: Promise<void> | undefined;

  const ask = async (): Promise<void> => {
    try {
      const url = await discoverKeysUrl(issuer);
      keys = createRemoteJWKSet(url, {
        timeoutDuration: FETCH_TIMEOUT_MS,
        cooldownDuration: UNKNOWN_KEY_COOLDOWN_MS,
        cacheMaxAge: KEYS_FRESH_MS,
      });
      failure = undefined;
    } catch (error) {
      failure = error;
    } finally {
      askedAt = performance.now();
      underWay = undefined;
    }
  };
  return async () => {
    const ageMs = performance.now() - askedAt;
    const isDue = failure === undefined ? ageMs > DISCOVERY_FRESH_MS : ageMs > RETRY_AFTER_MS;
    if (isDue) {
      underWay ??= ask();
      await underWay;
    }
    // Keys that were found once go on being used while the issuer cannot be had.
    if (keys === undefined) throw keysUnavailable(failure);
    return keys;
  };
}

async function discoverKeysUrl(issuer: string): Promise<URL> {
  const answer = await fetch(`${issuer.replace(/\/$/, '')}/.well-known/openid-configuration`, {
    redirect: 'error',
    signal: AbortSignal.timeout(FETCH_TIMEOUT_MS),
    headers: { accept: 'application/json' },
  });
  if (!answer.ok) throw new Error(`the issuer's description answers ${answer.status}`);
  const found = discoverySchema.parse(await answer.json());
  if (found.issuer !== issuer) throw new Error(`the issuer calls itself ${found.issuer}`);
  const url = new URL(found.jwks_uri);
  const isPlain = url.protocol === 'http:' && new URL(issuer).protocol === 'http:';
  if (url.protocol !== 'https:' && !isPlain) throw new Error("the issuer's keys are not served over https");
  return url;
}
