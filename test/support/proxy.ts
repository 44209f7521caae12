import { once } from 'node:events';
import { connect, createServer, type Server, type Socket } from 'node:net';
import { setTimeout as sleep } from 'node:timers/promises';

/** What becomes of a chunk. `cut` resets the client's connection; `swallow` loses the chunk and tells nobody. */
type Fate = 'forward' | 'cut' | 'swallow';

/** Stands between clients and a real server on loopback, and makes the failures that a network makes. */
export interface FaultProxy {
  /** The server's URL by way of the proxy. */
  url: string;
  /** Called with every chunk that a client sent, before it is passed on. `hold()` in it holds this chunk already. */
  onRequest: (chunk: Buffer) => void;
  /** Called with every chunk of the server's; what it answers decides the chunk's fate. */
  onReply: (chunk: Buffer) => Fate;
  /** Ends every connection and refuses new ones: a killed server. */
  refuse(): Promise<void>;
  /** Accepts and passes nothing on, not even the end of a connection, and nobody is told: a lost route. */
  hang(): void;
  /** Keeps what arrives, from either side and on new connections too: a network that delivers late. */
  hold(): void;
  /** Delivers all that was held, in order, also of clients that have gone since; then passes again. Connections stay. */
  release(): Promise<void>;
  /** Passes a piece at a time, each after a delay, and reads no further meanwhile. `slow(0)` ends it. */
  slow(delayMs: number, pieceBytes?: number): void;
  /**
   * Dies and returns so many times, each time at a request, which is lost, after `requestsBetween` others that pass.
   * Settles with the last return, and when something else is made of the proxy before.
   */
  flap(times: number, requestsBetween?: number): Promise<void>;
  /** Passes everything again, on the same port. What was swallowed or held is lost, with the connections it was on. */
  heal(): Promise<void>;
  /** New connections go to this server from now on; those that there are stay. */
  retarget(url: string): void;
  stop(): Promise<void>;
}

export async function startProxy(targetUrl: string): Promise<FaultProxy> {
  let target = new URL(targetUrl);
  const network = new Network();
  // Half-open, because an end is carried like what was sent before it: late, slowly, or never.
  const server = createServer({ allowHalfOpen: true }, (client) => {
    const upstream = connect({ port: Number(target.port), host: target.hostname, allowHalfOpen: true });
    network.carry(client, upstream, (chunk) => {
      if (flapping.countRequest()) {
        void inTurn(dieAndReturn);
        return 'swallow';
      }
      proxy.onRequest(chunk);
      return 'forward';
    });
    network.carry(upstream, client, (chunk) => proxy.onReply(chunk));
  });
  const flapping = new Flapping();
  const port = await listenSomewhere(server);
  const die = async (): Promise<void> => {
    network.endAll();
    if (!server.listening) return;
    server.close();
    await once(server, 'close');
  };
  const dieAndReturn = async (): Promise<void> => {
    await die();
    network.reset();
    await listen(server, port);
    flapping.returned();
  };
  // One after the other: a server cannot listen while it still closes.
  let turn = Promise.resolve();
  const inTurn = (work: () => Promise<void>): Promise<void> => {
    const done = turn.then(work);
    turn = done.catch(() => undefined); // Whoever asked for it hears of it.
    return done;
  };
  const dieForGood = (): Promise<void> => {
    flapping.end();
    return inTurn(die);
  };
  const url = new URL(targetUrl);
  url.host = `127.0.0.1:${port}`;
  const proxy: FaultProxy = {
    url: url.href,
    onRequest: () => undefined,
    onReply: () => 'forward',
    refuse: dieForGood,
    hang: () => network.enter('hang'),
    hold: () => network.enter('hold'),
    release: () => network.release(),
    slow: (delayMs, pieceBytes = CHUNK_BYTES) => network.slowDown(delayMs, pieceBytes),
    flap: (times, requestsBetween = 0) => flapping.begin(times, requestsBetween),
    heal: () => {
      flapping.end();
      return inTurn(dieAndReturn);
    },
    retarget: (next) => {
      target = new URL(next);
    },
    stop: dieForGood,
  };
  return proxy;
}

