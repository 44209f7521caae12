import { once } from 'node:events';
import { connect, createServer, type Socket } from 'node:net';

export interface TcpProxy {
  /** The market's URL by way of the proxy. */
  url: string;
  /** Called with every chunk on its way back; what it returns decides its fate. */
  onReply: (chunk: Buffer) => 'forward' | 'cut' | 'swallow';
  /** Counts the requests that went through and whose bytes contain the text. */
  requests: (text: string) => number;
  stop(): Promise<void>;
}

/** Stands between driver and server, to lose what comes back: the request has then taken effect, unknown to the client. */
export async function startProxy(targetUrl: string): Promise<TcpProxy> {
  const target = new URL(targetUrl);
  const sockets = new Set<Socket>();
  const sent: string[] = [];
  const server = createServer((client) => {
    const upstream = connect(Number(target.port), target.hostname);
    for (const [socket, other] of [
      [client, upstream],
      [upstream, client],
    ] as const) {
      sockets.add(socket);
      socket.on('error', () => undefined);
      socket.on('close', () => {
        sockets.delete(socket);
        other.destroy();
      });
    }
    client.on('data', (chunk) => {
      sent.push(chunk.toString('latin1'));
      upstream.write(chunk);
    });
    upstream.on('data', (chunk) => {
      const fate = proxy.onReply(chunk);
      if (fate === 'forward') client.write(chunk);
      if (fate === 'cut') client.destroy();
    });
  });
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  const address = server.address();
  if (address === null || typeof address === 'string') throw new Error('no port');
  const proxy: TcpProxy = {
    url: `mongodb://127.0.0.1:${address.port}/?directConnection=true`,
    onReply: () => 'forward',
    requests: (text) => sent.filter((chunk) => chunk.includes(text)).length,
    async stop() {
      for (const socket of sockets) socket.destroy();
      server.close();
      await once(server, 'close');
    },
  };
  return proxy;
}
