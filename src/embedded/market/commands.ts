import type { Pool } from 'pg';
import type { Database } from '../../postgres.ts';
import {
  assemble,
  DOCUMENT_BYTES_MAX,
  type Document,
  decodeCommand,
  type Elements,
  encode,
  nestedBytes,
  parse,
} from './bson.ts';
import { Cursors } from './cursors.ts';
import { createIndexes, dropIndexes } from './indexes.ts';
import { aggregateDocuments, countMatches, distinctValues, findDocuments } from './read.ts';
import {
  type Collection,
  dropCollection,
  findCollection,
  findOrCreateCollection,
  inWriteTo,
  listNamespaces,
} from './storage.ts';
import { parseChange } from './update.ts';
import { CommandFailure, countOf, documentOf, documentsOf, FAILURE, textOf } from './values.ts';
import { MESSAGE_BYTES_MAX, type Request } from './wire.ts';
import { runStatements, type Statement } from './write.ts';
import { inWrite } from './write-lock.ts';

export interface Context {
  pool: Pool;
  cursors: Cursors;
}

export const createContext = (pool: Pool): Context => ({ pool, cursors: new Cursors() });

interface Call {
  database: string;
  /** The value of the command's first field, which names it: for most the collection. */
  target: unknown;
  command: Document;
  /** The documents or statements of a write. */
  raw: Buffer[];
}

type Command = (context: Context, call: Call) => Promise<Document | Buffer> | Document;

/** Fields that hold documents nobody needs to decode. */
const RAW_FIELDS = ['documents', 'updates', 'deletes'];

/** Runs a command and returns its reply as BSON. Throws a `CommandFailure`, or what went wrong underneath. */
export async function runCommand(context: Context, { body, sequences }: Request): Promise<Buffer> {
  const elements = parse(body);
  const name = elements.keys().next().value ?? '';
  const run = Object.hasOwn(COMMANDS, name) ? COMMANDS[name] : undefined;
  if (run === undefined) throw new CommandFailure(FAILURE.CommandNotFound, `no such command: '${name}'`);
  const raw: Buffer[] = [];
  for (const field of RAW_FIELDS) {
    raw.push(...(sequences.get(field) ?? documentsIn(elements.get(field))));
    elements.delete(field);
  }
  const command = decodeCommand(assemble(elements.values()));
  refuseCollation(command);
  const database = typeof command.$db === 'string' ? command.$db : 'admin';
  const reply = await run(context, { database, target: command[name], command, raw });
  return Buffer.isBuffer(reply) ? reply : encode({ ...reply, ok: 1 });
}

function documentsIn(element: Buffer | undefined): Buffer[] {
  const array = nestedBytes(element, 'array');
  if (array === undefined) return [];
  return [...parse(array).values()].map((item) => {
    const bytes = nestedBytes(item, 'document');
    if (bytes === undefined)
      throw new CommandFailure(FAILURE.TypeMismatch, 'every statement must be a document');
    return bytes;
  });
}

/** A server alone, like FerretDB: without sessions, so the driver neither retries writes nor starts transactions. */
const hello: Command = () => ({
  helloOk: true,
  ismaster: true,
  isWritablePrimary: true,
  maxBsonObjectSize: DOCUMENT_BYTES_MAX,
  maxMessageSizeBytes: MESSAGE_BYTES_MAX,
  maxWriteBatchSize: 100_000,
  localTime: new Date(),
  minWireVersion: 0,
  maxWireVersion: 21,
  readOnly: false,
});

const buildInfo: Command = () => ({
  version: '7.0.0',
  versionArray: [7, 0, 0, 0],
  maxBsonObjectSize: DOCUMENT_BYTES_MAX,
  marketSyncStandIn: true,
});

const nothing: Command = () => ({});

