import { createHash, timingSafeEqual } from 'node:crypto';
import type { Context, MiddlewareHandler } from 'hono';
import type { ApiContext, ApiEnv } from './context.ts';
import { ProblemError } from './problem.ts';

/** What can be had without a key: the docs, which say nothing of this installation, and the health of the process. */
const OPEN_PATHS = new Set(['/', '/healthz', '/readyz', '/openapi.json', '/docs']);
const isOpen = (path: string): boolean => OPEN_PATHS.has(path) || path.startsWith('/docs/');

/**
 * Lets calls pass that carry the key, as `Authorization: Bearer KEY` or `X-API-Key: KEY`. A wrong key is refused
 * everywhere but on the open paths, also where none is needed: whoever sends one means to be checked.
 */
export function checkKey({ apiKey, requireKey }: ApiContext): MiddlewareHandler<ApiEnv> {
  if (requireKey && apiKey === undefined) throw new Error('requireKey without apiKey: nobody could call');
  const isRight = compareWith(apiKey);
  return async (c, next) => {
    if (!isOpen(c.req.path)) {
      const keys = readKeys(c);
      if ((requireKey && keys.length === 0) || !keys.every(isRight)) {
        throw new ProblemError('key_refused', {
          detail: 'This call needs a valid key: Authorization: Bearer KEY, or X-API-Key: KEY.',
          headers: { 'www-authenticate': 'Bearer realm="market-sync"' },
        });
      }
    }
    await next();
  };
}

/** Every key the call carries; an `Authorization` of another scheme is a wrong one. */
function readKeys(c: Context): string[] {
  const authorization = c.req.header('authorization');
  const header = c.req.header('x-api-key');
  const keys: string[] = [];
  if (authorization !== undefined) keys.push(/^Bearer +(\S+)$/i.exec(authorization)?.[1] ?? '');
  if (header !== undefined) keys.push(header);
  return keys;
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
export function refuseForeignPages({ requireKey }: ApiContext): MiddlewareHandler<ApiEnv> {
  return async (c, next) => {
    if (!requireKey) {
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
