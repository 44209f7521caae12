import { once } from 'node:events';
import { type AddressInfo, connect, createServer, type Socket } from 'node:net';

export interface TcpProxy {
  port: number;
  /** Nothing passes any more, and nobody is told: what a hanging server or a lost route looks like. */
  hang(): void;
  /** Ends every connection and refuses new ones: what a killed server looks like. */
  cut(): Promise<void>;
  /** Passes everything again, on the same port. */
  heal(): Promise<void>;
}

/** Stands between a client and a real server on loopback, to make the failures that a network makes. */
export async function startProxy(target: { host: string; port: number }): Promise<TcpProxy> {
  const sockets = new Set<Socket>();
  let hanging = false;
  const server = createServer((client) => {
    const upstream = connect(target);
    for (const [from, to] of [
      [client, upstream],
      [upstream, client],
    ] as const) {
      sockets.add(from);
      from.on('data', (data) => {
        if (!hanging) to.write(data);
      });
      from.on('error', () => to.destroy());
      from.on('close', () => {
        sockets.delete(from);
        to.destroy();
      });
    }
  });
  const open = async (port: number): Promise<void> => {
    server.listen(port, '127.0.0.1');
    await once(server, 'listening');
  };
  const cut = async (): Promise<void> => {
    for (const socket of sockets) socket.destroy();
    if (!server.listening) return;
    server.close();
    await once(server, 'close');
  };
  await open(0);
  const { port } = server.address() as AddressInfo;
  return {
    port,
    hang: () => {
      hanging = true;
    },
    cut,
    async heal() {
      hanging = false;
      // What was swallowed while hanging is lost: those connections are of no use.
      await cut();
      await open(port);
    },
  };
}
