import fc from 'fast-check';
import { type Credential, lesserCredentials, validCredentials } from './credentials.ts';
import type { Operation, Parameter } from './document.ts';
import { type Draft, type Mutation, mutations } from './mutations.ts';
import { validValues } from './valid-value.ts';
import type { WireRequest } from './wire.ts';

/** A request as it is generated: `@job`, `@cursor`, `@etag` and `@fresh` stand for what is known when it is sent. */
export interface FuzzRequest extends WireRequest {
  operation: Operation;
  /** Who sends it; the credential's headers are not among `headers`. */
  credential: Credential;
  /** How it differs from what the document describes; empty: it does not. */
  mutations: readonly string[];
  /** Whether it is sent again, where its key makes that safe. */
  again: boolean;
}

/** Requests of these operations by these callers: half of them as described, the others mutated up to three times. */
export function fuzzRequests(
  operations: readonly Operation[],
  { bookingIds, credentials }: { bookingIds: readonly string[]; credentials: readonly Credential[] },
): fc.Arbitrary<FuzzRequest> {
  // The more a call can be told, the more there is to get wrong.
  const weighted = operations.map((operation) => ({
    weight: 2 + operation.parameters.length + Object.keys(operation.body?.properties ?? {}).length,
    arbitrary: fc.constant(operation),
  }));
  return fc.oneof(...weighted).chain((operation) =>
    fc
      .record({
        draft: drafts(operation, bookingIds),
        credential: fc.oneof(
          { weight: 4, arbitrary: fc.constantFrom(...validCredentials(credentials, operation.role)) },
          { weight: 1, arbitrary: fc.constantFrom(...credentials) },
          { weight: 1, arbitrary: fc.constantFrom(...lesserCredentials(credentials, operation.role)) },
        ),
        mutations: fc.oneof(
          { weight: 2, arbitrary: fc.constant<Mutation[]>([]) },
          // Mostly one: of several, the first that is refused hides the others.
          { weight: 1, arbitrary: fc.tuple(mutations(operation)) },
          { weight: 1, arbitrary: fc.array(mutations(operation), { minLength: 1, maxLength: 3 }) },
        ),
        again: fc.boolean(),
      })
      .map(({ draft, credential, mutations: applied, again }) => {
        const mutated = structuredClone(draft);
        for (const { apply } of applied) apply(mutated);
        return {
          operation,
          credential,
          mutations: applied.map(({ name }) => name),
          again,
          ...toWire(mutated),
        };
      }),
  );
}

function toWire({ method, path, query, headers, body, bytes, framing }: Draft): WireRequest {
  const search = query.map(([name, value]) => `${name}=${value}`).join('&');
  const text = body === undefined ? undefined : Buffer.from(JSON.stringify(body));
  // A request line has no spaces, or it is another line; every character is one byte.
  const target = `${path}${search === '' ? '' : `?${search}`}`;
  return { method, target, headers, body: bytes ?? text, framing };
}

/** As the document describes it. */
function drafts(operation: Operation, bookingIds: readonly string[]): fc.Arbitrary<Draft> {
  const of = (place: Parameter['in']) => operation.parameters.filter((parameter) => parameter.in === place);
  const body = operation.body === undefined ? fc.constant(undefined) : validValues(operation.body);
  return fc
    .record({
      path: fc.tuple(...of('path').map((parameter) => pathValues(parameter, bookingIds))),
      query: fc.tuple(...of('query').map((parameter) => optional(queryValues(parameter)))),
      headers: fc.tuple(...of('header').map((parameter) => optional(headerValues(parameter, operation)))),
      body,
      framing: fc.constantFrom('length' as const, 'length' as const, 'chunked' as const),
    })
    .map(({ path, query, headers, body: value, framing }) => ({
      method: operation.method,
      path: of('path').reduce(
        (text, { name }, index) => text.replace(`{${name}}`, path[index] ?? ''),
        operation.path,
      ),
      query: named(of('query'), query),
      headers: [
        ...named(of('header'), headers),
        ...(value === undefined ? [] : [['content-type', 'application/json'] as [string, string]]),
      ],
      body: value,
      bytes: undefined,
      framing,
    }));
}

const optional = (values: fc.Arbitrary<string>): fc.Arbitrary<string | undefined> =>
  fc.option(values, { nil: undefined, freq: 1 });

const named = (parameters: Parameter[], values: (string | undefined)[]): [string, string][] =>
  parameters.flatMap(({ name }, index) => {
    const value = values[index];
    return value === undefined ? [] : [[name, value] as [string, string]];
  });

function pathValues({ name, schema }: Parameter, bookingIds: readonly string[]): fc.Arbitrary<string> {
  // Audits are counted from 1.
  const audits = fc.constantFrom('1', '2', '3');
  const known =
    name === 'job_id' ? fc.constant('@job') : name === 'audit_id' ? audits : fc.constantFrom(...bookingIds);
  return fc.oneof(
    { weight: 12, arbitrary: known },
    { weight: 1, arbitrary: validValues(schema).map(String) },
    { weight: 1, arbitrary: known.map((id) => (id.startsWith('@') ? id : id.toUpperCase())) },
  );
}

function queryValues({ name, schema }: Parameter): fc.Arbitrary<string> {
  if (name === 'cursor') return fc.constant('@cursor');
  if (name === 'crop_type') return fc.constantFrom('Tomato', 'Potato', encodeURIComponent('Grüner Tee 💣'));
  return validValues(schema).map((value) => encodeURIComponent(String(value)));
}

function headerValues({ name }: Parameter, { id }: Operation): fc.Arbitrary<string> {
  switch (name.toLowerCase()) {
    case 'idempotency-key':
      // Most of them new; few others, so that they come again, with the same call or another one.
      return fc.oneof(
        { weight: 4, arbitrary: fc.constant('@fresh') },
        { weight: 1, arbitrary: fc.constantFrom(`${id}-1`, `${id}-2`, 'shared', 'k!"#~'.padEnd(255, 'k')) },
      );
    case 'if-none-match':
      return fc.constantFrom('*', '@etag', 'W/@etag', '"none", @etag');
    case 'if-match':
      return fc.constantFrom('*', '@etag', '@etag', '@etag', '"1"');
    default:
      throw new Error(`the fuzzer does not know what a valid ${name} is: teach it`);
  }
}
