import type { Database } from '../../postgres.ts';
import { type Document, parse } from './bson.ts';
import { keyValueOf, uniqueKeysOf } from './keys.ts';
import { scanDocuments } from './scan.ts';
import { type Collection, deleteIndexes, type Index, insertIndex, insertKeys } from './storage.ts';
import { CommandFailure, documentOf, FAILURE, textOf } from './values.ts';

/**
 * Creates what is missing of the indexes wanted. An index that is not unique is only remembered: the
 * stand-in reads everything instead. Throws `DuplicateKey` when the documents there cannot have a unique one.
 */
export async function createIndexes(
  db: Database,
  collection: Collection,
  wanted: Document[],
): Promise<Document> {
  const before = collection.indexes.length;
  for (const specification of wanted) {
    const index = parseIndex(specification);
    const existing = collection.indexes.find(
      (other) => other.name === index.name || JSON.stringify(other.keys) === JSON.stringify(index.keys),
    );
    if (existing === undefined) {
      const created = await insertIndex(db, collection.id, index);
      collection.indexes.push(created);
      if (created.unique) await buildIndex(db, collection, created);
    } else if (JSON.stringify(existing.keys) !== JSON.stringify(index.keys)) {
      throw new CommandFailure(FAILURE.IndexKeySpecsConflict, `the index ${index.name} has other keys`);
    } else if (existing.unique !== index.unique || existing.name !== index.name) {
      throw new CommandFailure(
        FAILURE.IndexOptionsConflict,
        `the index ${existing.name} has these keys with other options`,
      );
    }
  }
  return { numIndexesBefore: before, numIndexesAfter: collection.indexes.length };
}

function parseIndex(specification: Document): Omit<Index, 'id'> {
  const { name, key, unique, v: _v, background: _background, ns: _ns, ...others } = specification;
  const unsupported = Object.keys(others)[0];
  if (unsupported !== undefined) {
    throw new CommandFailure(FAILURE.CommandNotSupported, `the stand-in has no indexes with ${unsupported}`);
  }
  const keys = documentOf(key, 'key');
  const directions = Object.values(keys);
  if (directions.length === 0 || !directions.every((direction) => direction === 1 || direction === -1)) {
    throw new CommandFailure(FAILURE.CannotCreateIndex, 'an index has paths with 1 or -1');
  }
  return {
    name: textOf(name, 'name'),
    keys: keys as Index['keys'],
    unique: unique === true || Object.keys(keys).join() === '_id',
  };
}

async function buildIndex(db: Database, collection: Collection, index: Index): Promise<void> {
  for await (const rows of scanDocuments(db, collection.id)) {
    const documents = rows.map(({ id, body }) => ({ id, document: parse(body) }));
    const keys = documents.flatMap(({ id, document }) =>
      uniqueKeysOf([index], document).map((key) => ({ ...key, documentId: id, document })),
    );
    const taken = (await insertKeys(db, keys))[0];
    if (taken === undefined) continue;
    const keyValue = keyValueOf(index, keys.find((key) => key.key === taken.key)?.document ?? new Map());
    throw new CommandFailure(
      FAILURE.DuplicateKey,
      `E11000 duplicate key error: index ${index.name} cannot be unique, dup key: ${JSON.stringify(keyValue)}`,
      { keyPattern: index.keys, keyValue },
    );
  }
}

/** `wanted` is a name, the keys, or '*' for all but `_id_`. */
export async function dropIndexes(db: Database, collection: Collection, wanted: unknown): Promise<Document> {
  const keys = JSON.stringify(wanted);
  const matching = collection.indexes.filter(
    (index) =>
      index.name !== '_id_' &&
      (wanted === '*' || index.name === wanted || JSON.stringify(index.keys) === keys),
  );
  if (matching.length === 0 && wanted !== '*') {
    throw new CommandFailure(FAILURE.IndexNotFound, `index not found: ${keys}`);
  }
  await deleteIndexes(db, matching);
  return { nIndexesWas: collection.indexes.length };
}
