import { once } from 'node:events';
import type pg from 'pg';
import { describeError } from './errors.ts';
import type { Logger } from './log.ts';
import { connect, query } from './postgres.ts';
import { sleep } from './sleep.ts';

/** What SQL functions notify when their transactions commit. */
type Channel = 'market_sync_publish' | 'market_sync_resync' | 'market_sync_audit' | 'market_sync_task';

export interface Listener {
  stop(): Promise<void>;
}

interface Listening {
  channel: Channel;
  /** A notification's payload, which is `''` for most. Nothing is promised of its form: any role can notify. */
  onNotify: (payload: string) => void;
  /** Once after each (re)connect: what was notified while nobody listened is not repeated. */
  onConnect: () => void;
}

const RECONNECT_MS = 500;

/** Nothing is sent while nothing happens: this often the connection must show that it is one. */
const HEARTBEAT_MS = 10_000;

/**
 * Listens on one connection of the pool until stopped, and comes back by itself. Notifications are a hint to look; what
 * there is to do stands in tables.
 */
export function startListening(ctx: { pool: pg.Pool; log: Logger }, listening: Listening): Listener {
  const abort = new AbortController();
  const run = async (): Promise<void> => {
    while (!abort.signal.aborted) {
      try {
        await listenOnce(ctx.pool, listening, abort.signal);
      } catch (error) {
        ctx.log.debug(
          { channel: listening.channel, error: describeError(error) },
          'listening interrupted, coming back',
        );
        await sleep(RECONNECT_MS, abort.signal);
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
  { channel, onNotify, onConnect }: Listening,
  signal: AbortSignal,
): Promise<void> {
  const client = await connect(pool);
  const closed = new AbortController();
  const close = (): void => closed.abort();
  client.on('end', close);
  client.on('notification', ({ payload }) => onNotify(payload ?? ''));
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
    await sleep(HEARTBEAT_MS, closed);
    if (closed.aborted) return;
    await query(client, 'select');
  }
}

async function aborted(signal: AbortSignal): Promise<void> {
  if (!signal.aborted) await once(signal, 'abort');
}
