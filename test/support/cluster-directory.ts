import { spawn } from 'node:child_process';
import { chmod, mkdtemp, readdir, readFile, realpath, rm, stat, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { basename, dirname, join } from 'node:path';
import { type Account, mayEnter, runsAsRoot } from '../../src/embedded/account.ts';
import { isAlive } from '../../src/embedded/processes.ts';
import { findRunningServer, stopServer } from '../../src/embedded/server.ts';

const PREFIX = 'market-sync-test-';
const OWNER_FILE = 'owner';

/** SIGQUIT needs no cooperation of clients. A server is gone when its pid file is, or its process. */
const REAP = `
cat > /dev/null
find "$1" -name postmaster.pid | while read -r file; do
  pid=$(head -n 1 "$file")
  kill -QUIT "$pid" 2> /dev/null
  for i in 1 2 3 4 5 6 7 8 9 10; do
    [ -e "$file" ] && kill -0 "$pid" 2> /dev/null || break
    sleep 1
  done
done
rm -rf -- "$1"
`;

/**
 * A temporary directory for the clusters of a test. It names the process that owns it, so that a later run can tell
 * what a killed one left behind.
 *
 * However this process ends, by SIGKILL too, servers in it are stopped and the directory removed: a shell in a session
 * of its own waits for the pipe from this process to close.
 */
export async function createClusterDirectory(
  account: Account | undefined,
): Promise<{ path: string; remove(): Promise<void> }> {
  // TMPDIR may be root's own.
  const base = account === undefined || (await mayEnter(account, tmpdir())) ? tmpdir() : '/tmp';
  const path = await realpath(await mkdtemp(join(base, PREFIX)));
  await chmod(path, 0o711);
  await writeFile(join(path, OWNER_FILE), String(process.pid));
  const reaper = spawn('/bin/sh', ['-c', REAP, 'sh', path], {
    cwd: '/',
    detached: true,
    stdio: ['pipe', 'ignore', 'ignore'],
  });
  const removed = new Promise<void>((resolve) => reaper.once('exit', () => resolve()));
  reaper.unref();
  return {
    path,
    async remove() {
      reaper.ref();
      reaper.stdin.end();
      await removed;
    },
  };
}

/** Stops and removes what runs left behind whose process is gone, reaper included; never what belongs to a living one. */
export async function removeAbandonedClusters(): Promise<void> {
  for (const base of new Set([tmpdir(), '/tmp'])) {
    for (const name of await readdir(base)) {
      if (!name.startsWith(PREFIX)) continue;
      const directory = join(base, name);
      if (!runsAsRoot() && (await stat(directory)).uid !== process.getuid?.()) continue;
      const owner = Number(await readFile(join(directory, OWNER_FILE), 'utf8').catch(() => ''));
      if (owner === 0 || (await isAlive(owner))) continue;
      await stopServersIn(await realpath(directory));
      await rm(directory, { recursive: true, force: true });
    }
  }
}

async function stopServersIn(directory: string): Promise<void> {
  for (const path of await readdir(directory, { recursive: true })) {
    if (basename(path) !== 'postmaster.pid') continue;
    const server = await findRunningServer(dirname(join(directory, path)));
    if (server !== undefined) await stopServer({ pid: server.pid, fastTimeoutMs: 0 });
  }
}