/** What a socket gives at once. */
const CHUNK_BYTES = 65_536;

/** Carries bytes between pairs of sockets, in the way it is told to. */
class Network {
  readonly #sockets = new Set<Socket>();
  #mode: 'pass' | 'hang' | 'hold' = 'pass';
  #held: (() => void)[] = [];
  #delayMs = 0;
  #pieceBytes = CHUNK_BYTES;

  /** One direction of a connection: its chunks, and its end. */
  carry(from: Socket, to: Socket, inspect: (chunk: Buffer) => Fate): void {
    let trickled = Promise.resolve();
    const inOrder = (deliver: () => void): void => {
      if (this.#mode === 'hang') return;
      if (this.#mode === 'hold') this.#held.push(deliver);
      else void trickled.then(deliver);
    };
    this.#sockets.add(from);
    from.on('data', (chunk) => {
      if (this.#mode === 'hang') return;
      const fate = inspect(chunk);
      if (fate === 'cut') to.resetAndDestroy();
      if (fate !== 'forward') return;
      if (this.#mode === 'hold') this.#held.push(() => write(to, chunk));
      else if (this.#delayMs > 0) trickled = this.#trickle(from, to, chunk);
      else write(to, chunk);
    });
    from.on('error', () => undefined); // The other side learns of it by the end.
    from.on('end', () => inOrder(() => to.end()));
    from.on('close', () => {
      this.#sockets.delete(from);
      inOrder(() => to.destroySoon());
    });
  }

  async #trickle(from: Socket, to: Socket, chunk: Buffer): Promise<void> {
    // So at most one chunk of a direction waits here; TCP lets the sender wait.
    from.pause();
    for (let start = 0; start < chunk.length; start += this.#pieceBytes) {
      await sleep(this.#delayMs);
      write(to, chunk.subarray(start, start + this.#pieceBytes));
    }
    from.resume();
  }

  enter(mode: 'hang' | 'hold'): void {
    this.#mode = mode;
  }

  slowDown(delayMs: number, pieceBytes: number): void {
    [this.#delayMs, this.#pieceBytes] = [delayMs, pieceBytes];
  }

  async release(): Promise<void> {
    if (this.#mode === 'hold') this.#mode = 'pass';
    const late = this.#held;
    this.#held = [];
    for (const deliver of late) deliver();
  }

  endAll(): void {
    this.#held = [];
    for (const socket of this.#sockets) socket.destroy();
  }

  reset(): void {
    [this.#mode, this.#delayMs] = ['pass', 0];
  }
}

function write(to: Socket, chunk: Buffer): void {
  if (!to.writableEnded && !to.destroyed) to.write(chunk);
}

/** Counts requests until the next death, and deaths until the last. */
class Flapping {
  #left = 0;
  #between = 0;
  #requests = 0;
  #done = (): void => undefined;

  begin(times: number, requestsBetween: number): Promise<void> {
    this.end();
    [this.#left, this.#between, this.#requests] = [times, requestsBetween, 0];
    return new Promise((resolve) => {
      this.#done = resolve;
    });
  }

  /** True when the server dies at this request. */
  countRequest(): boolean {
    this.#requests += 1;
    if (this.#left === 0 || this.#requests <= this.#between) return false;
    [this.#left, this.#requests] = [this.#left - 1, 0];
    return true;
  }

  returned(): void {
    if (this.#left === 0) this.#done();
  }

  end(): void {
    this.#left = 0;
    this.#done();
  }
}

async function listen(server: Server, port: number): Promise<void> {
  server.listen(port, '127.0.0.1');
  await once(server, 'listening');
}

/**
 * A port below those that outgoing connections are given: a proxy that refuses has its port closed for a while, and must
 * find it free when it heals. (On such a port a client that tries again and again may even connect to itself.)
 */
async function listenSomewhere(server: Server): Promise<number> {
  const [FIRST, COUNT, TRIES_MAX] = [28_000, 4_000, 50];
  for (let tries = 1; ; tries += 1) {
    const port = FIRST + Math.floor(Math.random() * COUNT);
    try {
      await listen(server, port);
      return port;
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code !== 'EADDRINUSE' || tries === TRIES_MAX) throw error;
    }
  }
}
