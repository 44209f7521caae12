import { setTimeout as sleep } from 'node:timers/promises';
import { describeError } from '../errors.ts';
import type { Logger } from '../log.ts';
import { launchServer, type RunningServer, type ServerPlace, stopServer } from './server.ts';

const FAST_SHUTDOWN_MS = 5_000;
const RETRY_FIRST_MS = 100;
const RETRY_MAX_MS = 5_000;

/**
 * Starts a server that ended by itself (killed, crashed, out of memory) again on its port, with growing pauses, until
 * `stop`; whoever is connected to it has to reconnect. `stop` shuts it down fast, after 5 s immediately.
 */
export function superviseServer(input: {
  first: RunningServer;
  place: ServerPlace;
  parameters: Readonly<Record<string, string>>;
  log: Logger;
}): { stop(): Promise<void> } {
  const { log, parameters, place } = input;
  const { port } = input.first;
  const stopping = new AbortController();
  let current: RunningServer | undefined = input.first;

  const end = async (server: RunningServer) => {
    const how = await stopServer({ pid: server.pid, fastTimeoutMs: FAST_SHUTDOWN_MS });
    if (how === 'immediate')
      log.warn({ pid: server.pid }, 'embedded postgresql had to be stopped immediately');
  };
  const startAgain = async (): Promise<RunningServer | undefined> => {
    for (
      let pauseMs = RETRY_FIRST_MS;
      !stopping.signal.aborted;
      pauseMs = Math.min(2 * pauseMs, RETRY_MAX_MS)
    ) {
      try {
        return await launchServer(place, { port, parameters });
      } catch (error) {
        log.error({ error: describeError(error) }, 'embedded postgresql could not be started again');
      }
      await sleep(pauseMs, undefined, { signal: stopping.signal }).catch(() => undefined);
    }
    return undefined;
  };
  const supervise = async () => {
    while (current !== undefined) {
      if (stopping.signal.aborted) await end(current);
      await current.exited;
      if (stopping.signal.aborted) return;
      log.warn({ pid: current.pid }, 'embedded postgresql ended unexpectedly, starting it again');
      current = undefined;
      current = await startAgain();
    }
  };
  const supervised = supervise();
  return {
    async stop() {
      stopping.abort();
      if (current !== undefined) await end(current);
      await supervised;
    },
  };
}