const COMMANDS: Record<string, Command> = {
  hello,
  isMaster: hello,
  ismaster: hello,
  ping: nothing,
  endSessions: nothing,
  buildInfo,
  buildinfo: buildInfo,
  connectionStatus: () => ({ authInfo: { authenticatedUsers: [], authenticatedUserRoles: [] } }),

  insert: (context, call) => write(context, call, (raw) => ({ kind: 'insert', document: parse(raw) })),
  update: (context, call) => write(context, call, parseUpdate),
  delete: (context, call) => write(context, call, parseDelete),

  find: async ({ pool, cursors }, { database, target, command }) => {
    const find = {
      filter: documentOf(command.filter, 'filter'),
      projection: documentOf(command.projection, 'projection'),
      sort: documentOf(command.sort, 'sort'),
      skip: countOf(command.skip, 'skip', 0),
      limit: countOf(command.limit, 'limit', 0),
    };
    const batchSize = batchSizeOf(command);
    const name = textOf(target, 'find');
    const collection = await findCollection(pool, database, name);
    const documents = collection === undefined ? streamOf([]) : findDocuments(pool, collection, find);
    const single = command.singleBatch === true;
    return cursors.open(`${database}.${name}`, documents, { batchSize, single });
  },
  aggregate: async ({ pool, cursors }, { database, target, command }) => {
    const pipeline = documentsOf(command.pipeline, 'pipeline');
    const batchSize = batchSizeOf(documentOf(command.cursor, 'cursor'));
    const name = textOf(target, 'aggregate');
    const collection = await findCollection(pool, database, name);
    const documents = collection === undefined ? [] : await aggregateDocuments(pool, collection, pipeline);
    return cursors.open(`${database}.${name}`, streamOf(documents), { batchSize });
  },
  getMore: ({ cursors }, { target, command }) => cursors.more(String(target), batchSizeOf(command)),
  killCursors: async ({ cursors }, { command }) => {
    const cursorsKilled: unknown[] = [];
    const cursorsNotFound: unknown[] = [];
    for (const id of Array.isArray(command.cursors) ? command.cursors : []) {
      ((await cursors.kill(String(id))) ? cursorsKilled : cursorsNotFound).push(id);
    }
    return { cursorsKilled, cursorsNotFound, cursorsAlive: [], cursorsUnknown: [] };
  },
  count: async ({ pool }, { database, target, command }) => {
    const filter = documentOf(command.query, 'query');
    const skip = countOf(command.skip, 'skip', 0);
    const limit = countOf(command.limit, 'limit', 0);
    const collection = await findCollection(pool, database, textOf(target, 'count'));
    const matches = collection === undefined ? 0 : await countMatches(pool, collection, filter);
    const n = Math.max(0, matches - skip);
    return { n: limit === 0 ? n : Math.min(n, limit) };
  },
  distinct: async ({ pool }, { database, target, command }) => {
    const input = { path: textOf(command.key, 'key'), filter: documentOf(command.query, 'query') };
    const collection = await findCollection(pool, database, textOf(target, 'distinct'));
    return { values: collection === undefined ? [] : await distinctValues(pool, collection, input) };
  },

  create: ({ pool }, { database, target }) =>
    inWrite(pool, async (db) => {
      await findOrCreateCollection(db, database, textOf(target, 'create'));
      return {};
    }),
  drop: ({ pool }, { database, target }) =>
    inWrite(pool, async (db) => {
      const collection = await requireCollection(db, database, textOf(target, 'drop'));
      await dropCollection(db, collection);
      return { nIndexesWas: collection.indexes.length, ns: `${database}.${target}` };
    }),
  dropDatabase: ({ pool }, { database }) =>
    inWrite(pool, async (db) => {
      for (const namespace of await listNamespaces(db)) {
        if (namespace.database !== database) continue;
        await dropCollection(db, await requireCollection(db, database, namespace.name));
      }
      return { dropped: database };
    }),
  createIndexes: ({ pool }, { database, target, command }) =>
    inWrite(pool, async (db) => {
      const wanted = documentsOf(command.indexes, 'indexes');
      const collection = await findOrCreateCollection(db, database, textOf(target, 'createIndexes'));
      return createIndexes(db, collection, wanted);
    }),
  dropIndexes: ({ pool }, { database, target, command }) =>
    inWrite(pool, async (db) => {
      const collection = await requireCollection(db, database, textOf(target, 'dropIndexes'));
      return dropIndexes(db, collection, command.index);
    }),
  listIndexes: async ({ pool, cursors }, { database, target }) => {
    const collection = await requireCollection(pool, database, textOf(target, 'listIndexes'));
    const indexes = collection.indexes.map(({ keys, name, unique }) => ({
      v: 2,
      key: keys,
      name,
      ...(unique && name !== '_id_' ? { unique } : {}),
    }));
    return cursors.open(`${database}.${target}`, streamOf(indexes), {});
  },
  listCollections: async ({ pool, cursors }, { database, command }) => {
    const filter = documentOf(command.filter, 'filter');
    const collections = (await listNamespaces(pool))
      .filter((namespace) => namespace.database === database)
      .filter(({ name }) => filter.name === undefined || filter.name === name)
      .map(({ name }) => ({ name, type: 'collection', options: {}, info: { readOnly: false } }));
    return cursors.open(`${database}.$cmd.listCollections`, streamOf(collections), {});
  },
  listDatabases: async ({ pool }) => {
    const names = new Set((await listNamespaces(pool)).map(({ database }) => database));
    return { databases: [...names].map((name) => ({ name, empty: false, sizeOnDisk: 0 })), totalSize: 0 };
  },
};

