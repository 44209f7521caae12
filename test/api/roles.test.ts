import { randomUUID } from 'node:crypto';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { createApi } from '../../src/api/app.ts';
import { type Problem, problemSchema } from '../../src/api/problem.ts';
import { createKey, ROLES, type Role } from '../../src/store/api-keys.ts';
import { createTestApi, type TestApi } from './setup.ts';

// Every operation of the served OpenAPI document, called by everybody: nobody, a reader, an operator, an admin.

interface Operation {
  call: string;
  method: string;
  path: string;
  role: Role | undefined;
  security: object[];
}

let api: TestApi;
let app: TestApi['app'];
let operations: Operation[];
const keys: Partial<Record<Role, string>> = {};

beforeAll(async () => {
  api = await createTestApi();
  app = createApi({ ...api.ctx, requireKey: true });
  for (const role of ROLES) {
    const made = { name: role, role, expiresInSeconds: undefined, createdBy: 'test' } as const;
    keys[role] = (await createKey(api.database.pool, made)) ?? '';
  }
  const document = (await (await app.request('/openapi.json')).json()) as {
    paths: Record<string, Record<string, { 'x-role'?: Role; security: object[] }>>;
  };
  operations = Object.entries(document.paths).flatMap(([path, methods]) =>
    Object.entries(methods).map(([method, operation]) => ({
      call: `${method} ${path}`,
      method: method.toUpperCase(),
      path,
      role: operation['x-role'],
      security: operation.security,
    })),
  );
});
afterAll(() => api.drop());

/** The problem that the call is refused with; undefined for another answer. What is sent is wrong, so that nothing is done. */
async function refusal(
  { method, path }: Operation,
  role: Role | undefined,
): Promise<Problem['code'] | undefined> {
  const response = await app.request(`${path.replaceAll(/\{\w+\}/g, () => randomUUID())}?not_known=1`, {
    method,
    headers: {
      ...(role === undefined ? {} : { authorization: `Bearer ${keys[role]}` }),
      ...(method === 'GET' ? {} : { 'content-type': 'application/json', 'idempotency-key': randomUUID() }),
    },
    ...(method === 'GET' ? {} : { body: '{"not_known":1}' }),
  });
  if (response.status < 400) {
    await response.body?.cancel();
    return undefined;
  }
  return problemSchema.parse(await response.json()).code;
}

test('every operation may be called by its role and by higher ones, and by nobody else', async () => {
  expect(operations.length).toBeGreaterThan(10);
  const wrong: string[] = [];
  for (const operation of operations) {
    for (const role of [undefined, ...ROLES]) {
      const code = await refusal(operation, role);
      const allowed =
        operation.role === undefined ||
        (role !== undefined && ROLES.indexOf(role) >= ROLES.indexOf(operation.role));
      const expected = role === undefined ? 'key_refused' : 'role_refused';
      const isRefused = code === 'key_refused' || code === 'role_refused';
      if (allowed ? isRefused : code !== expected) {
        wrong.push(`${operation.call} by ${role ?? 'nobody'}: ${code ?? 'answered'}`);
      }
    }
  }
  expect(wrong).toEqual([]);
});

test('what needs no key is health and nothing else that is documented', () => {
  const open = operations.filter(({ role }) => role === undefined);
  expect(open.map(({ call }) => call).toSorted()).toEqual(['get /healthz', 'get /readyz']);
  for (const { security } of open) expect(security).toEqual([]);
});

test('reads need a reader, and whatever changes something more than that', () => {
  for (const { call, method, role } of operations) {
    if (role === undefined) continue;
    expect([call, role === 'reader']).toEqual([call, method === 'GET']);
  }
});

test('what stops or rewrites everything needs an admin', () => {
  const admins = operations.filter(({ role }) => role === 'admin').map(({ path }) => path);
  const all = operations.filter(({ method }) => method !== 'GET').map(({ path }) => path);
  const grave = all.filter((path) => /\/(pause|resume|resync|audits|backfill|cancel)$/.test(path));
  expect(admins.toSorted()).toEqual(grave.toSorted());
});
