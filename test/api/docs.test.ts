import { Validator } from '@seriousme/openapi-schema-validator';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { createApi } from '../../src/api/app.ts';
import { PROBLEM_TYPE } from '../../src/api/problem.ts';
import { declaredRole } from '../../src/api/role.ts';
import { createTestApi, type TestApi } from './setup.ts';

const OIDC = {
  issuer: 'https://login.example.org/realm/',
  audience: 'market-sync',
  algorithms: ['RS256'],
  roleClaim: 'roles',
};

let api: TestApi;
beforeAll(async () => {
  api = await createTestApi();
});
afterAll(() => api.drop());

interface Answer {
  description: string;
  headers?: Record<string, unknown>;
  content?: Record<string, { schema?: object; example?: unknown; examples?: Record<string, unknown> }>;
}
interface Operation {
  operationId?: string;
  summary?: string;
  description?: string;
  tags?: string[];
  parameters?: { $ref?: string; name?: string; in?: string; schema?: object }[];
  requestBody?: { required?: boolean; content: Record<string, { schema: object }> };
  responses: Record<string, Answer>;
  security: object[];
  'x-role'?: string;
}
interface OpenApi {
  openapi: string;
  tags: { name: string }[];
  paths: Record<string, Record<string, Operation>>;
  components: { securitySchemes: Record<string, unknown>; schemas: Record<string, unknown> };
}

async function readDocument(app = api.app): Promise<OpenApi> {
  return (await (await app.request('/openapi.json')).json()) as OpenApi;
}

async function listCalls(app = api.app) {
  const { paths } = await readDocument(app);
  return Object.entries(paths).flatMap(([path, operations]) =>
    Object.entries(operations).map(([method, operation]) => ({
      call: `${method} ${path}`,
      method,
      path,
      operation,
    })),
  );
}

/** Whether an answer of this status is no error, or an error that is more than a problem. */
const isContent = (call: string, status: string): boolean =>
  Number(status) < 400 || (call === 'get /readyz' && status === '503');

test('the OpenAPI document is a valid one of version 3.1, by a validator of others', async () => {
  for (const oidc of [undefined, OIDC]) {
    const document = await readDocument(createApi({ ...api.ctx, oidc }));
    expect(document.openapi).toBe('3.1.0');
    const validator = new Validator();
    expect(await validator.validate(document as never)).toEqual({ valid: true });
    expect(validator.version).toBe('3.1');
    // Throws for a reference to nothing.
    validator.resolveRefs();
    expect(JSON.stringify(document)).not.toContain('own_hash');
  }
});

test('every call is documented with what a client is generated from: a name, a summary, answers, errors as problems', async () => {
  const calls = await listCalls();
  const { tags } = await readDocument();
  expect(new Set(calls.map(({ operation }) => operation.operationId)).size).toBe(calls.length);
  for (const { call, operation } of calls) {
    expect(operation.operationId, call).toMatch(/^[a-z][A-Za-z]+$/);
    expect(operation, call).toMatchObject({
      summary: expect.stringMatching(/./),
      tags: [expect.any(String)],
    });
    expect(
      tags.map(({ name }) => name),
      call,
    ).toContain(operation.tags?.[0]);
    const statuses = Object.keys(operation.responses);
    expect(
      statuses.some((status) => /^20[0-4]$/.test(status)),
      call,
    ).toBe(true);
    for (const [status, { description, content = {}, headers = {} }] of Object.entries(operation.responses)) {
      expect(description, `${call} ${status}`).not.toBe('');
      expect(Object.keys(headers), `${call} ${status}`).toContain('X-Request-Id');
      const types = Object.keys(content);
      if (isContent(call, status)) {
        expect(types, `${call} ${status}`).not.toContain(PROBLEM_TYPE);
        for (const type of types) expect(content[type]?.schema, `${call} ${status}`).toBeDefined();
      } else {
        expect(types, `${call} ${status}`).toEqual([PROBLEM_TYPE]);
        expect(content[PROBLEM_TYPE]?.schema).toEqual({ $ref: '#/components/schemas/Problem' });
        expect(Object.keys(content[PROBLEM_TYPE]?.examples ?? {}), `${call} ${status}`).not.toEqual([]);
      }
    }
  }
});

test('every call is served under its path and method, and every path that is served is documented', async () => {
  const documented = (await listCalls()).map(
    ({ method, path }) => `${method.toUpperCase()} ${path.replaceAll(/\{(.+?)\}/g, ':$1')}`,
  );
  const served = api.app.routes
    .filter(({ method, handler }) => method !== 'ALL' && declaredRole(handler) !== undefined)
    .map(({ method, path }) => `${method} ${path}`);
  const open = ['GET /healthz', 'GET /readyz'];
  expect(documented.toSorted()).toEqual([...new Set([...served, ...open])].toSorted());
});

