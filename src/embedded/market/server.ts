import { once } from 'node:events';
import { createServer, type Server, type Socket } from 'node:net';
import { pipeline } from 'node:stream/promises';
import { describeError, EnvironmentError } from '../../errors.ts';
import type { Logger } from '../../log.ts';
import { classifyPostgresError, createPool } from '../../postgres.ts';
import { encode } from './bson.ts';
import { type Context, createContext, runCommand } from './commands.ts';
import { createSchema } from './storage.ts';
import { CommandFailure, FAILURE } from './values.ts';
import { encodeReply, ProtocolError, type Request, readRequests } from './wire.ts';
import { toFailure } from './write.ts';

export interface EmbeddedMarket {
  /** For the MongoDB driver. */
  url: string;
  /** Answers what is under way, then closes every connection. */
  stop(): Promise<void>;
}

/**
 * The stand-in for Market Connect (D12): speaks MongoDB's wire protocol on `host:port` (port 0: a free one) and keeps
 * its documents in the schema `embedded_market` of a PostgreSQL database. A write is answered after its commit there,
 * so it survives whatever PostgreSQL survives. For trying and testing: no users, no replication, no secondary indexes.
 *
 * Throws an `EnvironmentError` when the port is taken, and PostgreSQL's error when the database cannot be used.
 */
export async function startMarket(options: {
  databaseUrl: string;
  host: string;
  port: number;
  log: Logger;
}): Promise<EmbeddedMarket> {
  const { host, log } = options;
  const databaseUrl = new URL(options.databaseUrl);
  // The tables start empty, and a plan made then stays in use when they are large: it must go by the indexes.
  databaseUrl.searchParams.set('options', '-c enable_seqscan=off');
  const pool = createPool({
    url: databaseUrl.href,
    applicationName: 'market-sync embedded market',
    sourceSchema: 'embedded_market',
    log,
    connectionsMax: 4,
  });
  try {
    await createSchema(pool);
    const service: Service = { context: createContext(pool), log, stopping: false, idle: new Set() };
    const connections = new Set<Promise<void>>();
    const server = createServer((socket) => {
      const connection = serve(service, socket).finally(() => connections.delete(connection));
      connections.add(connection);
    });
    const port = await listen(server, host, options.port);
    return {
      url: `mongodb://${host}:${port}/?directConnection=true`,
      stop: async () => {
        service.stopping = true;
        server.close();
        for (const socket of service.idle) socket.destroy();
        await Promise.all(connections);
        await pool.end();
      },
    };
  } catch (error) {
    await pool.end();
    throw error;
  }
}

interface Service {
  context: Context;
  log: Logger;
  stopping: boolean;
  /** Connections that wait for a request. */
  idle: Set<Socket>;
}

async function listen(server: Server, host: string, port: number): Promise<number> {
  server.listen(port, host);
  try {
    await once(server, 'listening');
  } catch (cause) {
    throw new EnvironmentError(
      `EMBEDDED_MARKET_PORT=${port}: the embedded market cannot listen on ${host} (${describeError(cause)}). Choose another port, or 0 for a free one.`,
      { cause },
    );
  }
  const address = server.address();
  if (address === null || typeof address === 'string') throw new Error('the server has no port');
  return address.port;
}

/** Answers one connection until it ends. Never throws. */
async function serve(service: Service, socket: Socket): Promise<void> {
  const { context, log, idle } = service;
  socket.setNoDelay(true);
  idle.add(socket);
  const closed = once(socket, 'close');
  const served = pipeline(
    socket,
    async function* (source: AsyncIterable<Buffer>) {
      for await (const request of readRequests(source)) {
        idle.delete(socket);
        const reply = await answer(context, request, log);
        if (request.wantsReply) yield reply;
        if (service.stopping) return;
        idle.add(socket);
      }
    },
    socket,
  );
  try {
    // A reply to a socket that was reset meanwhile waits for ever to be written; a closed one is over in any case.
    await Promise.race([served, closed]);
  } catch (error) {
    if (error instanceof ProtocolError) {
      log.warn({ error: describeError(error) }, 'market connection closed: not the mongodb wire protocol');
    } else {
      log.debug({ error: describeError(error) }, 'market connection lost');
    }
  } finally {
    idle.delete(socket);
    socket.destroy();
  }
}

async function answer(context: Context, request: Request, log: Logger): Promise<Buffer> {
  try {
    return encodeReply(request, await runCommand(context, request));
  } catch (error) {
    const failure = toFailure(error) ?? toServerFailure(error, log);
    const codeName = Object.entries(FAILURE).find(([, code]) => code === failure.code)?.[0];
    const { code, message: errmsg, details } = failure;
    return encodeReply(request, encode({ ok: 0, errmsg, code, codeName, ...details }));
  }
}

/** What is not the client's fault: PostgreSQL being away is for the client to try again, anything else a defect. */
function toServerFailure(error: unknown, log: Logger): CommandFailure {
  if (classifyPostgresError(error) === 'retryable') {
    log.warn({ error: describeError(error) }, 'market command failed: postgres unavailable');
    return new CommandFailure(FAILURE.HostUnreachable, `PostgreSQL: ${describeError(error)}`);
  }
  log.error({ error: describeError(error) }, 'market command failed');
  return new CommandFailure(FAILURE.InternalError, describeError(error));
}
