import { readFileSync } from 'node:fs';
import { DirtySet } from '../pipeline/dirty.ts';
import { startReplication } from '../pipeline/replication.ts';
import { parseLsn } from '../src/lsn.ts';

// The pipeline's own reading of a slot, in a process of its own: stream, decoder, set of dirty keys. Prints how long it
// took from the beginning of the stream to the commit at BENCH_END_LSN, and the most memory the process has held.

/** As PENDING_KEYS_MAX and BATCH_KEYS_MAX are by default: as much waits before reading pauses, as much is taken at once. */
const PENDING_KEYS_MAX = 100_000;
const BATCH_KEYS_MAX = 250;

const endLsn = parseLsn(process.env.BENCH_END_LSN ?? '');
const startLsn = parseLsn(process.env.BENCH_START_LSN ?? '');
const dirty = new DirtySet(startLsn);
const done = Promise.withResolvers<void>();
let keys = 0;
const replication = await startReplication({
  url: process.env.BENCH_DATABASE_URL ?? '',
  slotName: process.env.BENCH_SLOT ?? '',
  startLsn,
  silenceMaxMs: 60_000,
  onChange: (change) => {
    if (change.kind === 'begin') dirty.begin(change);
    else if (change.kind === 'booking') dirty.addBookings(change.bookingIds);
    else if (change.kind === 'commit') {
      dirty.commit(change.endLsn);
      if (change.endLsn >= endLsn) done.resolve();
    }
    if (dirty.isFull(PENDING_KEYS_MAX)) {
      while (dirty.isFull(PENDING_KEYS_MAX / 2)) keys += dirty.take(BATCH_KEYS_MAX).keyCount;
    }
  },
  onKeepalive: () => undefined,
});
const startedAt = performance.now();
await Promise.race([done.promise, replication.ended]);
const elapsedMs = performance.now() - startedAt;
while (dirty.hasWork) keys += dirty.take(BATCH_KEYS_MAX).keyCount;
process.stdout.write(`${JSON.stringify({ elapsedMs, peakMb: peakMb(), keys })}\n`);
await replication.stop();

/** What the operating system has counted; on Linux from /proc, because `maxRSS` there begins with the parent's. */
function peakMb(): number {
  try {
    const found = /^VmHWM:\s+(\d+) kB$/m.exec(readFileSync('/proc/self/status', 'utf8'));
    if (found !== null) return Number(found[1]) / 1024;
  } catch {
    // No Linux.
  }
  return process.resourceUsage().maxRSS / 1024;
}
