import { updateOne } from 'mingo/updater';
import { Body } from './body.ts';
import {
  assemble,
  type Document,
  decode,
  decodeCommand,
  decodeFields,
  elementPieces,
  type Elements,
  encode,
  nestedBytes,
  parse,
} from './bson.ts';
import { topOf } from './filter.ts';
import { overlay } from './overlay.ts';
import { CommandFailure, documentOf, FAILURE } from './values.ts';

/** An update as the client sent it: operators, or a whole document to replace the old one with. */
export interface Update {
  filter: Document;
  change: Elements;
  arrayFilters: Document[];
}

const isOperator = (name: string): boolean => name.startsWith('$');

/** Reads `u`. Pipelines, which FerretDB 1.24 does not have either, are refused. */
export function parseChange(element: Buffer | undefined): Elements {
  const bytes = nestedBytes(element, 'document');
  if (bytes === undefined) {
    throw new CommandFailure(
      FAILURE.CommandNotSupported,
      'u must be a document: there are no pipelines here',
    );
  }
  const change = parse(bytes);
  const operators = [...change.keys()].filter(isOperator).length;
  if (operators !== 0 && operators !== change.size) {
    throw new CommandFailure(FAILURE.FailedToParse, 'an update has either operators or fields, not both');
  }
  return change;
}

const isReplacement = (change: Elements): boolean => ![...change.keys()].some(isOperator);

/** The document after the update, or undefined when that changes nothing. */
export function applyUpdate(document: Body, update: Update): Body | undefined {
  const set = update.change.size === 1 ? nestedBytes(update.change.get('$set'), 'document') : undefined;
  const overlaid = set === undefined ? undefined : overlay(document, Body.ofBytes(set));
  if (overlaid !== undefined) return overlaid === document ? undefined : overlaid;
  const { elements } = document;
  const change = new Map(update.change);
  change.delete('$setOnInsert');
  const next = Body.ofElements(
    isReplacement(update.change)
      ? replaceFields(elements, change)
      : (setFields(elements, change) ?? computeFields(elements, { ...update, change })),
  );
  return next.bytes.equals(document.bytes) ? undefined : next;
}

function replaceFields(document: Elements, fields: Elements): Elements {
  const id = document.get('_id');
  const given = fields.get('_id');
  if (id === undefined || (given !== undefined && !given.equals(id))) {
    throw new CommandFailure(FAILURE.ImmutableField, 'an update cannot change _id');
  }
  return new Map([['_id', id], ...fields]);
}

/** Nothing but `$set` of whole fields: their bytes are taken over. Undefined when it is more than that. */
function setFields(document: Elements, change: Elements): Elements | undefined {
  const bytes = nestedBytes(change.get('$set'), 'document');
  if (change.size !== 1 || bytes === undefined) return undefined;
  const fields = parse(bytes);
  for (const field of fields.keys()) {
    if (field === '_id' || field === '' || field.includes('.') || isOperator(field)) return undefined;
  }
  return new Map([...document, ...fields]);
}

/** Anything else is mingo's. Fields that it touches get the BSON types that JavaScript's values have. */
function computeFields(document: Elements, { filter, change, arrayFilters }: Update): Elements {
  const plain = decodeFields(document, undefined);
  const modifier = decodeCommand(assemble(change.values()));
  const positional = Object.values(modifier).some((paths) =>
    Object.keys(documentOf(paths, 'an operator')).some((path) => path.includes('$')),
  );
  const { modifiedFields = [] } = updateOne([plain], positional ? filter : {}, modifier, { arrayFilters });
  const next = new Map(document);
  for (const field of new Set(modifiedFields.map(topOf))) {
    const element = Object.hasOwn(plain, field)
      ? parse(encode({ [field]: plain[field] })).get(field)
      : undefined;
    if (element === undefined) next.delete(field);
    else next.set(field, element);
  }
  return next;
}

/** The document that an upsert inserts: the filter's equalities, then the update with what only an insert sets. */
export function applyUpsert(update: Update): Elements {
  const base: [string, unknown][] = [];
  for (const [path, condition] of Object.entries(update.filter)) {
    if (isOperator(path) || path.includes('.')) continue;
    const operators = typeof condition === 'object' && condition !== null ? Object.keys(condition) : [];
    if (operators[0] === '$eq') base.push([path, (condition as Document).$eq]);
    else if (!operators.some(isOperator)) base.push([path, condition]);
  }
  const document = parse(encode(Object.fromEntries(base)));
  const set = fieldsOf(update.change, '$set');
  if (isReplacement(update.change)) {
    return new Map([...[...document].filter(([name]) => name === '_id'), ...update.change]);
  }
  // Only an insert may set `_id`.
  for (const fields of [set, fieldsOf(update.change, '$setOnInsert')]) {
    for (const [path, element] of fields) (path === '_id' ? document : set).set(path, element);
  }
  set.delete('_id');
  const change = new Map([...update.change, ['$set', Buffer.concat(elementPieces('$set', set.values()))]]);
  change.delete('$setOnInsert');
  return setFields(document, change) ?? computeFields(document, { ...update, change });
}

function fieldsOf(change: Elements, operator: string): Elements {
  const bytes = nestedBytes(change.get(operator), 'document');
  return bytes === undefined ? new Map() : parse(bytes);
}

export const idOf = (document: Elements): unknown => {
  const element = document.get('_id');
  return element === undefined ? undefined : decode(assemble([element]))._id;
};
