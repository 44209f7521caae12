import type { Document } from './bson.ts';

/** A refusal in MongoDB's own terms; the client gets it as an error with this code. */
export class CommandFailure extends Error {
  override name = 'CommandFailure';
  readonly code: number;
  readonly details: Document;

  constructor(code: number, message: string, details: Document = {}) {
    super(message);
    this.code = code;
    this.details = details;
  }
}

export const FAILURE = {
  InternalError: 1,
  BadValue: 2,
  HostUnreachable: 6,
  FailedToParse: 9,
  TypeMismatch: 14,
  InvalidBSON: 22,
  NamespaceNotFound: 26,
  IndexNotFound: 27,
  CursorNotFound: 43,
  CommandNotFound: 59,
  ImmutableField: 66,
  CannotCreateIndex: 67,
  IndexOptionsConflict: 85,
  IndexKeySpecsConflict: 86,
  CommandNotSupported: 115,
  QueryExceededMemoryLimit: 292,
  BSONObjectTooLarge: 10334,
  DuplicateKey: 11000,
} as const;

/** A value of a command that must be a document; nothing counts as an empty one. Throws `TypeMismatch`. */
export function documentOf(value: unknown, name: string): Document {
  if (value === undefined) return {};
  if (typeof value === 'object' && value !== null && Object.getPrototypeOf(value) === Object.prototype) {
    return value as Document;
  }
  throw new CommandFailure(FAILURE.TypeMismatch, `${name} must be a document`);
}

export function documentsOf(value: unknown, name: string): Document[] {
  if (!Array.isArray(value)) throw new CommandFailure(FAILURE.TypeMismatch, `${name} must be an array`);
  return value.map((item, index) => documentOf(item, `${name}.${index}`));
}

export function textOf(value: unknown, name: string): string {
  if (typeof value === 'string' && value !== '') return value;
  throw new CommandFailure(FAILURE.TypeMismatch, `${name} must be a text that is not empty`);
}

/** A whole number that is not negative. */
export function countOf(value: unknown, name: string, fallback: number): number {
  if (value === undefined) return fallback;
  if (typeof value === 'number' && Number.isSafeInteger(value) && value >= 0) return value;
  throw new CommandFailure(FAILURE.BadValue, `${name} must be a whole number that is not negative`);
}
