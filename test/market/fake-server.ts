import { once } from 'node:events';
import { createServer } from 'node:net';
import { type Document, decode, encode } from '../../src/embedded/market/bson.ts';
import { encodeReply, readRequests } from '../../src/embedded/market/wire.ts';

const HELLO = {
  isWritablePrimary: true,
  maxBsonObjectSize: 16_777_216,
  minWireVersion: 0,
  maxWireVersion: 21,
};

/** A server that says what a test wants it to, for what no server at hand can be made to say. */
export async function startFakeServer(
  answers: Record<string, Document>,
): Promise<{ port: number; stop(): Promise<void> }> {
  const server = createServer(async (socket) => {
    socket.on('error', () => undefined);
    for await (const request of readRequests(socket)) {
      const command = decode(request.body);
      const name = Object.keys(command)[0] as string;
      const isHello = ['hello', 'ismaster', 'isMaster'].includes(name);
      const reply = isHello ? { ...HELLO, ...answers.hello } : (answers[name] ?? {});
      socket.write(encodeReply(request, encode({ ok: 1, ...reply })));
    }
  });
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  const address = server.address();
  if (address === null || typeof address === 'string') throw new Error('no port');
  return {
    port: address.port,
    async stop() {
      server.close();
      await once(server, 'close');
    },
  };
}
