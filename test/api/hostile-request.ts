import { once } from 'node:events';
import { type Agent, type IncomingMessage, request } from 'node:http';
import fc from 'fast-check';
import { HOSTILE_ENCODED, HOSTILE_TEXTS } from '../fuzz/hostile-values.ts';

/** A request as it goes over the wire: nothing has made it well-formed on the way. */
export interface HostileRequest {
  method: string;
  /** Target with query, in characters from ! to ÿ, each sent as one byte. */
  target: string;
  headers: [name: string, value: string][];
  body: Buffer | undefined;
}

export interface Answer {
  status: number;
  headers: Record<string, string>;
  body: Buffer;
}

/** One call that the OpenAPI document lists. */
export interface Operation {
  path: string;
  method: string;
  /** Names of its query parameters. */
  query: string[];
}

const encoded = (text: string): string => encodeURIComponent(text.toWellFormed());

const hostileText = (): fc.Arbitrary<string> =>
  fc.oneof(
    fc.constantFrom(...HOSTILE_TEXTS).map(encoded),
    fc.constantFrom(...HOSTILE_ENCODED),
    // What PostgreSQL's text cannot hold, often: it is the one character that gets far.
    fc.constantFrom('%00', 'Tomato%00'),
    fc.string({ unit: 'binary', maxLength: 40 }).map(encoded),
  );

const METHODS = ['GET', 'HEAD', 'POST', 'PUT', 'PATCH', 'DELETE', 'OPTIONS', 'TRACE', 'PROPFIND', 'LINK'];

const HOSTILE_BODIES = [
  '{}',
  '',
  '{',
  '[]',
  'null',
  '{"__proto__":{"polluted":true}}',
  '{"$ne":null}',
  '{"constructor":{"prototype":{"polluted":true}}}',
  '{"booking_id":{"$gt":""}}',
  '\0',
  '"\\ud800"',
  '{"reason":"checked"}',
  '{"reason":"checked","grade":"B","quality_score":80.5}',
  '{"reason":"\\u0000"}',
  '{"reason":"x","quality_score":1e999}',
  '{"reason":"x","quality_score":-1}',
  '{"reason":"x","expires_at":"infinity"}',
  '{"reason":"x","expires_at":"2999-01-01T00:00:00Z"}',
  '{"reason":"x","grade":{"$ne":null}}',
  '{"reason":["x"]}',
  '{"reason":" "}',
  `${'['.repeat(30_000)}`,
  `{"a":"${'x'.repeat(70_000)}"}`,
].map((text) => Buffer.from(text));

const bodies = (): fc.Arbitrary<Buffer | undefined> =>
  fc.oneof(
    { weight: 3, arbitrary: fc.constant(undefined) },
    { weight: 3, arbitrary: fc.constantFrom(...HOSTILE_BODIES) },
    { weight: 1, arbitrary: fc.json({ maxDepth: 3 }).map((text) => Buffer.from(text)) },
    { weight: 1, arbitrary: fc.uint8Array({ maxLength: 200 }).map((bytes) => Buffer.from(bytes)) },
  );

const headers = (keys: string[]): fc.Arbitrary<[string, string][]> => {
  const value = fc.oneof(
    fc.constantFrom(...HOSTILE_TEXTS.map((text) => text.replaceAll(/[^\t\x20-\x7e]/g, '?'))),
    fc
      .string({ unit: 'binary-ascii', maxLength: 40 })
      .map((text) => text.replaceAll(/[^\x20-\x7e]/g, '\xe9')),
  );
  const name = fc.constantFrom(
    'authorization',
    'x-api-key',
    'x-request-id',
    'content-type',
    'content-encoding',
    'accept',
    'origin',
    'sec-fetch-site',
    'cookie',
    'if-none-match',
    'if-match',
    'idempotency-key',
    'x-forwarded-host',
    'x-http-method-override',
    '__proto__',
    'range',
  );
  const key = fc.constantFrom(...keys).map((text): [string, string] => ['authorization', `Bearer ${text}`]);
  const json = fc.constant<[string, string]>(['content-type', 'application/json']);
  // Few of them, so that they come again, with the same call or another one.
  const once = fc.constantFrom('a', 'b', 'c').map((text): [string, string] => ['idempotency-key', text]);
  return fc.oneof(
    { weight: 1, arbitrary: fc.constant<[string, string][]>([]) },
    { weight: 3, arbitrary: fc.tuple(key) },
    { weight: 6, arbitrary: fc.tuple(key, json) },
    { weight: 1, arbitrary: fc.tuple(key, json, once) },
    {
      weight: 3,
      arbitrary: fc
        .tuple(fc.option(key, { nil: undefined }), fc.array(fc.tuple(name, value), { maxLength: 3 }))
        .map(([own, others]) => (own === undefined ? others : [own, ...others])),
    },
  );
};

