import { once } from 'node:events';
import type pg from 'pg';
import { describeError } from '../src/errors.ts';
import type { Logger } from '../src/log.ts';
import { connect, query } from '../src/postgres.ts';
import { pause } from './pause.ts';

/** What reconcile and `request_resync()` notify when their transactions commit. */
export type Channel = 'market_sync_publish' | 'market_sync_resync';

export interface Listener {
  stop(): Promise<void>;
}

const RECONNECT_MS = 500;

/** Nothing is sent while nothing happens: this often the connection must show that it is one. */
const HEARTBEAT_MS = 10_000;

/**
 * Calls `onNotify` whenever the channel is notified, and `onConnect` once after each (re)connect, because what was
 * notified while nobody listened is not repeated. Notifications are a hint to look; what there is to do stands in tables.
 */
export function listen(
  ctx: { pool: pg.Pool; log: Logger },
  channel: Channel,
  onNotify: () => void,
  onConnect: () => void = onNotify,
): Listener {
  const abort = new AbortController();
  const run = async (): Promise<void> => {
    while (!abort.signal.aborted) {
      try {
        await listenOnce(ctx.pool, { channel, onNotify, onConnect, signal: abort.signal });
      } catch (error) {
        ctx.log.debug({ channel, error: describeError(error) }, 'listening interrupted, coming back');
        await pause(RECONNECT_MS, abort.signal);
      }
    }
  };
  const ended = run();
  return {
    stop: async () => {
      abort.abort();
      await ended;
    },
  };
}

async function listenOnce(
  pool: pg.Pool,
  {
    channel,
    onNotify,
    onConnect,
    signal,
  }: { channel: Channel; onNotify: () => void; onConnect: () => void; signal: AbortSignal },
): Promise<void> {
  const client = await connect(pool);
  const closed = new AbortController();
  const close = (): void => closed.abort();
  client.on('end', close);
  client.on('notification', onNotify);
  signal.addEventListener('abort', close);
  try {
    await query(client, `listen ${channel}`);
    onConnect();
    if (signal.aborted) close();
    // A stop does not wait for a server that may be silent.
    await Promise.race([aborted(closed.signal), beat(client, closed.signal)]);
    if (!signal.aborted) throw new Error('the listening connection ended');
  } finally {
    signal.removeEventListener('abort', close);
    client.release(true);
  }
}

async function beat(client: pg.ClientBase, closed: AbortSignal): Promise<void> {
  for (;;) {
    await pause(HEARTBEAT_MS, closed);
    if (closed.aborted) return;
    await query(client, 'select');
  }
}

async function aborted(signal: AbortSignal): Promise<void> {
  if (!signal.aborted) await once(signal, 'abort');
}
