import { setTimeout as delay } from 'node:timers/promises';
import { describeError } from '../errors.ts';
import type { Logger } from '../log.ts';

/** Longest a stop waits for a start that is under way, before it takes away what that start stands on. */
const START_TIMEOUT_MS = 4_000;

/** Longest a stop may take in all; then the process ends as it is, which nothing here depends on. */
const STOP_TIMEOUT_MS = 9_500;

/**
 * What has been started, so that it can be stopped in the opposite order: on a signal, on a failure half-way through
 * the start, or when a part ends with an error that nothing can be done about.
 */
export class Running {
  readonly #log: Logger;
  readonly #stops: { name: string; stop: () => Promise<void> }[] = [];
  readonly #failure = Promise.withResolvers<never>();
  /** Parts that came too late, being stopped; undefined while none is too late. */
  #late: Promise<void>[] | undefined;

  constructor(log: Logger) {
    this.#log = log;
    this.#failure.promise.catch(() => undefined);
  }

  /** Adds a part that has started. Once a stop has begun, stops the part instead and throws, which ends the start. */
  add(name: string, stop: () => Promise<void>): void {
    if (this.#late === undefined) {
      this.#stops.push({ name, stop });
      return;
    }
    this.#late.push(this.#stopPart({ name, stop }));
    throw new Error(`stopped while starting: ${name}`);
  }

  /** A part that rejects takes everything down. */
  watch(part: Promise<unknown>): void {
    part.catch((error: unknown) => this.#failure.reject(error));
  }

  /** Rejects when a part has failed. */
  get failed(): Promise<never> {
    return this.#failure.promise;
  }

  /** Stops everything in the opposite order, what `started` is about to add included. */
  async stop(started: Promise<void>): Promise<void> {
    const abort = new AbortController();
    const overdue = delay(STOP_TIMEOUT_MS, undefined, { signal: abort.signal }).then(
      () => {
        this.#log.error({ timeout_ms: STOP_TIMEOUT_MS }, 'stopping takes too long, ending');
        process.exit(1);
      },
      () => undefined,
    );
    const settled = started.catch(() => undefined);
    // A start under way finishes or fails first, if it does so soon: parts that stand on others stop before them.
    await Promise.race([
      settled,
      delay(START_TIMEOUT_MS, undefined, { signal: abort.signal }).catch(() => undefined),
    ]);
    this.#late = [];
    for (const part of this.#stops.toReversed()) await this.#stopPart(part);
    await settled;
    await Promise.all(this.#late);
    abort.abort();
    await overdue;
  }

  async #stopPart({ name, stop }: { name: string; stop: () => Promise<void> }): Promise<void> {
    try {
      await stop();
    } catch (error) {
      this.#log.error({ part: name, error: describeError(error) }, 'a part did not stop in order');
    }
  }
}

/**
 * Runs a service until SIGINT or SIGTERM, then stops everything in order; a third signal ends the process at once.
 * Whatever goes wrong, what was started is stopped before the error is thrown on.
 */
export async function runService(log: Logger, start: (running: Running) => Promise<void>): Promise<void> {
  const running = new Running(log);
  const signalled = Promise.withResolvers<NodeJS.Signals>();
  let signals = 0;
  const onSignal = (signal: NodeJS.Signals): void => {
    signals += 1;
    // npm passes a terminal's Ctrl-C on a second time: only a third one is somebody's impatience.
    if (signals > 2) process.exit(130);
    signalled.resolve(signal);
  };
  process.on('SIGINT', onSignal);
  process.on('SIGTERM', onSignal);
  const started = start(running);
  started.catch(() => undefined);
  try {
    const outcome = await Promise.race([
      signalled.promise,
      started.then(() => Promise.race([signalled.promise, running.failed])),
      running.failed,
    ]);
    log.info({ signal: outcome }, 'stopping');
  } finally {
    await running.stop(started);
    process.off('SIGINT', onSignal);
    process.off('SIGTERM', onSignal);
  }
}
