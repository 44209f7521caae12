import { createHash, randomUUID } from 'node:crypto';
import type { Context, MiddlewareHandler } from 'hono';
import type { StatusCode } from 'hono/utils/http-status';
import { describeError } from '../errors.ts';
import {
  claimKey,
  giveBackKey,
  type IdempotentCall,
  type KeptAnswer,
  keepAnswer,
} from '../store/idempotency.ts';
import type { ApiContext, ApiEnv } from './context.ts';
import { ProblemError, unavailable } from './problem.ts';
import { readBody } from './request-input.ts';
import { mayAct, roleOfRoute } from './role.ts';
import { LateError, within } from './time-limit.ts';

const SAFE_METHODS = new Set(['GET', 'HEAD', 'OPTIONS', 'TRACE']);

/** What an answer is made of, besides status and body. The rest belongs to the call that gets it. */
const KEPT_HEADERS = ['content-type', 'etag', 'location', 'allow'];

/** Answers about who called or when, not about what was asked: the same call may go well the next time. */
const NOT_KEPT = new Set([401, 403, 408, 429]);
/** A call does not wait longer for the claim, nor its answer to be kept: the claim ends with its lease. */
const STORE_MS_MAX = 5_000;
const BODY_BYTES_MAX = 8 * 1024 * 1024;

/**
 * Does a call that carries an `Idempotency-Key` once, however often it is sent: whoever sends it again gets the answer of
 * the first time, 409 while that is in work, and 422 when it is another call. A call that failed, or whose process died,
 * may be sent again with its key.
 */
export function answerOnce({ pool, log }: ApiContext): MiddlewareHandler<ApiEnv> {
  return async (c, next) => {
    const call = await readCall(c);
    if (call === undefined) return next();
    c.set('idempotencyKey', call.key);
    const claim = await within(STORE_MS_MAX, claimKey(pool, call)).catch((error: unknown) => {
      throw error instanceof LateError ? tooBusy(error) : error;
    });
    if (claim.outcome === 'mismatch') {
      throw new ProblemError('idempotency_mismatch', {
        detail: 'This Idempotency-Key was used for another call. Take a new one for each call.',
      });
    }
    if (claim.outcome === 'in_work') {
      throw new ProblemError('idempotency_in_work', {
        detail: 'A call with this Idempotency-Key is in work. Ask again in a moment for its answer.',
        headers: { 'retry-after': String(claim.retryAfterSeconds) },
      });
    }
    if (claim.outcome === 'done') return replay(c, claim.answer);
    await next();
    try {
      const answer = await toKept(c.res);
      if (answer === undefined) await within(STORE_MS_MAX, giveBackKey(pool, call));
      else if (!(await within(STORE_MS_MAX, keepAnswer(pool, call, answer)))) {
        log.warn({ request_id: c.get('requestId') }, 'idempotency key was taken over while in work');
      }
    } catch (error) {
      // What was done was done: the caller gets its answer. The claim ends with its lease.
      log.warn(
        { request_id: c.get('requestId'), error: describeError(error) },
        'answer not kept under its idempotency key',
      );
    }
  };
}

const tooBusy = (cause: unknown): ProblemError =>
  unavailable('database_unavailable', { detail: 'PostgreSQL is too busy at the moment.', cause });

/** Undefined for calls without a key, and for those that their route will refuse: nothing is kept of them. */
async function readCall(c: Context<ApiEnv>): Promise<IdempotentCall | undefined> {
  const key = c.req.header('idempotency-key');
  if (key === undefined || SAFE_METHODS.has(c.req.method)) return undefined;
  const caller = c.get('caller');
  const role = roleOfRoute(c);
  if (caller === undefined || role === undefined || !mayAct(caller.role, role)) return undefined;
  if (!/^[\x21-\x7e]{1,255}$/.test(key)) {
    const message = 'must be 1 to 255 visible ASCII characters';
    throw new ProblemError('malformed_request', {
      detail: `header: idempotency-key ${message}`,
      errors: [{ in: 'header', name: 'idempotency-key', message }],
    });
  }
  const { pathname, search } = new URL(c.req.url);
  const requestHash = createHash('sha256')
    .update(JSON.stringify([c.req.method, pathname, search, c.req.header('if-match') ?? '']))
    .update(await readBody(c))
    .digest();
  return { caller: caller.name, key, requestHash, owner: randomUUID() };
}

/** The answer as it is kept; undefined for one that is not. */
async function toKept(answer: Response): Promise<KeptAnswer | undefined> {
  if (answer.status >= 500 || NOT_KEPT.has(answer.status)) return undefined;
  const body = Buffer.from(await answer.clone().arrayBuffer());
  if (body.byteLength > BODY_BYTES_MAX) throw new Error(`an answer of ${body.byteLength} bytes is too large`);
  const headers: Record<string, string> = {};
  for (const name of KEPT_HEADERS) {
    const value = answer.headers.get(name);
    if (value !== null) headers[name] = value;
  }
  return { status: answer.status, headers, body };
}

function replay(c: Context<ApiEnv>, { status, headers, body }: KeptAnswer): Response {
  c.header('idempotency-replayed', 'true');
  for (const [name, value] of Object.entries(headers)) c.header(name, value);
  c.status(status as StatusCode);
  return body.byteLength === 0 ? c.body(null) : c.body(new Uint8Array(body));
}
