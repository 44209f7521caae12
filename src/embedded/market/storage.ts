import { readFile } from 'node:fs/promises';
import type pg from 'pg';
import { type Database, query, queryPrepared, quoteText } from '../../postgres.ts';
import type { Body } from './body.ts';
import { keyName, type UniqueKey } from './keys.ts';
import { inWrite } from './write-lock.ts';

export interface Collection {
  id: number;
  indexes: Index[];
}

export interface Index {
  id: number;
  name: string;
  /** Field path → 1 or -1. */
  keys: Record<string, 1 | -1>;
  unique: boolean;
}

/** A document as it is stored. */
export interface StoredRow {
  id: number;
  body: Buffer;
  /** The key that it was found by, in a range of them. */
  key?: string;
}

/** A document that was found by the key at this place of those given. */
export interface FoundRow extends StoredRow {
  place: number;
}

export async function createSchema(pool: pg.Pool): Promise<void> {
  const schema = await readFile(new URL('./schema.sql', import.meta.url), 'utf8');
  await inWrite(pool, (client) => query(client, schema));
}

/**
 * As `inWrite`, in a collection, which is created when it is missing. One round trip leads to it instead of three: of the
 * 71 µs of processor time that a bulk of 25 took for each document, 6.
 */
export function inWriteTo<Result>(
  pool: pg.Pool,
  { database, name }: { database: string; name: string },
  work: (client: Database, collection: Collection) => Promise<Result>,
): Promise<Result> {
  // PostgreSQL takes no such names, and says so of a parameter; of a statement it would read no further.
  if (`${database}${name}`.includes('\0'))
    return inWrite(pool, async (db) => work(db, await findOrCreateCollection(db, database, name)));
  return inWrite(
    pool,
    async (client, rows) => {
      const found = toCollection(rows as CollectionRow[]);
      return work(client, found ?? (await createCollection(client, database, name)));
    },
    {
      prepare: `prepare market_collection (text, text) as ${FIND_COLLECTION.text}`,
      execute: `execute market_collection (${quoteText(database)}, ${quoteText(name)})`,
    },
  );
}

const FIND_COLLECTION = {
  name: 'market_find_collection',
  text: `
    select c.id, i.id as index_id, i.name, i.keys, i.is_unique
    from embedded_market.collections c join embedded_market.indexes i on i.collection_id = c.id
    where c.database = $1 and c.name = $2 order by i.id`,
};

interface CollectionRow {
  id: number;
  index_id: number;
  name: string;
  keys: string;
  is_unique: boolean;
}

export const findCollection = async (
  db: Database,
  database: string,
  name: string,
): Promise<Collection | undefined> =>
  toCollection(await queryPrepared<CollectionRow & pg.QueryResultRow>(db, FIND_COLLECTION, [database, name]));

function toCollection(rows: CollectionRow[]): Collection | undefined {
  const first = rows[0];
  if (first === undefined) return undefined;
  const indexes = rows.map((row) => ({
    id: row.index_id,
    name: row.name,
    keys: JSON.parse(row.keys) as Index['keys'],
    unique: row.is_unique,
  }));
  return { id: first.id, indexes };
}

/** Call inside `inWrite`. */
export const findOrCreateCollection = async (
  db: Database,
  database: string,
  name: string,
): Promise<Collection> =>
  (await findCollection(db, database, name)) ?? (await createCollection(db, database, name));

async function createCollection(db: Database, database: string, name: string): Promise<Collection> {
  const rows = await query<{ id: number }>(
    db,
    `insert into embedded_market.collections (database, name) values ($1, $2) returning id`,
    [database, name],
  );
  const id = (rows[0] as { id: number }).id;
  return { id, indexes: [await insertIndex(db, id, { name: '_id_', keys: { _id: 1 }, unique: true })] };
}

export async function insertIndex(
  db: Database,
  collectionId: number,
  index: Omit<Index, 'id'>,
): Promise<Index> {
  const rows = await query<{ id: number }>(
    db,
    `insert into embedded_market.indexes (collection_id, name, keys, is_unique) values ($1, $2, $3, $4) returning id`,
    [collectionId, index.name, JSON.stringify(index.keys), index.unique],
  );
  return { ...index, id: (rows[0] as { id: number }).id };
}

export async function deleteIndexes(db: Database, indexes: Index[]): Promise<void> {
  const ids = indexes.map((index) => index.id);
  await query(db, `delete from embedded_market.unique_keys where index_id = any($1::int[])`, [ids]);
  await query(db, `delete from embedded_market.indexes where id = any($1::int[])`, [ids]);
}

