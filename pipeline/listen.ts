import { setTimeout as delay } from 'node:timers/promises';
import type pg from 'pg';
import { describeError } from '../src/errors.ts';
import type { Logger } from '../src/log.ts';
import { connect, query } from '../src/postgres.ts';

/** What reconcile and `request_resync()` notify when their transactions commit. */
export type Channel = 'market_sync_publish' | 'market_sync_resync';

export interface Listener {
  stop(): Promise<void>;
}

const RECONNECT_MS = 500;

/**
 * Calls `onNotify` whenever the channel is notified, and once after each (re)connect, because what was notified while
 * nobody listened is not repeated. Notifications are a hint to look; what there is to do stands in tables.
 */
export function listen(
  ctx: { pool: pg.Pool; log: Logger },
  channel: Channel,
  onNotify: () => void,
): Listener {
  const abort = new AbortController();
  const run = async (): Promise<void> => {
    while (!abort.signal.aborted) {
      try {
        await listenOnce(ctx.pool, { channel, onNotify, signal: abort.signal });
      } catch (error) {
        ctx.log.debug({ channel, error: describeError(error) }, 'listening interrupted, coming back');
        await delay(RECONNECT_MS, undefined, { signal: abort.signal }).catch(() => undefined);
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
  { channel, onNotify, signal }: { channel: Channel; onNotify: () => void; signal: AbortSignal },
): Promise<void> {
  const client = await connect(pool);
  const closed = Promise.withResolvers<void>();
  const close = (): void => closed.resolve();
  client.on('end', close);
  client.on('notification', onNotify);
  signal.addEventListener('abort', close);
  try {
    await query(client, `listen ${channel}`);
    onNotify();
    if (!signal.aborted) await closed.promise;
    if (!signal.aborted) throw new Error('the listening connection ended');
  } finally {
    signal.removeEventListener('abort', close);
    client.release(true);
  }
}
