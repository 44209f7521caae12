import { aggregate } from 'mingo';
import { compare, resolve } from 'mingo/util';
import type { Database } from '../../postgres.ts';
import { Body } from './body.ts';
import { assemble, type Document, decode, decodeFields, encode } from './bson.ts';
import { compileDecodedFilter, compileFilter, topOf } from './filter.ts';
import { coveringIndex, isInRange, lookupOf, rangeOf, textOfKey, type UniqueKey } from './keys.ts';
import { scanDocuments, scanKeyRange, scanKeys } from './scan.ts';
import { type Collection, countDocuments, findByKeys, type Index, type StoredRow } from './storage.ts';
import { CommandFailure, FAILURE } from './values.ts';

/** What a sort or an aggregation may hold in memory. */
const HELD_BYTES_MAX = 64 * 1024 * 1024;

/** The documents that match, as a stream; each chunk read is a view of its own. */
async function* findMatches(db: Database, collection: Collection, filter: Document): AsyncGenerator<Body> {
  const lookup = lookupOf(collection.indexes, filter);
  const matches = compileFilter(lookup?.rest ?? filter);
  const range = lookup === undefined ? rangeOf(collection.indexes, filter) : undefined;
  const scan = (): AsyncGenerator<StoredRow[]> => {
    if (range !== undefined) return scanKeyRange(db, collection.id, range);
    const index = coveringIndex(collection.indexes, filter);
    return index === undefined
      ? scanDocuments(db, collection.id)
      : readCovered(db, collection.id, { index, filter });
  };
  const chunks = lookup === undefined ? scan() : readByKeys(db, collection.id, lookup.keys);
  for await (const rows of chunks) {
    for (const { body, key } of rows) {
      const found = Body.ofBytes(body);
      if ((range !== undefined && isInRange(range, key)) || matches(found)) yield found;
    }
  }
}

async function* readByKeys(
  db: Database,
  collectionId: number,
  keys: UniqueKey[],
): AsyncGenerator<StoredRow[]> {
  const KEYS_AT_ONCE = 200;
  for (let start = 0; start < keys.length; start += KEYS_AT_ONCE) {
    yield await findByKeys(db, collectionId, keys.slice(start, start + KEYS_AT_ONCE));
  }
}

/** The documents whose keys may match: the others are not read. */
async function* readCovered(
  db: Database,
  collectionId: number,
  { index, filter }: { index: Index; filter: Document },
): AsyncGenerator<StoredRow[]> {
  const path = Object.keys(index.keys).join();
  const matches = compileDecodedFilter(filter);
  for await (const keys of scanKeys(db, index.id)) {
    const open = keys.filter((key) => {
      const text = textOfKey(key);
      return text === undefined || matches({ [path]: text });
    });
    yield* readByKeys(
      db,
      collectionId,
      open.map((key) => ({ indexId: index.id, key })),
    );
  }
}

export interface Find {
  filter: Document;
  projection: Document;
  sort: Document;
  skip: number;
  /** 0: no limit. */
  limit: number;
}

/** Documents as `find` returns them. With a sort they are held in memory, up to a limit; else they stream. */
export async function* findDocuments(
  db: Database,
  collection: Collection,
  find: Find,
): AsyncGenerator<Buffer> {
  const project = compileProjection(find.projection);
  const matches = findMatches(db, collection, find.filter);
  const source = Object.keys(find.sort).length === 0 ? matches : await sortMatches(matches, find);
  let toSkip = find.skip;
  let left = find.limit === 0 ? Number.POSITIVE_INFINITY : find.limit;
  for await (const found of source) {
    if (toSkip > 0) {
      toSkip -= 1;
      continue;
    }
    yield project(found);
    left -= 1;
    if (left === 0) return;
  }
}