export async function dropCollection(db: Database, collection: Collection): Promise<void> {
  await deleteIndexes(db, collection.indexes);
  await query(db, `delete from embedded_market.documents where collection_id = $1`, [collection.id]);
  await query(db, `delete from embedded_market.collections where id = $1`, [collection.id]);
}

export function listNamespaces(db: Database): Promise<{ database: string; name: string }[]> {
  return query(db, `select database, name from embedded_market.collections order by database, name`);
}

export async function countDocuments(db: Database, collectionId: number): Promise<number> {
  const rows = await query<{ count: number }>(
    db,
    `select count(*) as count from embedded_market.documents where collection_id = $1`,
    [collectionId],
  );
  return (rows[0] as { count: number }).count;
}

const FIND_BY_KEYS = {
  name: 'market_find_by_keys',
  text: `
    select (wanted.place - 1)::int as place, d.id, d.body
    from unnest($2::int[], $3::text[]) with ordinality as wanted (index_id, key, place)
    join embedded_market.unique_keys k using (index_id, key)
    join embedded_market.documents d on d.collection_id = $1 and d.id = k.document_id`,
};

/** The documents that have these keys. */
export function findByKeys(
  db: Database,
  collectionId: number,
  keys: readonly UniqueKey[],
): Promise<FoundRow[]> {
  return queryPrepared<FoundRow>(db, FIND_BY_KEYS, [
    collectionId,
    keys.map((key) => key.indexId),
    keys.map((key) => key.key),
  ]);
}

/** Adds keys and returns those that another document has already. */
export async function insertKeys(
  db: Database,
  keys: readonly (UniqueKey & { documentId: number })[],
): Promise<UniqueKey[]> {
  const inserted = await query<{ index_id: number; key: string; document_id: number }>(
    db,
    `insert into embedded_market.unique_keys (index_id, key, document_id)
     select * from unnest($1::int[], $2::text[], $3::bigint[])
     on conflict do nothing returning index_id, key, document_id`,
    [keys.map((key) => key.indexId), keys.map((key) => key.key), keys.map((key) => key.documentId)],
  );
  if (inserted.length === keys.length) return [];
  const own = new Set(
    inserted.map((row) => `${row.document_id} ${keyName({ indexId: row.index_id, key: row.key })}`),
  );
  return keys.filter((key) => !own.has(`${key.documentId} ${keyName(key)}`));
}

export async function deleteKeys(db: Database, keys: readonly UniqueKey[]): Promise<void> {
  await query(
    db,
    `delete from embedded_market.unique_keys k using unnest($1::int[], $2::text[]) as gone (index_id, key)
     where k.index_id = gone.index_id and k.key = gone.key`,
    [keys.map((key) => key.indexId), keys.map((key) => key.key)],
  );
}

export async function takeDocumentIds(db: Database, count: number): Promise<number[]> {
  const rows = await query<{ id: number }>(
    db,
    `select nextval('embedded_market.document_ids') as id from generate_series(1, $1)`,
    [count],
  );
  return rows.map((row) => row.id);
}

const SAVE_DOCUMENTS = {
  insert: {
    name: 'market_insert_documents',
    text: `
      insert into embedded_market.documents (collection_id, id, body)
      select $1, id, substring($2::bytea from start for length)
      from unnest($3::bigint[], $4::int[], $5::int[]) as saved (id, start, length)`,
  },
  update: {
    name: 'market_update_documents',
    text: `
      update embedded_market.documents d set body = substring($2::bytea from start for length)
      from unnest($3::bigint[], $4::int[], $5::int[]) as saved (id, start, length)
      where d.collection_id = $1 and d.id = saved.id`,
  },
};

export interface SavedDocument {
  id: number;
  body: Body;
}

/** All bodies travel as one binary parameter: an array of bytea would be sent as hexadecimal text. */
export async function saveDocuments(
  db: Database,
  collectionId: number,
  documents: readonly SavedDocument[],
  kind: 'insert' | 'update',
): Promise<void> {
  let end = 1;
  const starts = documents.map(({ body }) => {
    end += body.length;
    return end - body.length;
  });
  await queryPrepared(db, SAVE_DOCUMENTS[kind], [
    collectionId,
    Buffer.concat(documents.flatMap(({ body }) => body.pieces)),
    arrayOf(documents.map(({ id }) => id)),
    arrayOf(starts),
    arrayOf(documents.map(({ body }) => body.length)),
  ]);
}

/** Numbers as PostgreSQL reads an array: the driver would quote each of them. */
const arrayOf = (numbers: readonly number[]): string => `{${numbers.join()}}`;

export async function deleteDocuments(db: Database, collectionId: number, ids: number[]): Promise<void> {
  await query(
    db,
    `delete from embedded_market.documents where collection_id = $1 and id = any($2::bigint[])`,
    [collectionId, ids],
  );
}
