import { createHash, timingSafeEqual } from 'node:crypto';
import type { Context, MiddlewareHandler } from 'hono';
import type { Caller } from './caller.ts';
import type { ApiContext, ApiEnv } from './context.ts';
import { createKnownKeys } from './known-keys.ts';
import { createTokenCheck, looksLikeToken } from './oidc.ts';
import { keyRefused, ProblemError } from './problem.ts';
import { addressOf, createFailureLimit } from './rate-limit.ts';

/** What can be had without a key: pages and docs, which say nothing of this installation, and the health of the process. */
const OPEN_PATHS = new Set(['/', '/healthz', '/readyz', '/openapi.json', '/docs']);
const OPEN_FOLDERS = ['/docs/', '/page/'];
export const isOpen = (path: string): boolean =>
  OPEN_PATHS.has(path) || OPEN_FOLDERS.some((folder) => path.startsWith(folder));

/** A call from this machine, where no key is configured. */
const LOCAL: Caller = { name: 'local', role: 'admin', via: 'local', expiresAt: undefined };

/** A call with the key of the setting. */
const SETTING: Caller = { name: 'API_KEY', role: 'admin', via: 'setting', expiresAt: undefined };

/**
 * Finds out who calls, from `Authorization: Bearer KEY` or `X-API-Key: KEY`, and sets `caller`. A wrong key is refused
 * everywhere but on the open paths, also where none is needed: whoever sends one means to be checked.
 *
 * Two middlewares, because what comes from a foreign page is looked at in between: whether a key is needed, and whose.
 */
export function createAccess(
  ctx: ApiContext,
): Record<'requireKeyOrNot' | 'authenticate', MiddlewareHandler<ApiEnv>> {
  const known = createKnownKeys(ctx);
  const prove = createProof(ctx, known);
  return {
    requireKeyOrNot: async (c, next) => {
      // The open paths ask nobody, so that health is answered whatever hangs.
      c.set('keyRequired', ctx.requireKey || (isOpen(c.req.path) ? false : await known.anyMade()));
      await next();
    },
    authenticate: async (c, next) => {
      if (!isOpen(c.req.path)) {
        const key = readKey(c);
        if (key === undefined && c.get('keyRequired')) throw keyRefused();
        c.set('caller', key === undefined ? LOCAL : await prove(c, key));
      }
      await next();
    },
  };
}

/**
 * Who this key proves. A wrong one counts against the address that sent it; who has sent too many is told so before the
 * next one is looked at. Passes even then, because others may call from that address: a key of the table that was right
 * a short while ago, which nobody guesses, and the setting's, which somebody chose, where that very address has sent it
 * before.
 */
function createProof(
  ctx: ApiContext,
  known: ReturnType<typeof createKnownKeys>,
): (c: Context<ApiEnv>, key: string) => Promise<Caller> {
  const failures = createFailureLimit(ctx.rateLimits);
  const setting = createSettingCheck(ctx.apiKey);
  const checkToken = ctx.oidc && createTokenCheck(ctx.oidc);
  const find = async (c: Context<ApiEnv>, key: string): Promise<Caller | undefined> => {
    if (!known.remembers(key)) await failures.check(c);
    if (setting.prove(key, addressOf(c))) return SETTING;
    const found = await known.verify(key);
    return found && { name: found.name, role: found.role, via: 'key', expiresAt: found.expiresAt };
  };
  return async (c, key) => {
    if (setting.remembers(key, addressOf(c))) return SETTING;
    const isToken = checkToken !== undefined && looksLikeToken(key);
    try {
      const caller = isToken ? await checkToken(key) : await find(c, key);
      if (caller !== undefined) return caller;
      throw keyRefused();
    } catch (error) {
      if (!(error instanceof ProblemError) || error.code !== 'key_refused') throw error;
      // Tokens are checked before they are counted: nobody else need be asked, and none can be guessed.
      if (isToken) {
        await failures.check(c);
        if (setting.prove(key, addressOf(c))) return SETTING; // It may have the form of a token.
      }
      await failures.count(c);
      throw error;
    }
  };
}

/** The key that the call carries. An `Authorization` of another scheme is a wrong one, and so are two different keys. */
function readKey(c: Context): string | undefined {
  const authorization = c.req.header('authorization');
  const header = c.req.header('x-api-key');
  const bearer =
    authorization === undefined ? undefined : (/^Bearer +(\S+)$/i.exec(authorization)?.[1] ?? '');
  return bearer === undefined || header === undefined || bearer === header ? (bearer ?? header) : '';
}

const PROVED_FROM_MAX = 1_000;

/** Whether a key is the setting's. `remembers` looks only where the address has sent the right one before. */
function createSettingCheck(
  apiKey: string | undefined,
): Record<'prove' | 'remembers', (key: string, address: string) => boolean> {
  const isSetting = compareWith(apiKey);
  /** The last to call comes last. */
  const provedFrom = new Set<string>();
  const prove = (key: string, address: string): boolean => {
    if (!isSetting(key)) return false;
    provedFrom.delete(address);
    provedFrom.add(address);
    for (const oldest of provedFrom) {
      if (provedFrom.size <= PROVED_FROM_MAX) break;
      provedFrom.delete(oldest);
    }
    return true;
  };
  return { prove, remembers: (key, address) => provedFrom.has(address) && prove(key, address) };
}

/** Takes the same time whatever the candidate's length and content. */
function compareWith(apiKey: string | undefined): (candidate: string) => boolean {
  const digest = (text: string) => createHash('sha256').update(text).digest();
  if (apiKey === undefined) return () => false;
  const expected = digest(apiKey);
  return (candidate) => timingSafeEqual(digest(candidate), expected);
}

/**
 * Where no key protects a call, a page that somebody has open in a browser on this machine must not make it. Its own
 * name resolved to 127.0.0.1 (DNS rebinding) does not pass for a loopback name, and what browsers say about where a
 * call comes from is believed; other programs do not say it.
 */
export function refuseForeignPages(): MiddlewareHandler<ApiEnv> {
  return async (c, next) => {
    if (!c.get('keyRequired')) {
      const { hostname, origin } = new URL(c.req.url);
      if (!isLoopbackName(hostname)) {
        throw new ProblemError('wrong_host', {
          detail: 'Without a key only loopback names are served: http://127.0.0.1 or http://localhost.',
        });
      }
      const safe = ['GET', 'HEAD', 'OPTIONS'].includes(c.req.method);
      if (!safe && isForeign(c, origin)) {
        throw new ProblemError('cross_site', {
          detail: 'Calls that change something must not come from a page of another site.',
        });
      }
    }
    await next();
  };
}

const isLoopbackName = (hostname: string): boolean =>
  hostname === 'localhost' || hostname === '[::1]' || /^127(\.\d{1,3}){3}$/.test(hostname);

function isForeign(c: Context, ownOrigin: string): boolean {
  const site = c.req.header('sec-fetch-site');
  if (site !== undefined && site !== 'same-origin' && site !== 'none') return true;
  const origin = c.req.header('origin');
  return origin !== undefined && origin !== ownOrigin;
}
