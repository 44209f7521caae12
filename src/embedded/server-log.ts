import { copyFile, stat, truncate } from 'node:fs/promises';

const LOG_BYTES_MAX = 4 * 1024 * 1024;
const CHECK_INTERVAL_MS = 30_000;

/**
 * Keeps a server's log, which the server itself appends to, from growing without bound: past 4 MiB its content moves
 * to `<file>.1`. Looks every 30 s until `stop` is called, and once at the start.
 */
export async function boundServerLog(file: string): Promise<{ stop(): void }> {
  await rotate(file);
  const timer = setInterval(() => {
    // A full disk must not stop the program over its server's log; the next look tries again.
    rotate(file).catch(() => undefined);
  }, CHECK_INTERVAL_MS);
  timer.unref();
  return { stop: () => clearInterval(timer) };
}

/** Copies and truncates instead of renaming: the server holds the file open, and appends, so it starts over at 0. */
async function rotate(file: string): Promise<void> {
  const found = await stat(file).catch(() => undefined);
  if (found === undefined || found.size <= LOG_BYTES_MAX) return;
  await copyFile(file, `${file}.1`);
  await truncate(file);
}
