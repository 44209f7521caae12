import { type Database, query, queryPrepared } from '../../postgres.ts';
import type { KeyRange } from './keys.ts';
import type { StoredRow } from './storage.ts';

/** Documents are read in chunks of this many, and of about this many bytes: what one cursor or write holds at most. */
const CHUNK_DOCUMENTS_MAX = 500;
const CHUNK_BYTES_MAX = 8 * 1024 * 1024;

/** Every document in chunks, in the order of insertion. Each chunk is a view of its own; none comes twice. */
export async function* scanDocuments(db: Database, collectionId: number): AsyncGenerator<StoredRow[]> {
  let afterId = 0;
  for (;;) {
    const rows = await query<StoredRow>(
      db,
      `select id, body from (
         select id, body, sum(octet_length(body)) over (order by id) - octet_length(body) as bytes_before
         from (select id, body from embedded_market.documents
               where collection_id = $1 and id > $2 order by id limit $3) chunk
       ) measured where bytes_before < $4 order by id`,
      [collectionId, afterId, CHUNK_DOCUMENTS_MAX, CHUNK_BYTES_MAX],
    );
    const last = rows.at(-1);
    if (last === undefined) return;
    yield rows;
    afterId = last.id;
  }
}

/** As `scanDocuments`, those with a key in the range, by key: the embedded cluster's collation is C.UTF-8. */
export async function* scanKeyRange(
  db: Database,
  collectionId: number,
  { indexId, from, to }: KeyRange,
): AsyncGenerator<StoredRow[]> {
  let after = from;
  for (;;) {
    const rows = await queryPrepared<StoredRow & { key: string }>(db, SCAN_KEY_RANGE, [
      collectionId,
      indexId,
      after,
      to,
      CHUNK_DOCUMENTS_MAX,
      CHUNK_BYTES_MAX,
    ]);
    const last = rows.at(-1);
    if (last === undefined) return;
    yield rows;
    if (last.key === to) return;
    after = last.key;
  }
}

const SCAN_KEY_RANGE = {
  name: 'market_scan_key_range',
  text: `
    select key, id, body from (
      select key, id, body, sum(octet_length(body)) over (order by key) - octet_length(body) as bytes_before
      from (select k.key, d.id, d.body
            from embedded_market.unique_keys k
            join embedded_market.documents d on d.collection_id = $1 and d.id = k.document_id
            where k.index_id = $2 and k.key > $3 and k.key <= $4 order by k.key limit $5) chunk
    ) measured where bytes_before < $6 order by key`,
};

/** Keys are short: so many are read at once. */
const CHUNK_KEYS_MAX = 5_000;

/** The keys of a unique index, in order, in chunks. */
export async function* scanKeys(db: Database, indexId: number): AsyncGenerator<string[]> {
  for (let after = ''; ; ) {
    const rows = await query<{ key: string }>(
      db,
      `select key from embedded_market.unique_keys where index_id = $1 and key > $2 order by key limit $3`,
      [indexId, after, CHUNK_KEYS_MAX],
    );
    const last = rows.at(-1);
    if (last === undefined) return;
    yield rows.map(({ key }) => key);
    after = last.key;
  }
}
