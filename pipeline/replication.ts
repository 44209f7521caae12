import { type EventEmitter, once } from 'node:events';
import type { Socket } from 'node:net';
import pg from 'pg';
import { LogicalReplicationService, PgoutputPlugin } from 'pg-logical-replication';
import { formatLsn, type Lsn } from '../src/lsn.ts';
import { ConnectionLostError } from '../src/postgres.ts';
import { type Change, DecodeError, Decoder } from './decode.ts';
import { readInGulps } from './gulps.ts';

/** Milliseconds the server may take to close the connection before it is cut. */
const STOP_TIMEOUT_MS = 2_000;

/** Milliseconds the server may take to accept a connection, and to begin to stream. */
export const CONNECT_TIMEOUT_MS = 10_000;

/** Milliseconds of silence before the operating system looks whether the connection is still one. */
const KEEP_ALIVE_AFTER_MS = 10_000;

export interface ReplicationOptions {
  url: string;
  slotName: string;
  /** Where the stream begins. Never below the slot's confirmed position: the server would silently begin later. */
  startLsn: Lsn;
  /** Milliseconds of silence, in spite of requests for a reply, after which the server counts as gone. */
  silenceMaxMs: number;
  /** Reads what the plugin sends; one that knows bookings unless given. */
  decoder?: Decoder;
  /** Called in stream order, never again once it has thrown or `stop()` was called. */
  onChange: (change: Change) => void;
  /** The server has sent everything up to `walEnd`; with `replyRequested` it wants a sign of life. */
  onKeepalive: (keepalive: { walEnd: Lsn; replyRequested: boolean }) => void;
}

/** One subscription to the slot. For a new one, start anew: a used one resumes after what it received, not confirmed. */
export interface Replication {
  /**
   * Confirms that everything before `lsn` is durable elsewhere: the slot need not keep it. With `replyRequested` the
   * server says at once that it is there; when it has not for too long, the stream ends with `ConnectionLostError`.
   */
  confirm(lsn: Lsn, options?: { replyRequested: boolean }): Promise<void>;
  /** Stops reading from the socket; the server then waits. */
  pause(): void;
  resume(): void;
  /** Ends the subscription. Nothing is delivered afterwards. */
  stop(): Promise<void>;
  /** Settles when the stream has ended: fulfilled after `stop()`, rejected with what ended it otherwise. */
  ended: Promise<void>;
}

/** What the library keeps to itself and offers no call for: the connection and its socket. */
interface ServiceInternals {
  _connection: (EventEmitter & { stream: Socket; end(): void }) | null;
  _client: pg.Client | null;
}

/**
 * The library listens for errors of its client only once that is connected. A PostgreSQL that dies in the same instant
 * would take the process with it; so the client is heard as soon as there is one.
 */
function hearErrors(internals: ServiceInternals): void {
  let client: pg.Client | null = null;
  Object.defineProperty(internals, '_client', {
    get: () => client,
    set: (next: pg.Client | null) => {
      client = next;
      next?.on('error', () => undefined); // What the library waits for fails with it.
    },
  });
}

/**
 * Subscribes to the slot and answers once the server streams. Rejects with PostgreSQL's error when it does not (55006:
 * the slot is in use; 42704: there is none), or with `ConnectionLostError`.
 *
 * This file owns pg-logical-replication. Its traps: it acknowledges by itself unless both `auto` and `timeoutSeconds`
 * are off; it reports one more than it is told; it goes on with the next row after a handler has thrown.
 */
