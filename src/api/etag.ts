import { createHash } from 'node:crypto';
import type { Context, MiddlewareHandler } from 'hono';
import type { ApiEnv } from './context.ts';
import { ProblemError } from './problem.ts';

/** The `ETag` of something with a version, for `If-Match`. */
export const versionTag = (version: number): string => `"${version}"`;

/**
 * What `If-Match` of this call says: undefined without it, `*` for anything that is there, or a version as `versionTag`
 * writes it. Answers 412 for a tag that no version has, 400 for what is no tag.
 */
export function parseIfMatch(c: Context<ApiEnv>): number | '*' | undefined {
  const header = c.req.header('if-match')?.trim();
  if (header === undefined || header === '*') return header;
  const tag = /^(?:W\/)?"[\x21\x23-\x7e\x80-\xff]*"$/.exec(header)?.[0];
  if (tag === undefined) {
    throw new ProblemError('malformed_request', {
      detail: 'header: if-match must be one ETag as it was given out, or *',
      errors: [{ in: 'header', name: 'if-match', message: 'must be one ETag as it was given out, or *' }],
    });
  }
  const version = /^"(\d{1,15})"$/.exec(tag)?.[1];
  if (version === undefined) {
    throw new ProblemError('version_mismatch', { detail: 'No version has this ETag: read it again.' });
  }
  return Number(version);
}

/**
 * Gives answers to reads an `ETag`, unless their route did, and answers 304 where the caller has the same already. Only
 * whole JSON answers of calls that somebody made: an event stream has no end to wait for.
 */
export const answerUnchanged: MiddlewareHandler<ApiEnv> = async (c, next) => {
  await next();
  const isRead = c.req.method === 'GET' || c.req.method === 'HEAD';
  const isJson = c.res.headers.get('content-type')?.startsWith('application/json') === true;
  if (!isRead || !isJson || c.res.status !== 200 || c.get('caller') === undefined) return;
  const tag = c.res.headers.get('etag') ?? contentTag(await c.res.clone().arrayBuffer());
  c.header('etag', tag);
  c.header('cache-control', 'private, no-cache');
  if (!names(c.req.header('if-none-match'), tag)) return;
  const headers = new Headers(c.res.headers);
  headers.delete('content-type');
  headers.delete('content-length');
  c.res = undefined;
  c.res = new Response(null, { status: 304, headers });
};

const contentTag = (body: ArrayBuffer): string =>
  `"${createHash('sha256').update(new Uint8Array(body)).digest('base64url').slice(0, 27)}"`;

/** Whether `If-None-Match` names this tag; the weak comparison, as the standard has it for reads. */
function names(header: string | undefined, tag: string): boolean {
  if (header === undefined) return false;
  if (header.trim() === '*') return true;
  const strong = (text: string) => text.replace(/^W\//, '');
  return (header.match(/(?:W\/)?"[^"]*"/g) ?? []).some((candidate) => strong(candidate) === strong(tag));
}
