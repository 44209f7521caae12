import type pg from 'pg';
import { type Channel, type Listener, startListening } from '../src/listen.ts';
import type { Logger } from '../src/log.ts';

/** Calls `onNotify` whenever the channel is notified, and `onConnect` once after each (re)connect. */
export const listen = (
  ctx: { pool: pg.Pool; log: Logger },
  channel: Channel,
  onNotify: () => void,
  onConnect: () => void = onNotify,
): Listener => startListening(ctx, { channel, onNotify: () => onNotify(), onConnect });