export async function startReplication(options: ReplicationOptions): Promise<Replication> {
  const service = new LogicalReplicationService(
    {
      connectionString: options.url,
      application_name: 'market-sync consumer',
      keepAlive: true,
      keepAliveInitialDelayMillis: KEEP_ALIVE_AFTER_MS,
      connectionTimeoutMillis: CONNECT_TIMEOUT_MS,
    },
    { acknowledge: { auto: false, timeoutSeconds: 0 }, flowControl: { enabled: false } },
  );
  const internals = service as unknown as ServiceInternals;
  hearErrors(internals);
  const ended = Promise.withResolvers<void>();
  // Whoever starts a replication waits for its end; until then a rejection is not unhandled.
  ended.promise.catch(() => undefined);
  let open = true;
  let heardAtMs = performance.now();
  let paused = false;

  /** The first failure ends everything: nothing after it is delivered or confirmed. */
  const fail = (error: unknown): void => {
    if (!open) return;
    open = false;
    ended.reject(error);
    void close();
  };
  /**
   * Says goodbye and reads on until the server has closed. The library would destroy the socket: with data unread that
   * resets the connection, and a server that is writing then ends without having read the last confirmation.
   */
  const close = async (): Promise<void> => {
    const connection = internals._connection;
    if (connection !== null && !connection.stream.destroyed) {
      const closed = once(connection.stream, 'close', { signal: AbortSignal.timeout(STOP_TIMEOUT_MS) });
      connection.end();
      connection.stream.resume();
      await closed.catch(() => undefined);
    }
    await service.destroy().catch(() => undefined);
  };

  service.on('error', (error: unknown) => fail(toStreamError(error)));
  const decoder = options.decoder ?? new Decoder();
  const receive = ({ chunk }: { chunk: Buffer }): void => {
    if (!open) return;
    heardAtMs = performance.now();
    try {
      if (chunk[0] === XLOG_DATA) options.onChange(decoder.decode(chunk, XLOG_DATA_HEADER_BYTES));
      else options.onKeepalive(readKeepalive(chunk));
    } catch (error) {
      fail(error);
    }
  };

  // Protocol 1: a transaction comes whole, after its commit. `messages` is off by default.
  const plugin = new PgoutputPlugin({
    protoVersion: 1,
    publicationNames: ['market_sync'],
    messages: true,
  });
  const started = new Promise<void>((resolve) =>
    service.once('start', () => {
      // Before the first message. The library's own listener would make text of every position and two more objects of
      // every message. An error in it would end the process.
      internals._connection?.removeAllListeners('copyData').on('copyData', receive);
      if (internals._connection !== null) readInGulps(internals._connection.stream, () => open && !paused);
      resolve();
    }),
  );
  const subscription = service.subscribe(plugin, options.slotName, formatLsn(options.startLsn)).then(
    () => fail(new ConnectionLostError('PostgreSQL ended the replication stream')),
    (error: unknown) => fail(toStreamError(error)),
  );
  const overdue = setTimeout(
    () => fail(new ConnectionLostError('PostgreSQL does not begin to stream')),
    2 * CONNECT_TIMEOUT_MS,
  );
  await Promise.race([started, ended.promise, subscription]).finally(() => clearTimeout(overdue));
  if (!open) await ended.promise;

  return {
    confirm: async (lsn, { replyRequested } = { replyRequested: false }) => {
      if (!paused && performance.now() - heardAtMs > options.silenceMaxMs) {
        fail(new ConnectionLostError('PostgreSQL has fallen silent on the replication stream'));
      }
      // The library reports x + 1; with adjacent commits that would skip the second one.
      if (open && lsn > 0n) await service.acknowledge(formatLsn(lsn - 1n), replyRequested);
    },
    pause: () => {
      paused = true;
      internals._connection?.stream.pause();
    },
    resume: () => {
      paused = false;
      heardAtMs = performance.now();
      internals._connection?.stream.resume();
    },
    stop: async () => {
      if (open) {
        open = false;
        ended.resolve();
      }
      await close();
    },
    ended: ended.promise,
  };
}

/** What the messages of a replication stream begin with: WAL data, behind a header of three positions; a keepalive. */
const XLOG_DATA = 0x77; // w
const XLOG_DATA_HEADER_BYTES = 25;
const KEEPALIVE = 0x6b; // k
const KEEPALIVE_BYTES = 18;

function readKeepalive(chunk: Buffer): { walEnd: Lsn; replyRequested: boolean } {
  if (chunk[0] !== KEEPALIVE || chunk.length < KEEPALIVE_BYTES) {
    throw new DecodeError(
      `unknown replication message ${JSON.stringify(String.fromCharCode(chunk[0] ?? 0))}`,
    );
  }
  return { walEnd: chunk.readBigUInt64BE(1), replyRequested: chunk[17] !== 0 };
}

export function toStreamError(error: unknown): unknown {
  if (error instanceof pg.DatabaseError) return error;
  return new ConnectionLostError('replication connection to PostgreSQL lost', { cause: error });
}
