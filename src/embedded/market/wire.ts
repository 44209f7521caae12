import { nestedBytes, parse } from './bson.ts';

/** MongoDB's wire protocol: https://www.mongodb.com/docs/manual/reference/mongodb-wire-protocol/ */
const OP_REPLY = 1;
const OP_QUERY = 2004;
const OP_MSG = 2013;

const HEADER_BYTES = 16;
const FLAG_CHECKSUM_PRESENT = 1;
const FLAG_MORE_TO_COME = 2;
const CHECKSUM_BYTES = 4;

export const MESSAGE_BYTES_MAX = 48_000_000;

/** The peer does not speak the protocol; nothing sensible can follow on this connection. */
export class ProtocolError extends Error {
  override name = 'ProtocolError';
}

export interface Request {
  requestId: number;
  /** Handshakes of older drivers come as OP_QUERY and are answered as OP_REPLY. */
  legacy: boolean;
  /** False when the client wants no reply (write concern 0). */
  wantsReply: boolean;
  /** The command as BSON, without what came in sections of its own. */
  body: Buffer;
  /** Documents of the command, by field, that came in sections of their own. */
  sequences: Map<string, Buffer[]>;
}

/**
 * The requests of one connection, in order. Reading waits while a request is worked on, so that a client cannot fill
 * the memory. Throws a `ProtocolError` on anything that is not a message of at most 48 MB.
 */
export async function* readRequests(source: AsyncIterable<Buffer>): AsyncGenerator<Request> {
  let chunks: Buffer[] = [];
  let bufferedBytes = 0;
  for await (const chunk of source) {
    chunks.push(chunk);
    bufferedBytes += chunk.length;
    while (bufferedBytes >= HEADER_BYTES) {
      if ((chunks[0] as Buffer).length < 4) chunks = [Buffer.concat(chunks)];
      const length = (chunks[0] as Buffer).readInt32LE(0);
      if (length < HEADER_BYTES || length > MESSAGE_BYTES_MAX) {
        throw new ProtocolError(`a message of ${length} bytes`);
      }
      if (bufferedBytes < length) break;
      const buffered = Buffer.concat(chunks);
      const rest = buffered.subarray(length);
      chunks = rest.length === 0 ? [] : [rest];
      bufferedBytes = rest.length;
      yield parseRequest(buffered.subarray(0, length));
    }
  }
}

function parseRequest(message: Buffer): Request {
  const requestId = message.readInt32LE(4);
  const opCode = message.readInt32LE(12);
  try {
    if (opCode === OP_MSG) return { requestId, legacy: false, ...parseMessage(message) };
    if (opCode === OP_QUERY) {
      return { requestId, legacy: true, wantsReply: true, body: parseQuery(message), sequences: new Map() };
    }
  } catch (cause) {
    throw new ProtocolError('a malformed message', { cause });
  }
  throw new ProtocolError(`a message of kind ${opCode}`);
}

function parseMessage(message: Buffer): Pick<Request, 'wantsReply' | 'body' | 'sequences'> {
  const flags = message.readUInt32LE(HEADER_BYTES);
  const end = message.length - ((flags & FLAG_CHECKSUM_PRESENT) === 0 ? 0 : CHECKSUM_BYTES);
  const sequences: Request['sequences'] = new Map();
  let body: Buffer | undefined;
  let offset = HEADER_BYTES + 4;
  while (offset < end) {
    const kind = message[offset];
    const size = message.readInt32LE(offset + 1);
    const section = message.subarray(offset + 1, offset + 1 + size);
    if (size < 5 || section.length !== size) throw new ProtocolError('a section that is cut off');
    if (kind === 0) body = section;
    else if (kind === 1) sequences.set(...parseSequence(section));
    else throw new ProtocolError(`a section of kind ${kind}`);
    offset += 1 + size;
  }
  if (body === undefined) throw new ProtocolError('a message without a command');
  return { wantsReply: (flags & FLAG_MORE_TO_COME) === 0, body, sequences };
}

function parseSequence(section: Buffer): [string, Buffer[]] {
  const nameEnd = section.indexOf(0, 4);
  const documents: Buffer[] = [];
  for (let offset = nameEnd + 1; offset < section.length; ) {
    const size = section.readInt32LE(offset);
    if (size < 5) throw new ProtocolError(`a document of ${size} bytes`);
    documents.push(section.subarray(offset, offset + size));
    offset += size;
  }
  return [section.toString('utf8', 4, nameEnd), documents];
}

function parseQuery(message: Buffer): Buffer {
  const nameEnd = message.indexOf(0, HEADER_BYTES + 4);
  const SKIP_AND_RETURN_BYTES = 8;
  const query = message.subarray(nameEnd + 1 + SKIP_AND_RETURN_BYTES);
  return nestedBytes(parse(query).get('$query'), 'document') ?? query;
}

export function encodeReply(request: Request, reply: Buffer): Buffer {
  const prologue = request.legacy ? Buffer.alloc(20) : Buffer.alloc(5);
  if (request.legacy) {
    const AWAIT_CAPABLE = 8;
    prologue.writeInt32LE(AWAIT_CAPABLE, 0);
    prologue.writeInt32LE(1, 16); // one document
  }
  const header = Buffer.alloc(HEADER_BYTES);
  header.writeInt32LE(HEADER_BYTES + prologue.length + reply.length, 0);
  header.writeInt32LE(request.requestId, 8);
  header.writeInt32LE(request.legacy ? OP_REPLY : OP_MSG, 12);
  return Buffer.concat([header, prologue, reply]);
}