/** Mostly parameters that the call knows: what is unknown is refused before its value is looked at. */
const queries = (names: string[]): fc.Arbitrary<string> => {
  const known = names.length === 0 ? ['limit'] : names;
  const pair = fc.tuple(
    fc.oneof({ weight: 6, arbitrary: fc.constantFrom(...known) }, { weight: 1, arbitrary: hostileText() }),
    fc.oneof(
      { weight: 1, arbitrary: fc.constantFrom('1', '200', 'published', 'Tomato') },
      { weight: 2, arbitrary: hostileText() },
    ),
  );
  return fc.oneof(
    { weight: 2, arbitrary: fc.constant('') },
    {
      weight: names.length === 0 ? 1 : 6,
      arbitrary: fc
        .array(pair, { minLength: 1, maxLength: 2 })
        .map((pairs) => `?${pairs.map(([name, value]) => `${name}=${value}`).join('&')}`),
    },
  );
};

/** Requests near what the document describes: some of it as described, some mutated. */
export function hostileRequests(
  operations: Operation[],
  { bookingIds, keys }: { bookingIds: string[]; keys: string[] },
): fc.Arbitrary<HostileRequest> {
  // The more a call can be told, the more there is to get wrong.
  const weighted = operations.map((operation) => ({
    weight: 1 + Math.ceil(operation.query.length / 2),
    arbitrary: fc.constant(operation),
  }));
  return fc.oneof(...weighted).chain((operation) =>
    fc.record({
      method: fc.oneof(
        { weight: 3, arbitrary: fc.constant(operation.method.toUpperCase()) },
        { weight: 1, arbitrary: fc.constantFrom(...METHODS) },
      ),
      target: fc
        .tuple(
          fc.oneof(fc.constantFrom(...bookingIds), hostileText()),
          fc.oneof({ weight: 9, arbitrary: fc.constant('') }, { weight: 1, arbitrary: hostileText() }),
          queries(operation.query),
        )
        .map(([id, suffix, query]) => operation.path.replace(/\{\w+\}/, () => id) + suffix + query),
      headers: headers(keys),
      body: bodies(),
    }),
  );
}

/** Sends a request and reads the whole answer. Throws when the connection ends without one. */
export async function sendHostile(
  url: string,
  agent: Agent,
  { method, target, headers, body }: HostileRequest,
): Promise<Answer> {
  const { hostname, port } = new URL(url);
  const message = request({ hostname, port, agent, method, path: target, setHost: true });
  for (const [name, value] of headers) message.setHeader(name, value);
  const answered = once(message, 'response');
  // Refused early, the server may hang up while the body is still being sent: the answer is what counts.
  message.on('error', () => undefined);
  if (body !== undefined) message.setHeader('content-length', body.byteLength);
  message.end(body);
  const [incoming] = (await answered) as [IncomingMessage];
  const answer = { status: incoming.statusCode ?? 0, headers: incoming.headers as Record<string, string> };
  if (answer.headers['content-type']?.startsWith('text/event-stream') === true) {
    // It has no end.
    incoming.on('error', () => undefined).destroy();
    return { ...answer, body: Buffer.alloc(0) };
  }
  const chunks: Buffer[] = [];
  for await (const chunk of incoming) chunks.push(chunk as Buffer);
  return { ...answer, body: Buffer.concat(chunks) };
}
