import { once } from 'node:events';
import { type AddressInfo, connect, createServer, type Socket } from 'node:net';

/** Stands between a client and a real server on loopback, and makes the failures that a network makes. */
export interface FaultProxy {
  /** The server's URL by way of the proxy. */
  url: string;
  /** Called with every chunk that the client sent, before it is passed on. */
  onRequest: (chunk: Buffer) => void;
  /** Called with every chunk of the server's; what it answers decides the chunk's fate. `cut` resets the client. */
  onReply: (chunk: Buffer) => 'forward' | 'cut';
  /** Ends every connection and refuses new ones: a killed server. */
  refuse(): Promise<void>;
  /** Accepts and passes nothing on, and nobody is told: a hanging server, a lost route. */
  hang(): void;
  /** Passes everything again, on the same port. What was swallowed is lost, and so are the connections it was on. */
  heal(): Promise<void>;
  stop(): Promise<void>;
}

export async function startProxy(targetUrl: string): Promise<FaultProxy> {
  const target = new URL(targetUrl);
  const sockets = new Set<Socket>();
  let hanging = false;
  const server = createServer((client) => {
    const upstream = connect(Number(target.port), target.hostname);
    for (const [socket, other] of [
      [client, upstream],
      [upstream, client],
    ] as const) {
      sockets.add(socket);
      socket.on('error', () => undefined); // The other end learns of it by 'close'.
      socket.on('close', () => {
        sockets.delete(socket);
        other.destroy();
      });
    }
    client.on('data', (chunk) => {
      if (hanging) return;
      proxy.onRequest(chunk);
      upstream.write(chunk);
    });
    upstream.on('data', (chunk) => {
      if (hanging) return;
      if (proxy.onReply(chunk) === 'cut') client.resetAndDestroy();
      else client.write(chunk);
    });
  });
  const open = async (port: number): Promise<void> => {
    server.listen(port, '127.0.0.1');
    await once(server, 'listening');
  };
  const close = async (): Promise<void> => {
    for (const socket of sockets) socket.destroy();
    if (!server.listening) return;
    server.close();
    await once(server, 'close');
  };
  await open(0);
  const { port } = server.address() as AddressInfo;
  const url = new URL(targetUrl);
  url.port = String(port);
  const proxy: FaultProxy = {
    url: url.href,
    onRequest: () => undefined,
    onReply: () => 'forward',
    refuse: close,
    hang: () => {
      hanging = true;
    },
    heal: async () => {
      await close();
      hanging = false;
      await open(port);
    },
    stop: close,
  };
  return proxy;
}
