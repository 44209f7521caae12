import { ObjectId } from 'bson';
import type { Database } from '../../postgres.ts';
import { Body } from './body.ts';
import { DOCUMENT_BYTES_MAX, type Elements, encode, parse } from './bson.ts';
import { topOf } from './filter.ts';
import { keyName, keyValueOf, type UniqueKey, uniqueKeysOf } from './keys.ts';
import {
  type Collection,
  deleteDocuments,
  deleteKeys,
  findByKeys,
  insertKeys,
  type SavedDocument,
  type StoredRow,
  saveDocuments,
  takeDocumentIds,
} from './storage.ts';
import { CommandFailure, FAILURE } from './values.ts';

/** A document as the statements of a command have left it so far. */
export interface Entry {
  /** Undefined until it is stored. */
  id: number | undefined;
  /** Undefined when deleted. */
  document: Body | undefined;
  /** Undefined while they are as they are stored: most updates leave them alone. */
  keys: UniqueKey[] | undefined;
  /** Its rows in `unique_keys`, where `keys` are known. */
  storedKeys: UniqueKey[];
}

/** Changes are written when there are this many bytes of them, before the statements are through. */
const CHANGED_BYTES_MAX = 16 * 1024 * 1024;

/**
 * The documents that one write command touches: read in one go, changed in memory, written in one go. Within it later
 * statements see what earlier ones did. Lives inside one `inWrite` transaction.
 */
export class WorkingSet {
  readonly db: Database;
  readonly collection: Collection;
  readonly namespace: string;
  /** Without changes to these fields a document's keys stay. */
  readonly #keyFields: readonly string[];
  #entryById = new Map<number, Entry>();
  /** Null: nobody has this key. */
  #entryByKey = new Map<string, Entry | null>();
  #changed = new Set<Entry>();
  #changedBytes = 0;

  constructor(db: Database, collection: Collection, namespace: string) {
    this.db = db;
    this.collection = collection;
    this.namespace = namespace;
    this.#keyFields = collection.indexes
      .filter(({ unique }) => unique)
      .flatMap(({ keys }) => Object.keys(keys).map(topOf));
  }

