import fc from 'fast-check';
import type { Operation } from './document.ts';
import {
  HOSTILE_BODIES,
  HOSTILE_CURSORS,
  hostileHeaderValues,
  hostileParts,
  hostileValues,
} from './hostile-values.ts';

/** A request under way to being one: path and query apart, the body still a value. */
export interface Draft {
  method: string;
  path: string;
  query: [name: string, value: string][];
  headers: [name: string, value: string][];
  body: unknown;
  bytes: Buffer | undefined;
  framing: 'length' | 'chunked';
}

export type Mutation = { name: string; apply: (draft: Draft) => void };

const METHODS = ['GET', 'HEAD', 'POST', 'PUT', 'PATCH', 'DELETE', 'OPTIONS', 'TRACE', 'PROPFIND', 'LINK'];

/** One way in which a request of this operation can go wrong. */
export function mutations(operation: Operation): fc.Arbitrary<Mutation> {
  const fields = Object.keys(operation.body?.properties ?? {});
  return fc.oneof(
    { weight: 2, arbitrary: fc.constantFrom(...METHODS).map(setMethod) },
    { weight: 3, arbitrary: pathMutations() },
    { weight: operation.method === 'GET' ? 5 : 1, arbitrary: queryMutations(operation) },
    { weight: 4, arbitrary: headerMutations() },
    { weight: operation.method === 'GET' ? 1 : 5, arbitrary: bodyMutations(fields) },
  );
}

const setMethod = (method: string): Mutation => ({
  name: `method ${method}`,
  apply: (draft) => {
    draft.method = method;
  },
});

const pathMutations = (): fc.Arbitrary<Mutation> =>
  fc.oneof(
    fc
      .record({ at: fc.integer({ min: 1, max: 6 }), part: hostileParts() })
      .map(({ at, part }) =>
        changePath('segment', (parts) => parts.with(Math.min(at, parts.length - 1), part)),
      ),
    hostileParts().map((part) => changePath('more', (parts) => [...parts, part])),
    otherPaths(),
    fc.constantFrom(
      changePath('slash at the end', (parts) => [...parts, '']),
      changePath('two slashes', (parts) => ['', ...parts]),
      changePath('dots', (parts) => ['', 'page', '..', ...parts.slice(1)]),
      changePath('encoded letter', (parts) =>
        parts.with(
          -1,
          (parts.at(-1) ?? '').replace(/[a-z]/, (letter) => `%${letter.charCodeAt(0).toString(16)}`),
        ),
      ),
      changePath('encoded slash', (parts) => ['', parts.slice(1).join('%2F')]),
      changePath('backslash', (parts) => ['', parts.slice(1).join('\\')]),
      changePath('upper case', (parts) => parts.map((part) => part.toUpperCase())),
      changePath('semicolon', (parts) => parts.with(-1, `${parts.at(-1)};x=1`)),
      changePath('fragment', (parts) => parts.with(-1, `${parts.at(-1)}#x`)),
      changePath('whole address', (parts) => ['http:', '', '127.0.0.1', ...parts.slice(1)]),
      changePath('long', (parts) => [...parts, 'x'.repeat(20_000)]),
    ),
  );

/** What is no operation: pages, documents, nothing. */
const OTHER_PATHS = [
  '/',
  '/docs',
  '/openapi.json',
  '/page/main.js',
  '/page/none',
  '/storage-guard',
  '/metrics/',
  '//',
];

const otherPaths = (): fc.Arbitrary<Mutation> =>
  fc.tuple(fc.constantFrom(...OTHER_PATHS), fc.boolean()).map(([path, unlessThere]) => ({
    name: `${path}${unlessThere ? ' unless it is there' : ''}`,
    apply: (draft) => {
      draft.path = path;
      if (unlessThere) draft.headers.push(['if-none-match', '*']);
    },
  }));

const changePath = (name: string, change: (parts: string[]) => string[]): Mutation => ({
  name: `path: ${name}`,
  apply: (draft) => {
    draft.path = change(draft.path.split('/')).join('/');
  },
});

function queryMutations({ parameters }: Operation): fc.Arbitrary<Mutation> {
  const known = parameters.filter((parameter) => parameter.in === 'query').map(({ name }) => name);
  const names = fc.oneof(
    { weight: 4, arbitrary: fc.constantFrom(...known, 'limit') },
    { weight: 1, arbitrary: hostileParts() },
  );
  const values = fc.oneof(
    { weight: 3, arbitrary: hostileParts() },
    { weight: 1, arbitrary: fc.constant('1') },
  );
  const pairs = fc.array(fc.tuple(names, values), { minLength: 1, maxLength: 3 });
  const setCursor = fc.constantFrom(...HOSTILE_CURSORS).map((cursor) => ({
    name: 'cursor',
    apply: (draft: Draft) => {
      draft.query = [...draft.query.filter(([name]) => name !== 'cursor'), ['cursor', cursor]];
    },
  }));
  return fc.oneof(
    ...(known.includes('cursor') ? [setCursor] : []),
    pairs.map((more) => ({ name: 'query', apply: (draft: Draft) => void draft.query.push(...more) })),
    fc.constant({
      name: 'query: twice',
      apply: (draft: Draft) => void draft.query.push(...structuredClone(draft.query)),
    }),
  );
}