/** Whole fields are passed through with their bytes; anything more is mingo's. */
function compileProjection(projection: Document): (document: Body) => Buffer {
  const { _id: id = 1, ...fields } = projection;
  const names = Object.keys(fields);
  if (names.length === 0 && id !== 0 && id !== false) return ({ bytes }) => bytes;
  const included = names.every((name) => fields[name] === 1 || fields[name] === true);
  const excluded = names.every((name) => fields[name] === 0 || fields[name] === false);
  if ((!included && !excluded) || names.some((name) => name.includes('.'))) {
    return ({ bytes }) => encode(aggregate([decode(bytes)], [{ $project: projection }])[0] as Document);
  }
  const keepsId = id !== 0 && id !== false;
  const keepsListed = included && names.length > 0;
  return ({ elements }) => {
    const kept = [...elements].filter(([name]) =>
      name === '_id' ? keepsId : Object.hasOwn(fields, name) === keepsListed,
    );
    return assemble(kept.map(([, element]) => element));
  };
}

interface Sorted {
  found: Body;
  /** The fields that it is sorted by. */
  plain: Document;
}

async function sortMatches(matches: AsyncIterable<Body>, { sort, skip, limit }: Find): Promise<Body[]> {
  const fields = new Set(Object.keys(sort).map(topOf));
  const order = (a: Sorted, b: Sorted): number => {
    for (const [path, direction] of Object.entries(sort)) {
      const difference = compare(resolve(a.plain, path), resolve(b.plain, path));
      if (difference !== 0) return difference * Number(direction);
    }
    return 0;
  };
  const wanted = limit === 0 ? Number.POSITIVE_INFINITY : skip + limit;
  let held: Sorted[] = [];
  let heldBytes = 0;
  for await (const found of matches) {
    held.push({ found, plain: decodeFields(found.elements, fields) });
    heldBytes += found.bytes.length;
    if (held.length > 2 * wanted + 100) {
      held = held.sort(order).slice(0, wanted);
      heldBytes = held.reduce((sum, { found }) => sum + found.bytes.length, 0);
    }
    checkHeld(heldBytes);
  }
  return held
    .sort(order)
    .slice(0, wanted)
    .map(({ found }) => found);
}

function checkHeld(bytes: number): void {
  if (bytes <= HELD_BYTES_MAX) return;
  throw new CommandFailure(
    FAILURE.QueryExceededMemoryLimit,
    `more than ${HELD_BYTES_MAX} bytes to sort or group`,
  );
}

export async function countMatches(db: Database, collection: Collection, filter: Document): Promise<number> {
  if (Object.keys(filter).length === 0) return countDocuments(db, collection.id);
  let count = 0;
  for await (const _ of findMatches(db, collection, filter)) count += 1;
  return count;
}

export async function distinctValues(
  db: Database,
  collection: Collection,
  { path, filter }: { path: string; filter: Document },
): Promise<unknown[]> {
  const values = new Map<string, unknown>();
  for await (const { elements } of findMatches(db, collection, filter)) {
    const value = resolve(decodeFields(elements, new Set([topOf(path)])), path);
    for (const item of Array.isArray(value) ? value : [value]) {
      if (item !== undefined) values.set(`${typeof item} ${JSON.stringify(item)}`, item);
    }
  }
  return [...values.values()];
}

/** A pipeline over one collection. A leading `$match` is evaluated while reading; the rest is mingo's, in memory. */
export async function aggregateDocuments(
  db: Database,
  collection: Collection,
  pipeline: Document[],
): Promise<Document[]> {
  const match = pipeline[0]?.$match;
  const filter = (match ?? {}) as Document;
  const stages = match === undefined ? pipeline : pipeline.slice(1);
  if (JSON.stringify(stages) === '[{"$group":{"_id":1,"n":{"$sum":1}}}]') {
    // The driver's countDocuments: nothing to hold.
    const n = await countMatches(db, collection, filter);
    return n === 0 ? [] : [{ _id: 1, n }];
  }
  const held: Document[] = [];
  let heldBytes = 0;
  for await (const { bytes } of findMatches(db, collection, filter)) {
    held.push(decode(bytes));
    heldBytes += bytes.length;
    checkHeld(heldBytes);
  }
  return aggregate(held, stages, { scriptEnabled: false });
}
