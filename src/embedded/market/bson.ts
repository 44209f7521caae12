import { deserialize, onDemand, serialize } from 'bson';

export type Document = Record<string, unknown>;

/**
 * A BSON document as its top-level elements by name, each as its bytes (type, name, value). Fields that nobody looks at
 * are never decoded, and keep their BSON types to the byte.
 */
export type Elements = Map<string, Buffer>;

export const DOCUMENT_BYTES_MAX = 16 * 1024 * 1024;

export const TYPE = { double: 1, string: 2, document: 3, array: 4, boolean: 8, null: 10, int: 16 } as const;

/** Where an element lies in its document. */
export type Place = readonly [
  type: number,
  nameOffset: number,
  nameLength: number,
  offset: number,
  length: number,
];

/** Throws a `BSONError` when the bytes are not one document. What is inside nested ones is not looked at. */
export const findElements = (bytes: Buffer): readonly Place[] => [...onDemand.parseToElements(bytes)];

/** Throws as `findElements`. */
export const parse = (bytes: Buffer): Elements => takeApart(bytes, findElements(bytes));

export function takeApart(bytes: Buffer, places: readonly Place[]): Elements {
  const elements: Elements = new Map();
  for (const [, nameOffset, nameLength, offset, length] of places) {
    const name = bytes.toString('utf8', nameOffset, nameOffset + nameLength);
    elements.set(name, bytes.subarray(nameOffset - 1, offset + length));
  }
  return elements;
}

export const assemble = (elements: Iterable<Buffer>): Buffer => Buffer.concat(documentPieces(elements));

/** A document with these elements (or pieces of them) as the pieces that it consists of: nothing is copied yet. */
export function documentPieces(elements: Iterable<Buffer>): Buffer[] {
  const head = Buffer.allocUnsafe(4);
  const pieces = [head, ...elements, END];
  head.writeInt32LE(lengthOf(pieces), 0);
  return pieces;
}

const END = Buffer.alloc(1);

export const lengthOf = (pieces: readonly Buffer[]): number =>
  pieces.reduce((bytes, piece) => bytes + piece.length, 0);

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
  if (element?.[0] !== TYPE[kind]) return undefined;
  return element.subarray(element.indexOf(0, 1) + 1);
}

/** The pieces of an element that holds an array of documents, without encoding or copying them. */
export function arrayPieces(name: string, documents: readonly Buffer[]): Buffer[] {
  const items = documents.flatMap((document, index) => [elementHead(TYPE.document, String(index)), document]);
  return [elementHead(TYPE.array, name), ...documentPieces(items)];
}

/** The pieces of an element that holds a document with these elements. */
export const elementPieces = (name: string, elements: Iterable<Buffer>): Buffer[] => [
  elementHead(TYPE.document, name),
  ...documentPieces(elements),
];

const elementHead = (type: number, name: string): Buffer =>
  Buffer.from(`${String.fromCharCode(type)}${name}\0`);
