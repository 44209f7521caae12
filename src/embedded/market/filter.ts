import { Context } from 'mingo/core';
import * as booleanOperators from 'mingo/operators/expression/boolean';
import * as comparisonOperators from 'mingo/operators/expression/comparison';
import * as queryOperators from 'mingo/operators/query';
import { Query } from 'mingo/query';
import type { Body } from './body.ts';
import { type Document, decodeFields } from './bson.ts';
import { compilePlainFilter } from './plain-filter.ts';

type Operators = NonNullable<NonNullable<Parameters<typeof Context.init>[0]>['query']>;

/** Without `$where`: nothing that a client sends is run. */
const options = {
  scriptEnabled: false,
  context: Context.init({
    query: queryOperators as unknown as Operators,
    expression: { ...booleanOperators, ...comparisonOperators } as never,
  }),
};

/** Throws a `MingoError` for a filter that means nothing. */
export function compileFilter(filter: Document): (document: Body) => boolean {
  const test = compilePlainFilter(filter);
  if (test === undefined) return compileMingoFilter(filter);
  let testAny: ((document: Body) => boolean) | undefined;
  return (document) => {
    const matches = test(document);
    if (matches !== undefined) return matches;
    testAny ??= compileMingoFilter(filter);
    return testAny(document);
  };
}

export function compileMingoFilter(filter: Document): (document: Body) => boolean {
  const query = new Query(filter, options);
  const fields = fieldsOf(filter);
  return ({ elements }) => query.test(decodeFields(elements, fields));
}

/** As `compileFilter`, for documents that are decoded. */
export function compileDecodedFilter(filter: Document): (document: Document) => boolean {
  const query = new Query(filter, options);
  return (document) => query.test(document);
}

/** The top-level fields that a filter looks at; undefined for all. */
function fieldsOf(filter: Document): Set<string> | undefined {
  const fields = new Set<string>();
  for (const [key, condition] of Object.entries(filter)) {
    if (!key.startsWith('$')) {
      fields.add(topOf(key));
    } else if (Array.isArray(condition)) {
      for (const part of condition) {
        const inner = fieldsOf(part as Document);
        if (inner === undefined) return undefined;
        for (const field of inner) fields.add(field);
      }
    } else {
      return undefined;
    }
  }
  return fields;
}

/** The first field of a dotted path. */
export const topOf = (path: string): string => path.split('.', 1)[0] as string;
