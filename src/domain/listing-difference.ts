import type { Listing } from './listing.ts';

/**
 * The fields of a document that are not what the listing says, by name; empty when all are. Types count: a number kept as
 * a string differs, a missing field differs from null, and so does the order of an array. The order of an object's keys
 * does not, and fields beside those of a listing are others' (a legacy document that was adopted keeps its own).
 */
export function listDifferences(expected: Listing, document: Record<string, unknown>): string[] {
  return Object.keys(expected).filter(
    (name) => !Object.hasOwn(document, name) || !isSame(expected[name as keyof Listing], document[name]),
  );
}

function isSame(expected: unknown, actual: unknown): boolean {
  if (expected === actual) return true;
  if (typeof expected !== 'object' || typeof actual !== 'object' || expected === null || actual === null) {
    return false;
  }
  if (Array.isArray(expected)) {
    return (
      Array.isArray(actual) &&
      expected.length === actual.length &&
      expected.every((item, index) => isSame(item, actual[index]))
    );
  }
  // A date or a number of bson's own is an object, too.
  if (Array.isArray(actual) || !isPlain(actual)) return false;
  // Without lists of the keys: this is most of what an audit computes here.
  let count = 0;
  for (const key in expected) {
    // `__proto__` is a key like any other here.
    if (!Object.hasOwn(actual, key) || !isSame(own(expected, key), own(actual, key))) return false;
    count += 1;
  }
  for (const _ in actual) count -= 1;
  return count === 0;
}

const own = (tree: object, key: string): unknown =>
  key === '__proto__'
    ? Object.getOwnPropertyDescriptor(tree, key)?.value
    : (tree as Record<string, unknown>)[key];

function isPlain(value: object): boolean {
  const prototype: unknown = Object.getPrototypeOf(value);
  return prototype === Object.prototype || prototype === null;
}
