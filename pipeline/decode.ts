import type { Lsn } from '../src/lsn.ts';

/** One message of the pgoutput protocol (version 1), as far as this pipeline needs it. */
export type Change =
  /** A committed transaction begins: where its commit record lies, its 32-bit id, and when it committed (ms since 1970). */
  | { kind: 'begin'; commitLsn: Lsn; xid: number; committedAtMs: number }
  /** It ends: the position after its commit record. */
  | { kind: 'commit'; endLsn: Lsn }
  /** A booking was inserted, updated or deleted; two ids when its id changed. */
  | { kind: 'booking'; bookingIds: string[] }
  | { kind: 'truncate' }
  /** A logical message; `transactional` ones belong to the transaction around them. */
  | { kind: 'message'; prefix: string; transactional: boolean; content: Uint8Array }
  | { kind: 'other' };

const OTHER: Change = { kind: 'other' };
const TRUNCATE: Change = { kind: 'truncate' };

const POSTGRES_EPOCH_MS = 946_684_800_000;

/** What the stream contains is not what this decoder was written for. Fatal: going on could lose changes. */
export class DecodeError extends Error {
  override name = 'DecodeError';
}

/**
 * Decodes pgoutput. Keeps, per relation, where the id column stands; otherwise stateless.
 *
 * Written here rather than taken from the replication library, whose parser builds an object of every column of every
 * row, old and new; this one reads the id and steps over the rest.
 */
export class Decoder {
  readonly #idColumns = new Map<number, number>();
  readonly #idName: string;

  /** `idName` is the column that names what a row is of. */
  constructor(idName = 'id') {
    this.#idName = idName;
  }

  /**
   * Decodes the message that begins at `start` and fills the rest of the buffer. Throws a `DecodeError` for what cannot
   * be understood, a message that ends too early included.
   */
  decode(buffer: Buffer, start = 0): Change {
    try {
      return this.#decode(buffer, start);
    } catch (cause) {
      if (cause instanceof RangeError) throw new DecodeError('a pgoutput message ends too early', { cause });
      throw cause;
    }
  }

  #decode(buffer: Buffer, start: number): Change {
    switch (buffer[start]) {
      case 0x42: // B
        return {
          kind: 'begin',
          commitLsn: buffer.readBigUInt64BE(start + 1),
          committedAtMs: Number(buffer.readBigInt64BE(start + 9) / 1000n) + POSTGRES_EPOCH_MS,
          xid: buffer.readUInt32BE(start + 17),
        };
      case 0x43: // C
        return { kind: 'commit', endLsn: buffer.readBigUInt64BE(start + 10) };
      case 0x52: // R
        this.#readRelation(buffer, start);
        return OTHER;
      case 0x49: // I
      case 0x55: // U
      case 0x44: // D
        return { kind: 'booking', bookingIds: this.#readIds(buffer, start) };
      case 0x54: // T
        return TRUNCATE;
      case 0x4d: // M
        return readMessage(buffer, start);
      case 0x4f: // O, origin
      case 0x59: // Y, type
        return OTHER;
      default:
        throw new DecodeError(
          `unknown pgoutput message ${JSON.stringify(String.fromCharCode(buffer[start] ?? 0))}`,
        );
    }
  }

  #readRelation(buffer: Buffer, start: number): void {
    const relationId = buffer.readUInt32BE(start + 1);
    let offset = skipString(buffer, skipString(buffer, start + 5)) + 1;
    const columnCount = buffer.readUInt16BE(offset);
    offset += 2;
    const keyColumns: number[] = [];
    for (let column = 0; column < columnCount; column += 1) {
      const nameEnd = skipString(buffer, offset + 1);
      if (buffer[offset] === 1) keyColumns.push(column);
      if (buffer.toString('utf8', offset + 1, nameEnd - 1) === this.#idName) {
        this.#idColumns.set(relationId, column);
        return;
      }
      offset = nameEnd + 8;
    }
    // What is decoded was written under the name that the column had then: it may have been another for a while, and is mended
    // by now. It is the key by itself.
    const [key, another] = keyColumns;
    if (key === undefined || another !== undefined) {
      throw new DecodeError(`storage_bookings is published without its column ${this.#idName}`);
    }
    this.#idColumns.set(relationId, key);
  }

  #readIds(buffer: Buffer, start: number): string[] {
    const idColumn = this.#idColumns.get(buffer.readUInt32BE(start + 1));
    if (idColumn === undefined) throw new DecodeError('a row arrived before the description of its table');
    const ids: string[] = [];
    let offset = start + 5;
    while (offset < buffer.length) {
      // K (old key), O (old row) or N (new row), each followed by a tuple
      const tuple = readTuple(buffer, offset + 1, idColumn);
      if (tuple.id !== undefined && !ids.includes(tuple.id)) ids.push(tuple.id);
      offset = tuple.end;
    }
    if (ids.length === 0) throw new DecodeError('a change of storage_bookings arrived without an id');
    return ids;
  }
}

function readTuple(buffer: Buffer, start: number, idColumn: number): { id: string | undefined; end: number } {
  const columnCount = buffer.readUInt16BE(start);
  let offset = start + 2;
  let id: string | undefined;
  for (let column = 0; column < columnCount; column += 1) {
    const format = buffer[offset];
    offset += 1;
    // n: null, u: an unchanged value stored out of line; neither has a length
    if (format === 0x6e || format === 0x75) continue;
    const length = buffer.readUInt32BE(offset);
    offset += 4;
    requireBytes(buffer, offset + length);
    if (column === idColumn) id = buffer.toString('latin1', offset, offset + length);
    offset += length;
  }
  return { id, end: offset };
}

function readMessage(buffer: Buffer, start: number): Change {
  const prefixEnd = skipString(buffer, start + 10);
  const length = buffer.readUInt32BE(prefixEnd);
  requireBytes(buffer, prefixEnd + 4 + length);
  return {
    kind: 'message',
    transactional: buffer[start + 1] === 1,
    prefix: buffer.toString('utf8', start + 10, prefixEnd - 1),
    content: buffer.subarray(prefixEnd + 4, prefixEnd + 4 + length),
  };
}

/** Slices of a buffer are clipped in silence: half an id would be another id. */
function requireBytes(buffer: Buffer, end: number): void {
  if (end > buffer.length) throw new DecodeError('a pgoutput message ends too early');
}

/** The offset after a zero-terminated string. */
function skipString(buffer: Buffer, start: number): number {
  const end = buffer.indexOf(0, start);
  if (end === -1) throw new DecodeError('a string without an end');
  return end + 1;
}
