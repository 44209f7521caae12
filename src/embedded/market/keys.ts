import { createHash } from 'node:crypto';
import { EJSON, ObjectId } from 'bson';
import { type Document, decodeFields, type Elements } from './bson.ts';
import { topOf } from './filter.ts';
import type { Index } from './storage.ts';
import { CommandFailure, FAILURE } from './values.ts';

/** A row of `unique_keys`: what finds a document without reading the others. */
export interface UniqueKey {
  indexId: number;
  key: string;
}

export const keyName = ({ indexId, key }: UniqueKey): string => `${indexId} ${key}`;

/** The keys of a document in the unique ones of these indexes. */
export const uniqueKeysOf = (indexes: readonly Index[], document: Elements): UniqueKey[] =>
  indexes
    .filter((index) => index.unique)
    .map((index) => ({ indexId: index.id, key: canonicalText(valuesOf(index, document)) }));

/** The indexed values, by field, as MongoDB's `keyValue` shows them; a missing one is null, as in MongoDB. */
export const keyValueOf = (index: Index, document: Elements): Document => {
  const values = valuesOf(index, document);
  return Object.fromEntries(Object.keys(index.keys).map((path, position) => [path, values[position]]));
};

function valuesOf(index: Index, document: Elements): unknown[] {
  const paths = Object.keys(index.keys);
  const plain = decodeFields(document, new Set(paths.map(topOf)));
  return paths.map((path) => {
    let value: unknown = plain;
    for (const part of path.split('.')) {
      if (Array.isArray(value)) break;
      value = typeof value === 'object' && value !== null ? (value as Document)[part] : undefined;
    }
    if (!Array.isArray(value)) return value ?? null;
    throw new CommandFailure(
      FAILURE.CommandNotSupported,
      `there are no unique indexes over arrays here (${path})`,
    );
  });
}

/** One text for equal values, whatever numeric type they have. Long ones are hashed: a btree entry has 2.7 kB at most. */
function canonicalText(values: unknown[]): string {
  const TEXT_LENGTH_MAX = 500;
  const text = JSON.stringify(values.map(canonicalValue));
  if (text.length <= TEXT_LENGTH_MAX) return text;
  return `sha256:${createHash('sha256').update(text).digest('hex')}`;
}

function canonicalValue(value: unknown): unknown {
  if (value === null || typeof value === 'string' || typeof value === 'boolean') return value;
  if (typeof value === 'number') return { n: String(value === 0 ? 0 : value) };
  if (value instanceof ObjectId) return { o: value.toHexString() };
  if (value instanceof Date) return { d: value.getTime() };
  return { e: EJSON.stringify(value as object, { relaxed: false }) };
}

/**
 * What a filter asks of a unique index by equality: the keys of all documents that can match, and the rest of the
 * filter. Undefined when every document has to be looked at.
 */
export function lookupOf(
  indexes: readonly Index[],
  filter: Document,
): { keys: UniqueKey[]; rest: Document } | undefined {
  for (const index of indexes) {
    const paths = Object.keys(index.keys);
    const choices = paths.map((path) => equalValues(filter[path]));
    if (!index.unique || !choices.every((values) => values !== undefined)) continue;
    if (paths.length > 1 && choices.some((values) => values.length !== 1)) continue;
    const tuples = paths.length > 1 ? [choices.flat()] : (choices[0] ?? []).map((value) => [value]);
    const keys = new Set(tuples.map(canonicalText));
    const rest = Object.fromEntries(Object.entries(filter).filter(([field]) => !paths.includes(field)));
    return { keys: [...keys].map((key) => ({ indexId: index.id, key })), rest };
  }
  return undefined;
}

/** The unique index over the one path that a filter asks about: where its keys are texts they tell what matches. */
export function coveringIndex(indexes: readonly Index[], filter: Document): Index | undefined {
  const [path, ...others] = Object.keys(filter);
  // Keys of `_id` are rarely texts.
  if (path === undefined || others.length > 0 || path === '_id' || path.includes('.')) return undefined;
  return indexes.find(({ unique, keys }) => unique && Object.keys(keys).join() === path);
}

/** The text that a key of one path stands for; undefined where it is another value, or too long for a key. */
export function textOfKey(key: string): string | undefined {
  const value: unknown = key.startsWith('["') ? JSON.parse(key)[0] : undefined;
  return typeof value === 'string' ? value : undefined;
}

/** Keys of one unique index, between two of them: which of its documents can match. */
export interface KeyRange {
  indexId: number;
  from: string;
  to: string;
}

/**
 * What a filter asks of a unique index by a range of texts like ids. Undefined for any other. What is not like an id and
 * lies between is found too, unless it has a quote in it or is too long for a key.
 */
export function rangeOf(indexes: readonly Index[], filter: Document): KeyRange | undefined {
  const [entry, ...others] = Object.entries(filter);
  if (entry === undefined || others.length > 0) return undefined;
  const [path, condition] = entry;
  const index = indexes.find(({ unique, keys }) => unique && Object.keys(keys).join() === path);
  if (index === undefined || typeof condition !== 'object' || condition === null) return undefined;
  const bounds = Object.entries(condition);
  if (bounds.length === 0 || !bounds.every(([name, value]) => isBound(name) && ID.test(String(value))))
    return undefined;
  const { $gt: from, $lte: to } = condition as { $gt?: string; $lte?: string };
  return {
    indexId: index.id,
    from: from === undefined ? '["' : `["${from}`,
    // Behind every other text.
    to: to === undefined ? '["\u{10ffff}' : canonicalText([to]),
  };
}

/** Whether a document with this key matches for certain: an id that lies in the range. Of any other the filter decides. */
export const isInRange = ({ from }: KeyRange, key: string | undefined): boolean =>
  key !== undefined && ID_KEY.test(key) && key !== `${from}"]`;

const ID_KEY = /^\["[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}"\]$/;
const ID = /^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$/;
const isBound = (name: string): boolean => name === '$gt' || name === '$lte';

function equalValues(condition: unknown): unknown[] | undefined {
  if (isScalar(condition)) return [condition];
  if (typeof condition !== 'object' || condition === null) return undefined;
  const entries = Object.entries(condition);
  const [operator, operand] = entries[0] ?? [];
  if (entries.length !== 1) return undefined;
  if (operator === '$eq' && isScalar(operand)) return [operand];
  if (operator === '$in' && Array.isArray(operand) && operand.every(isScalar)) return operand;
  return undefined;
}

const isScalar = (value: unknown): boolean =>
  value === null ||
  ['string', 'number', 'boolean'].includes(typeof value) ||
  value instanceof ObjectId ||
  value instanceof Date;