async function write(
  { pool }: Context,
  { database, target, command, raw }: Call,
  parseStatement: (raw: Buffer) => Statement,
): Promise<Document> {
  const name = textOf(target, 'the collection');
  const result = await inWriteTo(pool, { database, name }, (db, collection) =>
    runStatements(
      db,
      { collection, namespace: `${database}.${name}` },
      { raw, parse: parseStatement, ordered: command.ordered !== false },
    ),
  );
  return {
    n: result.n,
    nModified: result.nModified,
    upserted: result.upserted.length === 0 ? undefined : result.upserted,
    writeErrors: result.writeErrors.length === 0 ? undefined : result.writeErrors,
  };
}

function parseUpdate(raw: Buffer): Statement {
  const { options, elements } = parseStatement(raw);
  return {
    kind: 'update',
    filter: documentOf(options.q, 'q'),
    change: parseChange(elements.get('u')),
    multi: options.multi === true,
    upsert: options.upsert === true,
    arrayFilters: options.arrayFilters === undefined ? [] : documentsOf(options.arrayFilters, 'arrayFilters'),
  };
}

function parseDelete(raw: Buffer): Statement {
  const { options } = parseStatement(raw);
  return {
    kind: 'delete',
    filter: documentOf(options.q, 'q'),
    multi: countOf(options.limit, 'limit', 0) === 0,
  };
}

/** Everything but the update itself, which stays as it is. */
function parseStatement(raw: Buffer): { options: Document; elements: Elements } {
  const elements = parse(raw);
  const others = [...elements].filter(([name]) => name !== 'u').map(([, element]) => element);
  const options = decodeCommand(assemble(others));
  refuseCollation(options);
  return { options, elements };
}

/** Silently comparing otherwise than asked would be worse than refusing. */
function refuseCollation(options: Document): void {
  if (options.collation === undefined) return;
  throw new CommandFailure(FAILURE.CommandNotSupported, 'the stand-in has no collations');
}

async function requireCollection(db: Database, database: string, name: string): Promise<Collection> {
  const collection = await findCollection(db, database, name);
  if (collection !== undefined) return collection;
  throw new CommandFailure(FAILURE.NamespaceNotFound, `ns does not exist: ${database}.${name}`);
}

const batchSizeOf = ({ batchSize }: Document): number | undefined =>
  batchSize === undefined ? undefined : countOf(batchSize, 'batchSize', 0);

async function* streamOf(documents: Document[]): AsyncGenerator<Buffer> {
  for (const document of documents) yield encode(document);
}
