import type { z } from '@hono/zod-openapi';
import type { Context, MiddlewareHandler } from 'hono';
import { timeout } from 'hono/timeout';
import type { ApiEnv } from './context.ts';
import { type InputError, ProblemError, unavailable } from './problem.ts';

const BODY_BYTES_MAX = 64 * 1024;
const BODY_TIMEOUT_MS = 5_000;

/** Answers 503 when the route has none after `limitMs` (what it began ends by its own limits). */
export const answerWithin = (limitMs: number): MiddlewareHandler<ApiEnv> =>
  timeout(limitMs, () => unavailable('timed_out', { detail: `No answer within ${limitMs / 1000} s.` }));

/**
 * Refuses a Host that makes no URL, such as a number beyond any address: the server under the API lets some of them
 * through, and then whoever reads the request's URL or body throws.
 */
export const requireUrl: MiddlewareHandler<ApiEnv> = async (c, next) => {
  if (!URL.canParse(c.req.url)) throw malformedTarget();
  await next();
};

/** The answer to a request whose target or Host makes no URL. */
export const malformedTarget = (cause?: unknown): ProblemError =>
  new ProblemError('malformed_request', {
    detail: 'The request target or the Host header is malformed.',
    cause,
  });

/** What the validator calls them, and what the answer does. */
const PLACES: Record<string, InputError['in']> = {
  param: 'path',
  query: 'query',
  header: 'header',
  json: 'body',
};

/** What the routes' schemas refuse becomes one problem that names each input. */
export function refuseInvalid(
  result: { success: true } | { success: false; target: string; error: z.ZodError },
): void {
  const ERRORS_MAX = 20;
  if (result.success) return;
  const place = PLACES[result.target] ?? 'query';
  const errors = result.error.issues.flatMap((issue): InputError[] => {
    const path = issue.path.map(String).join('.');
    const names = issue.code === 'unrecognized_keys' ? issue.keys : [path === '' ? place : path];
    const message = issue.code === 'unrecognized_keys' ? 'is not known here' : issue.message;
    return names.map((name) => ({ in: place, name: name.slice(0, 100), message }));
  });
  const detail = errors.map((error) => `${error.in}: ${error.name} ${error.message}`)[0] ?? 'malformed';
  throw new ProblemError('malformed_request', { detail, errors: errors.slice(0, ERRORS_MAX) });
}

/**
 * For routes that take no body: nothing or an empty JSON object passes. Anything else is refused rather than ignored,
 * so that nobody believes that it had an effect.
 */
export const acceptNoBody: MiddlewareHandler<ApiEnv> = async (c, next) => {
  const value = await readJsonObject(c);
  if (value !== undefined && Object.keys(value).length > 0) {
    throw new ProblemError('malformed_request', {
      detail: 'This call takes no body: send none, or an empty object.',
    });
  }
  await next();
};

/**
 * For routes that take a body, before its schema is looked at (`request.body` of the route; the route then reads
 * `c.req.valid('json')`): the body must be a JSON object, bounded, in UTF-8. None counts as an empty object, so that the
 * schema says what is missing.
 */
export const acceptJsonBody: MiddlewareHandler<ApiEnv> = async (c, next) => {
  const value = await readJsonObject(c);
  const declared = c.req.header('content-type') !== undefined;
  if (value === undefined && declared && !isJson(c)) throw notJson();
  // The body has been read: what Hono's validator reads is what was checked here.
  const text = value === undefined && !declared ? '' : JSON.stringify(value ?? {});
  c.req.bodyCache.text = Promise.resolve(text) as never;
  await next();
};

/** The body as an object; undefined when there is none. Throws what the answer says for every other body. */
async function readJsonObject(c: Context<ApiEnv>): Promise<object | undefined> {
  const body = await readBody(c);
  if (body.byteLength === 0) return undefined;
  if (!isJson(c)) throw notJson();
  const value = parseJson(body);
  if (typeof value !== 'object' || value === null || Array.isArray(value)) {
    throw new ProblemError('malformed_request', { detail: 'The body must be a JSON object.' });
  }
  return value;
}

function isJson(c: Context): boolean {
  const type = c.req.header('content-type')?.split(';')[0]?.trim().toLowerCase();
  const encoding = c.req.header('content-encoding') ?? 'identity';
  return type === 'application/json' && encoding === 'identity';
}

const notJson = (): ProblemError =>
  new ProblemError('unsupported_media_type', { detail: 'A body must be application/json, not compressed.' });

/** Names that reach an object's prototype where somebody copies it carelessly. No body here has such a field. */
const POLLUTING = new Set(['__proto__', 'constructor', 'prototype']);

function parseJson(body: Uint8Array): unknown {
  try {
    return JSON.parse(new TextDecoder('utf-8', { fatal: true }).decode(body), refuseHostile);
  } catch (cause) {
    if (cause instanceof ProblemError) throw cause;
    throw new ProblemError('malformed_request', { detail: 'The body is not JSON in UTF-8.', cause });
  }
}

/** Sees every name and value of the body: what neither a program nor PostgreSQL's text could keep as it is. */
function refuseHostile(name: string, value: unknown): unknown {
  if (POLLUTING.has(name)) throw refusedInBody(name, 'is not allowed');
  if (typeof value === 'string' && (value.includes('\0') || !value.isWellFormed())) {
    throw refusedInBody(name, 'must be text without NUL and lone surrogates');
  }
  return value;
}

const refusedInBody = (name: string, message: string): ProblemError =>
  new ProblemError('malformed_request', {
    detail: `body: ${name.slice(0, 100)} ${message}`,
    errors: [{ in: 'body', name: name.slice(0, 100), message }],
  });

/** The whole body, bounded in size and time; the same however often it is asked for. */
export async function readBody(c: Context<ApiEnv>): Promise<Uint8Array> {
  const known = c.get('body');
  if (known !== undefined) return known;
  const body = await receiveBody(c);
  c.set('body', body);
  return body;
}

async function receiveBody(c: Context<ApiEnv>): Promise<Uint8Array> {
  const body = c.req.raw.body;
  if (body === null) return new Uint8Array();
  if (Number(c.req.header('content-length')) > BODY_BYTES_MAX) throw tooLarge();
  const reader = body.getReader();
  let timer: NodeJS.Timeout | undefined;
  const late = new Promise<never>((_, reject) => {
    timer = setTimeout(() => {
      reject(
        new ProblemError('body_timeout', {
          detail: `The body did not arrive within ${BODY_TIMEOUT_MS / 1000} s.`,
        }),
      );
    }, BODY_TIMEOUT_MS);
  });
  try {
    return await Promise.race([readAll(reader), late]);
  } finally {
    clearTimeout(timer);
  }
}

async function readAll(reader: ReadableStreamDefaultReader<Uint8Array>): Promise<Uint8Array> {
  const chunks: Uint8Array[] = [];
  let bytes = 0;
  for (;;) {
    const { done, value } = await reader.read().catch((cause: unknown) => {
      throw new ProblemError('malformed_request', { detail: 'The body ended too early.', cause });
    });
    if (done) return Buffer.concat(chunks);
    bytes += value.byteLength;
    if (bytes > BODY_BYTES_MAX) throw tooLarge();
    chunks.push(value);
  }
}

const tooLarge = (): ProblemError =>
  new ProblemError('body_too_large', { detail: `The body is larger than ${BODY_BYTES_MAX} bytes.` });
