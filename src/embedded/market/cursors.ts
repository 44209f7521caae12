import { Long } from 'bson';
import { arrayPieces, assemble, elementPieces, encode, parse } from './bson.ts';
import { CommandFailure, FAILURE } from './values.ts';

const CURSORS_MAX = 200;
const BATCH_BYTES_MAX = 15 * 1024 * 1024;
const FIRST_BATCH_DOCUMENTS = 101;

interface Cursor {
  namespace: string;
  documents: AsyncIterator<Buffer>;
  /** Read ahead, to know whether there is more. */
  next: Buffer | undefined;
}

/** The cursors left open by clients, each a stream that waits. Beyond the limit the longest unused one is closed. */
export class Cursors {
  #open = new Map<string, Cursor>();
  #lastId = 0;

  /** The reply to a command that opens a cursor. `single`: whatever the first batch leaves is not wanted. */
  async open(
    namespace: string,
    documents: AsyncIterator<Buffer>,
    options: { batchSize?: number | undefined; single?: boolean },
  ): Promise<Buffer> {
    const cursor: Cursor = { namespace, documents, next: await readNext(documents) };
    const batch = await takeBatch(cursor, options.batchSize ?? FIRST_BATCH_DOCUMENTS);
    this.#lastId += 1;
    const id = String(this.#lastId);
    await this.#keep(id, cursor);
    if (options.single === true) await this.kill(id);
    return toReply(this.#open.has(id) ? id : '0', namespace, { name: 'firstBatch', batch });
  }

  /** The reply to getMore. Throws a `CommandFailure` when there is no such cursor (any more). */
  async more(id: string, batchSize: number | undefined): Promise<Buffer> {
    const cursor = this.#open.get(id);
    if (cursor === undefined) throw new CommandFailure(FAILURE.CursorNotFound, `cursor id ${id} not found`);
    this.#open.delete(id);
    const batch = await takeBatch(cursor, batchSize ?? Number.POSITIVE_INFINITY);
    await this.#keep(id, cursor);
    return toReply(this.#open.has(id) ? id : '0', cursor.namespace, { name: 'nextBatch', batch });
  }

  /** False when there is no such cursor. */
  async kill(id: string): Promise<boolean> {
    const cursor = this.#open.get(id);
    this.#open.delete(id);
    await cursor?.documents.return?.();
    return cursor !== undefined;
  }

  async #keep(id: string, cursor: Cursor): Promise<void> {
    if (cursor.next === undefined) return;
    this.#open.set(id, cursor);
    const oldest = this.#open.keys().next().value;
    if (this.#open.size > CURSORS_MAX && oldest !== undefined) await this.kill(oldest);
  }
}

async function readNext(documents: AsyncIterator<Buffer>): Promise<Buffer | undefined> {
  const result = await documents.next();
  return result.done === true ? undefined : result.value;
}

async function takeBatch(cursor: Cursor, size: number): Promise<Buffer[]> {
  const batch: Buffer[] = [];
  let bytes = 0;
  while (cursor.next !== undefined && batch.length < size) {
    bytes += cursor.next.length;
    if (batch.length > 0 && bytes > BATCH_BYTES_MAX) break;
    batch.push(cursor.next);
    cursor.next = await readNext(cursor.documents);
  }
  return batch;
}

/** Put together from the documents' bytes, which are copied once. */
function toReply(id: string, namespace: string, { name, batch }: { name: string; batch: Buffer[] }): Buffer {
  const fields = parse(encode({ id: Long.fromString(id), ns: namespace, ok: 1 }));
  const ok = fields.get('ok') as Buffer;
  fields.delete('ok');
  return assemble([...elementPieces('cursor', [...fields.values(), ...arrayPieces(name, batch)]), ok]);
}
