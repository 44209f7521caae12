import { BSONError } from 'bson';
import { MingoError } from 'mingo/util';
import type { Database } from '../../postgres.ts';
import type { Body } from './body.ts';
import type { Document, Elements } from './bson.ts';
import { compileFilter } from './filter.ts';
import { lookupOf, type UniqueKey, uniqueKeysOf } from './keys.ts';
import { scanDocuments } from './scan.ts';
import type { Collection } from './storage.ts';
import { applyUpdate, applyUpsert, idOf, type Update } from './update.ts';
import { CommandFailure, FAILURE } from './values.ts';
import { type Entry, WorkingSet } from './working-set.ts';

export type Statement =
  | { kind: 'insert'; document: Elements }
  | ({ kind: 'update'; multi: boolean; upsert: boolean } & Update)
  | { kind: 'delete'; filter: Document; multi: boolean };

export interface WriteResult {
  /** Documents inserted, matched (or upserted) or deleted. */
  n: number;
  nModified: number;
  upserted: { index: number; _id: unknown }[];
  writeErrors: Document[];
}

/** Statements whose documents are held in memory at once. */
const SLICE_STATEMENTS_MAX = 250;

/**
 * Runs the statements of one command in order. One that fails, or cannot be read, has its error in the result, and
 * stops the rest when `ordered`. Call inside `inWrite`.
 */
export async function runStatements(
  db: Database,
  target: { collection: Collection; namespace: string },
  batch: { raw: Buffer[]; parse: (raw: Buffer) => Statement; ordered: boolean },
): Promise<WriteResult> {
  const result: WriteResult = { n: 0, nModified: 0, upserted: [], writeErrors: [] };
  const set = new WorkingSet(db, target.collection, target.namespace);
  for (let start = 0; start < batch.raw.length; start += SLICE_STATEMENTS_MAX) {
    const slice = batch.raw
      .slice(start, start + SLICE_STATEMENTS_MAX)
      .map((raw) => prepare(target.collection, () => batch.parse(raw)));
    await set.load(slice.flatMap(({ keys }) => keys));
    for (const [offset, { run }] of slice.entries()) {
      const index = start + offset;
      try {
        await run(set, index, result);
      } catch (error) {
        const failure = toFailure(error);
        if (failure === undefined) throw error;
        result.writeErrors.push({ index, code: failure.code, errmsg: failure.message, ...failure.details });
        if (!batch.ordered) continue;
        await set.flush();
        return result;
      }
    }
    await set.flush();
  }
  return result;
}

/** What was wrong with the command, or undefined for an error that is not the command's. */
export function toFailure(error: unknown): CommandFailure | undefined {
  if (error instanceof CommandFailure) return error;
  if (error instanceof MingoError) return new CommandFailure(FAILURE.BadValue, error.message);
  if (error instanceof SyntaxError) return new CommandFailure(FAILURE.FailedToParse, error.message);
  if (BSONError.isBSONError(error)) return new CommandFailure(FAILURE.InvalidBSON, error.message);
  return undefined;
}

interface Prepared {
  /** Of the documents that the statement will look for. */
  keys: UniqueKey[];
  run: (set: WorkingSet, index: number, result: WriteResult) => Promise<void>;
}

/** Reads a statement; what is wrong with it comes out when it is its turn to run. */
function prepare({ indexes }: Collection, parse: () => Statement): Prepared {
  try {
    const statement = parse();
    if (statement.kind === 'insert') {
      return {
        keys: uniqueKeysOf(indexes, statement.document),
        run: (...args) => insert(statement, ...args),
      };
    }
    const lookup = lookupOf(indexes, statement.filter);
    const search = { keys: lookup?.keys, matches: compileFilter(lookup?.rest ?? statement.filter) };
    return { keys: search.keys ?? [], run: (...args) => change(statement, search, ...args) };
  } catch (error) {
    return { keys: [], run: () => Promise.reject(error) };
  }
}

async function insert(
  statement: Statement & { kind: 'insert' },
  set: WorkingSet,
  _index: number,
  result: WriteResult,
): Promise<void> {
  await set.insert(statement.document);
  result.n += 1;
}

/** What a filter comes to. */
interface Search {
  /** Of all documents that can match; undefined when every one has to be looked at. */
  keys: UniqueKey[] | undefined;
  matches: (document: Body) => boolean;
}

async function change(
  statement: Exclude<Statement, { kind: 'insert' }>,
  { keys, matches }: Search,
  set: WorkingSet,
  index: number,
  result: WriteResult,
): Promise<void> {
  let matched = 0;
  for await (const entry of keys === undefined ? scanEntries(set) : findEntries(set, keys)) {
    if (entry?.document === undefined || !matches(entry.document)) continue;
    matched += 1;
    if (statement.kind === 'delete') {
      set.remove(entry);
    } else {
      const next = applyUpdate(entry.document, statement);
      if (next !== undefined) {
        await set.replace(entry, next);
        result.nModified += 1;
      }
    }
    result.n += 1;
    if (!statement.multi) break;
  }
  if (matched > 0 || statement.kind === 'delete' || !statement.upsert) return;
  const inserted = await set.insert(applyUpsert(statement));
  result.upserted.push({ index, _id: idOf(inserted) });
  result.n += 1;
}

/** One by one: the caller changes one before it asks for the next. */
function* findEntries(set: WorkingSet, keys: readonly UniqueKey[]): Generator<Promise<Entry | undefined>> {
  for (const key of keys) yield set.find(key);
}

async function* scanEntries(set: WorkingSet): AsyncGenerator<Entry> {
  await set.flush();
  for await (const rows of scanDocuments(set.db, set.collection.id)) {
    for (const row of rows) yield set.adopt(row);
    await set.flush();
  }
}
