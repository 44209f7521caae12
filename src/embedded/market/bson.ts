import { deserialize, onDemand, serialize } from 'bson';

export type Document = Record<string, unknown>;

/**
 * A BSON document as its top-level elements by name, each as its bytes (type, name, value). Fields that nobody looks at
 * are never decoded, and keep their BSON types to the byte.
 */
export type Elements = Map<string, Buffer>;

export const DOCUMENT_BYTES_MAX = 16 * 1024 * 1024;

const TYPE_DOCUMENT = 3;
const TYPE_ARRAY = 4;

/** Throws a `BSONError` when the bytes are not one document. What is inside nested ones is not looked at. */
export function parse(bytes: Buffer): Elements {
  const elements: Elements = new Map();
  for (const [, nameOffset, nameLength, offset, length] of onDemand.parseToElements(bytes)) {
    const name = bytes.toString('utf8', nameOffset, nameOffset + nameLength);
    elements.set(name, bytes.subarray(nameOffset - 1, offset + length));
  }
  return elements;
}

export function assemble(elements: Iterable<Buffer>): Buffer {
  const parts = [Buffer.alloc(4), ...elements, Buffer.alloc(1)];
  const bytes = Buffer.concat(parts);
  bytes.writeInt32LE(bytes.length, 0);
  return bytes;
}

export const encode = (document: Document): Buffer =>
  Buffer.from(serialize(document, { ignoreUndefined: true }));

/** JavaScript's own numbers, as mingo needs them; regular expressions stay BSON's, for JavaScript lacks some. */
export const decode = (bytes: Uint8Array): Document => deserialize(bytes, { bsonRegExp: true });

/** Of a command: its regular expressions are to be used. Throws a `SyntaxError` for one that JavaScript does not know. */
export const decodeCommand = (bytes: Uint8Array): Document => deserialize(bytes);

/** Only these top-level fields, or all. */
export function decodeFields(elements: Elements, fields: ReadonlySet<string> | undefined): Document {
  if (fields === undefined) return decode(assemble(elements.values()));
  const wanted: Buffer[] = [];
  for (const field of fields) {
    const element = elements.get(field);
    if (element !== undefined) wanted.push(element);
  }
  return decode(assemble(wanted));
}

/** The bytes of an element's value if it is a nested document (or an array), else undefined. */
export function nestedBytes(element: Buffer | undefined, kind: 'document' | 'array'): Buffer | undefined {
  if (element?.[0] !== (kind === 'document' ? TYPE_DOCUMENT : TYPE_ARRAY)) return undefined;
  return element.subarray(element.indexOf(0, 1) + 1);
}

/** An element that holds an array of documents, without encoding them again. */
export function arrayElement(name: string, documents: readonly Buffer[]): Buffer {
  const items = documents.map((document, index) => nestedElement(TYPE_DOCUMENT, String(index), document));
  return nestedElement(TYPE_ARRAY, name, assemble(items));
}

export const documentElement = (name: string, document: Buffer): Buffer =>
  nestedElement(TYPE_DOCUMENT, name, document);

const nestedElement = (type: number, name: string, value: Buffer): Buffer =>
  Buffer.concat([Buffer.of(type), Buffer.from(`${name}\0`), value]);
