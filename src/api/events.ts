import type { ServerResponse } from 'node:http';
import { createRoute, type OpenAPIHono, z } from '@hono/zod-openapi';
import type { Context } from 'hono';
import { streamSSE } from 'hono/streaming';
import { readStatus } from '../store/status.ts';
import type { Caller } from './caller.ts';
import type { ApiEnv, RouteContext } from './context.ts';
import type { EventBuffer } from './event-buffer.ts';
import { LiveFeed } from './live-feed.ts';
import { documentProblems, keyRefused, READ_PROBLEMS, unavailable } from './problem.ts';
import { requireRole } from './role.ts';

const STREAMS_MAX = 100;
/** Of one caller, by name: nobody takes all of them. */
const CALLER_STREAMS_MAX = 10;
/** How often it is looked whether the key is still one. */
const CHECK_EVERY_MS = 10_000;
/** A stream whose key nobody can check for so long ends: it may have been revoked. */
const UNCHECKED_MS_MAX = 5 * 60_000;
/** The longest that a timer of Node.js can be set to. A stream that has lasted so long may as well be opened anew. */
const TIMER_MS_MAX = 2 ** 31 - 1;
/** A reader that takes nothing for so long is gone, whatever its connection says. */
const STALLED_MS_MAX = 15_000;
/** When a browser that lost the connection makes the next one. */
const RECONNECT_MS = 2_000;

const route = createRoute({
  method: 'get',
  path: '/pipeline/events',
  operationId: 'streamEvents',
  tags: ['Pipeline'],
  summary: 'What happens, as it happens: server-sent events',
  description:
    'Events, each with JSON as its data. `status`, every second: `available: true` and what `GET /pipeline/status` says, or ' +
    '`{"available":false}` while PostgreSQL cannot be had. `change`: `{"booking_id","crop_type","status","revision","updated_at"}` ' +
    'of a snapshot that says something else now. `published`: `{"booking_id","revision","latency_ms"}`, once MongoDB has ' +
    'confirmed a change that was told; milliseconds since its commit, null when they are not known. Of many changes at once ' +
    'some are told. A reader that falls too far behind is dropped; nothing is repeated after a reconnect. The stream ends ' +
    `when the key does, and after ${UNCHECKED_MS_MAX / 60_000} minutes in which the key cannot be checked. A caller may have ${CALLER_STREAMS_MAX} at a time.`,
  middleware: [requireRole('reader')] as const,
  request: { query: z.strictObject({}) },
  responses: {
    200: {
      description: 'A stream without an end.',
      content: {
        'text/event-stream': {
          schema: z.string().openapi({ example: 'event: status\ndata: {"available":true,"parked":0}\n\n' }),
        },
      },
    },
    ...documentProblems([...READ_PROBLEMS, 'too_many_streams']),
  },
});

export interface StreamLimits {
  streamsMax: number;
  callerStreamsMax: number;
  checkEveryMs: number;
  uncheckedMsMax: number;
  stalledMsMax: number;
}

const LIMITS: StreamLimits = {
  streamsMax: STREAMS_MAX,
  callerStreamsMax: CALLER_STREAMS_MAX,
  checkEveryMs: CHECK_EVERY_MS,
  uncheckedMsMax: UNCHECKED_MS_MAX,
  stalledMsMax: STALLED_MS_MAX,
};

export function mountEvents(
  app: OpenAPIHono<ApiEnv>,
  ctx: RouteContext,
  limits: StreamLimits = LIMITS,
): void {
  const { pool, log } = ctx;
  const feed = new LiveFeed({ pool, log, readStatus });
  const places = createPlaces(limits, () => feed.readers);
  app.openapi(route, (c) => {
    // Hono answers HEAD by GET's handler, and nobody would ever read what it streams.
    if (c.req.method === 'HEAD') return c.body(null, 200, { 'content-type': 'text/event-stream' });
    const caller = c.get('caller');
    if (caller === undefined) throw keyRefused();
    const givePlaceBack = places.take(caller.name);
    const connection = connectionOf(c);
    const reader = feed.join(() => {
      log.info({ request_id: c.get('requestId') }, 'event stream dropped: its reader is too slow');
      connection?.destroy();
    });
    const close = (): void => reader.close();
    ctx.stopping.addEventListener('abort', close);
    if (ctx.stopping.aborted) close();
    const endChecks = closeWithKey(close, { caller, limits, ask: () => mayStillRead(app, c) });
    const end = async (): Promise<void> => {
      endChecks();
      givePlaceBack();
      ctx.stopping.removeEventListener('abort', close);
      await feed.leave(reader);
    };
    return streamSSE(c, async (stream) => {
      stream.onAbort(close);
      try {
        await sendAll(reader, {
          write: (text) => stream.write(text),
          stalledMsMax: limits.stalledMsMax,
          onStalled: () => connection?.destroy(),
        });
      } finally {
        // A write that nobody reads would never end: whoever left is not written to any more.
        if (reader.closed) stream.abort();
        await end();
      }
    });
  });
}

