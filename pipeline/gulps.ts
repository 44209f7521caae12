import type { Socket } from 'node:net';

/** So many reads within so many milliseconds are a stream that comes faster than it can be waited for piece by piece. */
const READS_MAX = 32;
const READS_WITHIN_MS = 2;

/** Milliseconds that reading rests then. */
const REST_MS = 1;

/**
 * A walsender sends every message by itself, and whoever waits for it reads every message by itself: under load both spend
 * most of their time waking each other (300 bytes a read). Then reading rests for a moment, and what has come meanwhile is
 * read at once. A few messages, as a single transaction is, never wait. `mayRead` says whether reading goes on after a rest.
 */
export function readInGulps(socket: Socket, mayRead: () => boolean): void {
  let [reads, sinceMs] = [0, performance.now()];
  socket.on('data', () => {
    reads += 1;
    if (reads < READS_MAX) return;
    const nowMs = performance.now();
    const dense = nowMs - sinceMs <= READS_WITHIN_MS;
    [reads, sinceMs] = [0, nowMs];
    if (!dense || !mayRead()) return;
    socket.pause();
    setTimeout(() => {
      sinceMs = performance.now();
      if (mayRead()) socket.resume();
    }, REST_MS);
  });
}