test('every call with a role documents who may make it, and that it is refused to others and when there are too many', async () => {
  for (const { call, operation } of await listCalls()) {
    const role = operation['x-role'];
    if (role === undefined) continue;
    expect(operation.description, call).toContain(`Needs the role \`${role}\`.`);
    expect(operation.security, call).toEqual([{ bearer: [] }, { header: [] }, {}]);
    for (const [status, code] of [
      ['401', 'key_refused'],
      ['403', 'role_refused'],
      ['429', 'rate_limited'],
      ['503', 'database_unavailable'],
    ] as const) {
      const answer = operation.responses[status];
      expect(Object.keys(answer?.content?.[PROBLEM_TYPE]?.examples ?? {}), `${call} ${status}`).toContain(
        code,
      );
    }
    for (const status of ['429', '503']) {
      expect(operation.responses[status]?.headers, call).toHaveProperty('Retry-After');
    }
    expect(operation.responses['401']?.headers, call).toHaveProperty('RateLimit');
  }
});

test('calls that change something document their Idempotency-Key, and reads in JSON their ETag', async () => {
  for (const { call, method, operation } of await listCalls()) {
    if (operation['x-role'] === undefined) continue;
    const parameters = (operation.parameters ?? []).map(({ $ref }) => $ref);
    const isRead = method === 'get';
    const isJson = operation.responses['200']?.content?.['application/json'] !== undefined;
    expect(parameters.includes('#/components/parameters/IdempotencyKey'), call).toBe(!isRead);
    expect(parameters.includes('#/components/parameters/IfNoneMatch'), call).toBe(isRead && isJson);
    expect(operation.responses['304'] !== undefined, call).toBe(isRead && isJson);
    if (isRead && isJson) expect(operation.responses['200']?.headers, call).toHaveProperty('ETag');
    if (isRead) continue;
    for (const [status, code] of [
      ['409', 'idempotency_in_work'],
      ['422', 'idempotency_mismatch'],
    ] as const) {
      const examples = operation.responses[status]?.content?.[PROBLEM_TYPE]?.examples;
      expect(Object.keys(examples ?? {}), call).toContain(code);
    }
  }
});

test('every answer and every body in JSON has an example, whole or part by part', async () => {
  const { components } = await readDocument();
  // All that healthz can say is in its schema.
  for (const { call, operation } of (await listCalls()).filter(({ path }) => path !== '/healthz')) {
    const contents = [
      ...Object.entries(operation.responses).filter(([status]) => isContent(call, status)),
      ['body', operation.requestBody ?? {}] as [string, Partial<Answer>],
    ];
    for (const [place, { content }] of contents) {
      const json = content?.['application/json'];
      if (json === undefined) continue;
      expect(hasExample(json, components.schemas), `${call} ${place}`).toBe(true);
    }
  }
});

/** Somewhere within. */
function hasExample(part: unknown, schemas: Record<string, unknown>, depth = 0): boolean {
  if (typeof part !== 'object' || part === null || depth > 12) return false;
  const { $ref } = part as { $ref?: string };
  if ($ref !== undefined) return hasExample(schemas[$ref.split('/').at(-1) ?? ''], schemas, depth + 1);
  return (
    'example' in part ||
    'examples' in part ||
    Object.values(part).some((inner) => hasExample(inner, schemas, depth + 1))
  );
}

test('calls without a key are documented only where they are served, and tokens where they are believed', async () => {
  const guarded = createApi({ ...api.ctx, requireKey: true, oidc: OIDC });
  for (const { call, operation } of await listCalls(guarded)) {
    const expected = operation['x-role'] === undefined ? [] : [{ bearer: [] }, { header: [] }, { oidc: [] }];
    expect(operation.security, call).toEqual(expected);
  }
  expect((await readDocument(guarded)).components.securitySchemes).toMatchObject({
    oidc: { openIdConnectUrl: 'https://login.example.org/realm/.well-known/openid-configuration' },
  });
});

test('the docs page and everything it loads come from here, and none of it is inline', async () => {
  const page = await (await api.app.request('/docs')).text();
  const loaded = [...page.matchAll(/(?:src|href)="([^"]+)"/g)].map((match) => match[1] ?? '');
  expect(loaded.length).toBeGreaterThan(4);
  for (const path of loaded) {
    expect(path).toMatch(/^\//);
    expect((await api.app.request(path)).status).toBe(200);
  }
  expect(page).not.toMatch(/<script(?![^>]* src=)|<style| style=| on\w+=/);
  const policy = (await api.app.request('/docs')).headers.get('content-security-policy') ?? '';
  expect(policy).toContain("default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:");
  expect(policy).not.toMatch(/unsafe|https?:/);
  // Swagger UI makes elements of text.
  expect(policy).not.toContain('trusted-types');
});