/** Gives places to streams; what `take` answers gives it back. */
function createPlaces(
  { streamsMax, callerStreamsMax }: StreamLimits,
  countTaken: () => number,
): { take(caller: string): () => void } {
  const taken = new Map<string, number>();
  return {
    take(caller) {
      const own = taken.get(caller) ?? 0;
      if (own >= callerStreamsMax) {
        throw unavailable('too_many_streams', {
          detail: `${callerStreamsMax} event streams of this caller are open already. Close one first.`,
        });
      }
      if (countTaken() >= streamsMax) {
        throw unavailable('too_many_streams', {
          detail: `${streamsMax} event streams are open already. Try again later.`,
        });
      }
      taken.set(caller, own + 1);
      return () => {
        const left = (taken.get(caller) ?? 1) - 1;
        if (left === 0) taken.delete(caller);
        else taken.set(caller, left);
      };
    },
  };
}

/** Closes when the key expires, is refused, or cannot be checked for too long; until the function it answers is called. */
function closeWithKey(
  close: () => void,
  { caller, limits, ask }: { caller: Caller; limits: StreamLimits; ask: () => Promise<Verdict> },
): () => void {
  const leftMs = caller.expiresAt === undefined ? TIMER_MS_MAX : caller.expiresAt.getTime() - Date.now();
  const expiry = setTimeout(close, Math.max(0, Math.min(leftMs, TIMER_MS_MAX)));
  let provedAt = performance.now();
  const check = setInterval(() => {
    ask().then((verdict) => {
      if (verdict === 'proved') provedAt = performance.now();
      else if (verdict === 'refused' || performance.now() - provedAt >= limits.uncheckedMsMax) close();
    }, close);
  }, limits.checkEveryMs);
  return () => {
    clearTimeout(expiry);
    clearInterval(check);
  };
}

interface Sending {
  write: (text: string) => Promise<unknown>;
  stalledMsMax: number;
  onStalled: () => void;
}

/** Until the reader leaves, or takes nothing any more. */
async function sendAll(reader: EventBuffer, { write, stalledMsMax, onStalled }: Sending): Promise<void> {
  await write(`: events follow\nretry: ${RECONNECT_MS}\n\n`);
  for (;;) {
    const text = await reader.take();
    if (text === undefined) return;
    let timer: NodeJS.Timeout | undefined;
    const stalled = new Promise<'stalled'>((resolve) => {
      timer = setTimeout(() => resolve('stalled'), stalledMsMax);
    });
    const outcome = await Promise.race([write(text), stalled, reader.ended]);
    clearTimeout(timer);
    if (outcome !== 'stalled') continue;
    reader.close();
    onStalled();
    return;
  }
}

/** The connection below, where there is one: without it, a response that is not read keeps it open. */
const connectionOf = (c: Context<ApiEnv>): ServerResponse | undefined =>
  (c.env as { outgoing?: ServerResponse } | undefined)?.outgoing;

const CREDENTIALS = ['authorization', 'x-api-key'] as const;

type Verdict = 'proved' | 'refused' | 'unknown';

/** Asks again who calls, as any call does. `unknown`: nobody can say at the moment. */
async function mayStillRead(app: OpenAPIHono<ApiEnv>, c: Context<ApiEnv>): Promise<Verdict> {
  const headers = new Headers();
  for (const name of CREDENTIALS) {
    const value = c.req.header(name);
    if (value !== undefined) headers.set(name, value);
  }
  const response = await app.request(new Request(new URL('/session', c.req.url), { headers }), {}, c.env);
  if (response.ok) return 'proved';
  // Calls are counted once it is known whose they are; of too many wrong keys from an address none is looked at.
  if (response.status === 429) return response.headers.has('ratelimit') ? 'proved' : 'refused';
  return response.status >= 500 ? 'unknown' : 'refused';
}
