-- The embedded stand-in for Market Connect (D12) keeps its documents here. Nothing else reads or writes these tables.

create schema if not exists embedded_market;

create table if not exists embedded_market.collections (
  id int generated always as identity primary key,
  database text not null,
  name text not null,
  unique (database, name)
);

-- `keys` is the key specification as JSON text, because the order of its fields matters.
create table if not exists embedded_market.indexes (
  id int generated always as identity primary key,
  collection_id int not null references embedded_market.collections on delete cascade,
  name text not null,
  keys text not null,
  is_unique boolean not null,
  unique (collection_id, name)
);

create sequence if not exists embedded_market.document_ids;

-- `body` is the document as BSON. It stays in the row up to 8 kB and uncompressed: compressing costs more than it saves.
-- The fill factor leaves room for the next version on the same page, so that an update touches no index.
create table if not exists embedded_market.documents (
  collection_id int not null,
  id bigint not null,
  body bytea not null,
  primary key (collection_id, id)
) with (fillfactor = 50, toast_tuple_target = 8160);

-- One row per document and unique index (`_id_` is one): the canonical text of the indexed values.
create table if not exists embedded_market.unique_keys (
  index_id int not null,
  key text not null,
  document_id bigint not null,
  primary key (index_id, key)
);