const HEADERS: [string, string][] = [
  ['content-type', 'text/plain'],
  ['content-type', 'application/json; charset=utf-16'],
  ['content-type', 'application/json; charset=utf-8'],
  ['content-type', 'application/x-www-form-urlencoded'],
  ['content-type', 'multipart/form-data; boundary=x'],
  ['content-type', 'application/merge-patch+json'],
  ['content-type', ''],
  ['content-encoding', 'gzip'],
  ['content-encoding', 'identity'],
  ['accept', 'text/html'],
  ['accept', 'application/xml;q=0.5'],
  ['accept-encoding', 'gzip, br'],
  ['expect', '100-continue'],
  ['expect', 'nonsense'],
  ['range', 'bytes=0-3'],
  ['te', 'trailers'],
  ['upgrade', 'h2c'],
  ['origin', 'https://evil.example'],
  ['origin', 'null'],
  ['sec-fetch-site', 'cross-site'],
  ['host', 'evil.example'],
  ['host', 'a b'],
  ['host', ''],
  ['x-forwarded-host', 'evil.example'],
  ['x-forwarded-for', '10.0.0.1'],
  ['x-http-method-override', 'DELETE'],
  ['x-request-id', 'x'.repeat(300)],
  ['x-request-id', 'mine-1'],
  ['cookie', 'a=b'],
  ['if-match', 'W/"1"'],
  ['if-match', '"x"'],
  ['if-match', '"1", "2"'],
  ['if-match', '"99999999999999999999"'],
  ['if-match', '"999999999999999"'],
  ['if-match', ''],
  ['if-none-match', '"unclosed'],
  ['if-none-match', '@etag'],
  ['if-none-match', '*'],
  ['if-modified-since', 'Mon, 01 Jan 2035 00:00:00 GMT'],
  ['idempotency-key', ''],
  ['idempotency-key', 'a b'],
  ['idempotency-key', 'k'.repeat(256)],
  ['idempotency-key', '\xe9'],
  ['idempotency-key', 'a\tb'],
  ['idempotency-key', "'; drop table market_sync.idempotency; --".replaceAll(' ', '+')],
  ['__proto__', 'x'],
  ['x-big', 'x'.repeat(20_000)],
  ['last-event-id', '1'],
];

const headerMutations = (): fc.Arbitrary<Mutation> =>
  fc.oneof(
    fc.constantFrom(...HEADERS).map(([name, value]) => setHeader(name, value)),
    fc.constantFrom(...HEADERS).map(([name, value]) => ({
      name: `another ${name}`,
      apply: (draft: Draft) => void draft.headers.push([name, value]),
    })),
    fc
      .tuple(fc.constantFrom(...HEADERS), hostileHeaderValues())
      .map(([[name], value]) => setHeader(name, value)),
    fc.constant({ name: 'no headers', apply: (draft: Draft) => void draft.headers.splice(0) }),
  );

const setHeader = (name: string, value: string): Mutation => ({
  name: `header ${name}`,
  apply: (draft) => {
    draft.headers = [...draft.headers.filter(([known]) => known !== name), [name, value]];
  },
});

function bodyMutations(fields: string[]): fc.Arbitrary<Mutation> {
  const field = fc.oneof(
    { weight: 4, arbitrary: fc.constantFrom(...fields, 'reason') },
    { weight: 1, arbitrary: fc.constantFrom('not_known', '', '$set', 'toString', 'hasOwnProperty') },
  );
  const asJson = (draft: Draft): void => {
    if (!draft.headers.some(([name]) => name === 'content-type')) {
      draft.headers.push(['content-type', 'application/json']);
    }
  };
  const setBytes = (bytes: Buffer): Mutation => ({
    name: 'body',
    apply: (draft) => {
      asJson(draft);
      draft.bytes = bytes;
    },
  });
  return fc.oneof(
    fc.constantFrom(...HOSTILE_BODIES).map(setBytes),
    fc.uint8Array({ maxLength: 200 }).map((bytes) => setBytes(Buffer.from(bytes))),
    fc.tuple(field, hostileValues()).map(([name, value]) => ({
      name: `body: ${name}`,
      apply: (draft: Draft) => {
        asJson(draft);
        draft.body = { ...(draft.body as object | undefined), [name]: value };
      },
    })),
    fc.constantFrom(...fields, 'reason').map((name) => ({
      name: `body without ${name}`,
      apply: (draft: Draft) => {
        if (typeof draft.body === 'object') delete (draft.body as Record<string, unknown>)[name];
      },
    })),
    fc.constant({
      name: 'body in an array',
      apply: (draft: Draft) => {
        asJson(draft);
        draft.body = [draft.body ?? {}];
      },
    }),
  );
}