  /** Reads the documents that have these keys, those not known yet. */
  async load(keys: readonly UniqueKey[]): Promise<void> {
    const unknown = keys.filter((key) => !this.#entryByKey.has(keyName(key)));
    if (unknown.length === 0) return;
    const rows = await findByKeys(this.db, this.collection.id, unknown);
    for (const row of rows) this.#entryByKey.set(keyName(unknown[row.place] as UniqueKey), this.adopt(row));
    for (const name of unknown.map(keyName)) {
      if (!this.#entryByKey.has(name)) this.#entryByKey.set(name, null);
    }
  }

  async find(key: UniqueKey): Promise<Entry | undefined> {
    const name = keyName(key);
    if (!this.#entryByKey.has(name)) await this.load([key]);
    return this.#entryByKey.get(name) ?? undefined;
  }

  /** Takes up a document that was read, unless it is known already: then what is known is newer. */
  adopt(row: StoredRow): Entry {
    const known = this.#entryById.get(row.id);
    if (known !== undefined) return known;
    const entry: Entry = { id: row.id, document: Body.ofBytes(row.body), keys: undefined, storedKeys: [] };
    this.#entryById.set(row.id, entry);
    return entry;
  }

  /** Throws a `CommandFailure` for a duplicate key or a document that is too large. Returns what was inserted. */
  async insert(given: Elements): Promise<Elements> {
    const id = given.get('_id') ?? (parse(encode({ _id: new ObjectId() })).get('_id') as Buffer);
    const document: Elements = new Map([['_id', id], ...given]);
    await this.replace(
      { id: undefined, document: undefined, keys: [], storedKeys: [] },
      Body.ofElements(document),
    );
    return document;
  }

  /** Throws as `insert` does; the entry is then as it was. */
  async replace(entry: Entry, document: Body): Promise<void> {
    const bytes = document.length;
    if (bytes > DOCUMENT_BYTES_MAX) {
      throw new CommandFailure(
        FAILURE.BSONObjectTooLarge,
        `the document has ${bytes} bytes, at most ${DOCUMENT_BYTES_MAX} are allowed`,
      );
    }
    const before = entry.document;
    if (before === undefined || !this.#keyFields.every((field) => document.shares(field, before)))
      await this.#changeKeys(entry, document.elements);
    entry.document = document;
    this.#changed.add(entry);
    this.#changedBytes += bytes;
    if (this.#changedBytes > CHANGED_BYTES_MAX) await this.flush();
  }

  async #changeKeys(entry: Entry, document: Elements): Promise<void> {
    const keys = uniqueKeysOf(this.collection.indexes, document);
    await this.load(keys);
    for (const key of keys) {
      const holder = this.#entryByKey.get(keyName(key));
      if (holder !== null && holder !== entry) throw this.#duplicateKey(key, document);
    }
    this.#rekey(entry, keys);
  }

  remove(entry: Entry): void {
    this.#rekey(entry, []);
    entry.document = undefined;
    this.#changed.add(entry);
  }

  #rekey(entry: Entry, keys: UniqueKey[]): void {
    if (entry.keys === undefined) {
      entry.keys = uniqueKeysOf(this.collection.indexes, (entry.document as Body).elements);
      entry.storedKeys = entry.keys;
    }
    // All of them from here on, or a key that was given up would be read from where it is still stored.
    for (const key of entry.keys) this.#entryByKey.set(keyName(key), null);
    for (const key of keys) this.#entryByKey.set(keyName(key), entry);
    entry.keys = keys;
  }

  /** Writes every change; afterwards nothing is remembered. */
  async flush(): Promise<void> {
    const { db, collection } = this;
    const changed = [...this.#changed];
    const fresh = changed.filter((entry) => entry.id === undefined && entry.document !== undefined);
    const stored = changed.filter((entry) => entry.id !== undefined);
    const kept = stored.filter((entry) => entry.document !== undefined);
    const gone = stored.filter((entry) => entry.document === undefined);
    if (fresh.length > 0) {
      const ids = await takeDocumentIds(db, fresh.length);
      fresh.forEach((entry, position) => {
        entry.id = ids[position];
      });
    }

    if (gone.length > 0) await deleteDocuments(db, collection.id, gone.map(idOf));
    const lostKeys = stored.flatMap(({ storedKeys, keys }) => without(storedKeys, keys));
    if (lostKeys.length > 0) await deleteKeys(db, lostKeys);
    if (kept.length > 0) await saveDocuments(db, collection.id, kept.map(toSaved), 'update');
    if (fresh.length > 0) await saveDocuments(db, collection.id, fresh.map(toSaved), 'insert');
    const newKeys = [...fresh, ...kept].flatMap((entry) =>
      without(entry.keys, entry.storedKeys).map((key) => ({ ...key, documentId: idOf(entry) })),
    );
    if (newKeys.length > 0) {
      const taken = await insertKeys(db, newKeys);
      if (taken.length > 0) throw new Error('a key was taken although no other writer can run');
    }

    this.#entryById.clear();
    this.#entryByKey.clear();
    this.#changed.clear();
    this.#changedBytes = 0;
  }

  #duplicateKey(key: UniqueKey, document: Elements): CommandFailure {
    const index = this.collection.indexes.find((candidate) => candidate.id === key.indexId);
    if (index === undefined) throw new Error('a key of an unknown index');
    const keyValue = keyValueOf(index, document);
    return new CommandFailure(
      FAILURE.DuplicateKey,
      `E11000 duplicate key error collection: ${this.namespace} index: ${index.name} dup key: ${JSON.stringify(keyValue)}`,
      { keyPattern: index.keys, keyValue },
    );
  }
}

const idOf = (entry: Entry): number => entry.id as number;

const toSaved = (entry: Entry): SavedDocument => ({ id: idOf(entry), body: entry.document as Body });

function without(keys: UniqueKey[] | undefined, others: UniqueKey[] | undefined): UniqueKey[] {
  if (keys === undefined || others === undefined || keys.length === 0) return [];
  const names = new Set(others.map(keyName));
  return keys.filter((key) => !names.has(keyName(key)));
}
