import { readFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import { until } from '../support/pipeline.ts';
import { type FaultProxy, startProxy } from '../support/proxy.ts';
import { type Service, startService } from '../support/service.ts';

/** A process of market-sync that crashes when it is told to, and its own ways to both servers. */
export interface Actor {
  service: Service;
  /** The crash that TEST_CRASH_POINT asked for at the start. */
  crash: Crash;
  /** Crashes at the next passage: `point:action`, `point:action:nth`. Answers once the process has agreed. */
  arm(order: string): Promise<Crash>;
  /** Loses the reply to the next request that has this in it. Settles when it is lost. */
  loseReply(request: LostRequest): Promise<void>;
  /** Ends the process, in order unless a signal is named. */
  stop(signal?: NodeJS.Signals): Promise<void>;
}

/** A crash that was asked for. */
export interface Crash {
  /** Settles when the process has come to the point. */
  reached: Promise<void>;
  /** After a reply that is to be lost: lets the process send its request. */
  proceed(): void;
}

/** Known by some bytes of it, such as the name of a prepared statement. */
export interface LostRequest {
  server: 'postgres' | 'mongodb';
  contains: string;
}

/** So many starts of one program: what it was compiled to halves the time of each. */
const COMPILE_CACHE = join(tmpdir(), 'market-sync-compile-cache');

export async function startActor(
  command: 'pipeline' | 'api' | 'migrate',
  settings: NodeJS.ProcessEnv & { DATABASE_URL: string; MONGODB_URL: string; TEST_CRASH_POINT: string },
): Promise<Actor> {
  const [postgres, mongodb] = [
    await startProxy(settings.DATABASE_URL),
    await startProxy(settings.MONGODB_URL),
  ];
  const service = startService(
    command,
    {
      ...settings,
      NODE_ENV: 'test',
      DATABASE_URL: postgres.url,
      MONGODB_URL: mongodb.url,
      NODE_COMPILE_CACHE: COMPILE_CACHE,
    },
    { ipc: true },
  );
  const { child } = service;
  const hear = (name: string): Promise<void> =>
    new Promise((resolve) => {
      const listen = (message: Record<string, unknown>): void => {
        if (!(name in message)) return;
        child.off('message', listen);
        resolve();
      };
      child.on('message', listen);
    });
  const say = (message: Record<string, unknown>): void => {
    child.send(message, () => undefined); // One that has ended is noticed where its end is waited for.
  };
  const expectCrash = (): Crash => {
    const reached = withinLife(service, hear('crashing'));
    reached.catch(() => undefined); // Who waits for it hears of it.
    return { reached, proceed: () => say({ proceed: true }) };
  };
  return {
    service,
    crash: expectCrash(),
    arm: async (order) => {
      const [armed, crash] = [hear('armed'), expectCrash()];
      say({ arm: order });
      await within('the process agrees', withinLife(service, armed));
      return crash;
    },
    loseReply: (request) =>
      request.server === 'postgres' ? losePostgres(postgres, request) : loseMongodb(mongodb, request),
    stop: async (signal = 'SIGTERM') => {
      await service.end(signal);
      await Promise.all([postgres.stop(), mongodb.stop()]);
    },
  };
}

const PATIENCE_MS = 60_000;

/** What waits for a crash fails when none comes, long before its test does. */
export async function within<Value>(what: string, awaited: Promise<Value>): Promise<Value> {
  const abort = new AbortController();
  const overdue = delay(PATIENCE_MS, undefined, { signal: abort.signal }).then(() => {
    throw new Error(`not within ${PATIENCE_MS} ms: ${what}`);
  });
  overdue.catch(() => undefined);
  return Promise.race([awaited, overdue]).finally(() => abort.abort());
}

/** What a process that ends says no more rejects. One that is killed may still have said it. */
async function withinLife(service: Service, said: Promise<void>): Promise<void> {
  const ended = service.exited.then(({ code, signal }) => {
    if (signal !== 'SIGKILL') {
      const lines = service.log.map((line) => JSON.stringify(line)).join('\n');
      throw new Error(`the process ended with ${code ?? signal}:\n${lines}`);
    }
  });
  ended.catch(() => undefined);
  await Promise.race([said, ended]);
}

/** What the server sends of itself: the stream of the slot, notices, notifications. */
const UNASKED = new Set([...'dWANS'].map((letter) => letter.charCodeAt(0)));

function losePostgres(proxy: FaultProxy, { contains }: LostRequest): Promise<void> {
  return lose(proxy, {
    ask: (chunk) => (chunk.includes(contains) ? true : undefined),
    answers: (chunk) => !UNASKED.has(chunk[0] ?? 0),
  });
}

/** Length, id, id of the request that is answered: the head of every message of MongoDB's. */
const [ID_AT, ANSWERED_AT] = [4, 8];

function loseMongodb(proxy: FaultProxy, { contains }: LostRequest): Promise<void> {
  return lose(proxy, {
    ask: (chunk) =>
      chunk.includes(contains) && chunk.includes('market_listings') ? chunk.readInt32LE(ID_AT) : undefined,
    answers: (chunk, id) => chunk.length > ANSWERED_AT + 4 && chunk.readInt32LE(ANSWERED_AT) === id,
  });
}

function lose<Id>(
  proxy: FaultProxy,
  { ask, answers }: { ask(chunk: Buffer): Id | undefined; answers(chunk: Buffer, id: Id): boolean },
): Promise<void> {
  let asked: Id | undefined;
  return new Promise((resolve) => {
    proxy.onRequest = (chunk) => {
      asked ??= ask(chunk);
    };
    proxy.onReply = (chunk) => {
      if (asked === undefined || !answers(chunk, asked)) return 'forward';
      proxy.onRequest = () => undefined;
      proxy.onReply = () => 'forward';
      resolve();
      return 'cut';
    };
  });
}

/** Waits until the process stands still. */
export const untilStopped = ({ pid }: Service): Promise<void> =>
  until(`process ${pid} is stopped`, () => {
    if (process.platform !== 'linux') return true; // It has said so, and nobody else knows.
    const status = readFileSync(`/proc/${pid}/stat`, 'utf8');
    return status.slice(status.lastIndexOf(')') + 2).startsWith('T');
  });
