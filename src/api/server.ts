import { randomUUID } from 'node:crypto';
import { once } from 'node:events';
import { createServer, type IncomingMessage, type Server, type ServerResponse } from 'node:http';
import type { AddressInfo } from 'node:net';
import type { Duplex } from 'node:stream';
import { getRequestListener, RequestError } from '@hono/node-server';
import { describeError, EnvironmentError } from '../errors.ts';
import { createApi } from './app.ts';
import type { ApiContext } from './context.ts';
import { PROBLEM_TYPE, ProblemError, problemResponse, toProblem, unexpectedError } from './problem.ts';
import { malformedTarget } from './request-input.ts';

const CONNECTIONS_MAX = 1_000;
const HEADERS_TIMEOUT_MS = 10_000;
const REQUEST_TIMEOUT_MS = 30_000;
const KEEP_ALIVE_TIMEOUT_MS = 5_000;
const STOP_TIMEOUT_MS = 5_000;

export interface RunningApi {
  url: string;
  /** Takes no more calls, finishes those under way (5 s at most), and closes every connection. */
  stop(): Promise<void>;
}

/**
 * Throws the `EnvironmentError` that `startApi` would, before anything else is started: listens there for a moment and
 * lets go.
 */
export async function requireListenable(address: { host: string; port: number }): Promise<void> {
  const server = createServer();
  await listen(server, address);
  server.close();
  await once(server, 'close');
}

/**
 * Serves the API on `host:port` (port 0: a free one). Throws an `EnvironmentError` that names PORT or HOST when it
 * cannot listen there.
 */
export async function startApi(
  ctx: ApiContext,
  { host, port }: { host: string; port: number },
): Promise<RunningApi> {
  const stopping = new AbortController();
  const app = createApi(ctx, { stopping: stopping.signal });
  const listener = getRequestListener(app.fetch, {
    overrideGlobalObjects: false,
    errorHandler: (error) => answerUnroutable(ctx, error),
  });
  const serve = (incoming: IncomingMessage, outgoing: ServerResponse): void => {
    if (stopping.signal.aborted) outgoing.setHeader('connection', 'close');
    void listener(incoming, outgoing);
  };
  const server = createServer(
    {
      headersTimeout: HEADERS_TIMEOUT_MS,
      requestTimeout: REQUEST_TIMEOUT_MS,
      keepAliveTimeout: KEEP_ALIVE_TIMEOUT_MS,
      requireHostHeader: false, // so that a missing one gets a problem, not node's empty answer
    },
    serve,
  );
  // Of an expectation that it does not know, node answers 417 with nothing in it: it is not answered otherwise than without.
  server.on('checkExpectation', serve);
  server.maxConnections = CONNECTIONS_MAX;
  server.on('clientError', answerUnreadable);
  const { address, port: taken } = await listen(server, { host, port });

  return {
    url: `http://${nameOf(address)}:${taken}`,
    async stop() {
      stopping.abort();
      const closed = once(server, 'close');
      server.close();
      // close() ends idle connections now, but not those that become idle later.
      const idle = setInterval(() => server.closeIdleConnections(), 20);
      const late = setTimeout(() => server.closeAllConnections(), STOP_TIMEOUT_MS);
      await closed;
      clearInterval(idle);
      clearTimeout(late);
    },
  };
}

/** What fails before the API has a request, which is a target or Host that makes no URL. */
function answerUnroutable({ log }: ApiContext, cause: unknown): Response {
  const requestId = randomUUID();
  if (cause instanceof RequestError) {
    return problemResponse(malformedTarget(cause), requestId);
  }
  log.error({ request_id: requestId, error: describeError(cause) }, 'request failed');
  return problemResponse(unexpectedError(cause), requestId);
}

/** The name that a caller on this machine uses. */
function nameOf(address: string): string {
  if (address === '0.0.0.0') return '127.0.0.1';
  if (address === '::') return '[::1]';
  return address.includes(':') ? `[${address}]` : address;
}

async function listen(server: Server, { host, port }: { host: string; port: number }): Promise<AddressInfo> {
  server.listen({ host, port });
  try {
    await once(server, 'listening');
  } catch (cause) {
    throw explainRefusal(cause, { host, port });
  }
  return server.address() as AddressInfo;
}

function explainRefusal(cause: unknown, { host, port }: { host: string; port: number }): EnvironmentError {
  const code = (cause as NodeJS.ErrnoException).code;
  if (code === 'EADDRINUSE') {
    return new EnvironmentError(
      `PORT=${port}: another program listens on ${host}:${port} already. Stop it, or set PORT to a free port (0 takes any).`,
      { cause },
    );
  }
  if (code === 'EACCES') {
    return new EnvironmentError(
      `PORT=${port}: this user may not listen on it. Set PORT to 1024 or above (0 takes any).`,
      { cause },
    );
  }
  return new EnvironmentError(
    `HOST=${host}: the API cannot listen on this address (${describeError(cause)}). Set HOST to an address of this machine.`,
    { cause },
  );
}

/** What node's parser refuses is no request yet: the answer is written by hand, and the connection closed. */
function answerUnreadable(error: NodeJS.ErrnoException, socket: Duplex): void {
  if (error.code === 'ECONNRESET' || !socket.writable) {
    socket.destroy();
    return;
  }
  const problem = toProblem(readableError(error.code), randomUUID());
  const body = JSON.stringify(problem);
  socket.end(
    `HTTP/1.1 ${problem.status} ${problem.title}\r\nconnection: close\r\ncontent-type: ${PROBLEM_TYPE}\r\n` +
      `content-length: ${Buffer.byteLength(body)}\r\n\r\n${body}`,
  );
}

function readableError(code: string | undefined): ProblemError {
  if (code === 'HPE_HEADER_OVERFLOW') {
    return new ProblemError('headers_too_large', { detail: 'The request line and headers are too large.' });
  }
  if (code === 'ERR_HTTP_REQUEST_TIMEOUT') {
    return new ProblemError('body_timeout', { detail: 'The request did not arrive in time.' });
  }
  return new ProblemError('malformed_request', { detail: 'This is not an HTTP/1.1 request.' });
}
