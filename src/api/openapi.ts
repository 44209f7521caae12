import type { OpenAPIHono } from '@hono/zod-openapi';
import type { Role } from '../store/api-keys.ts';
import type { ApiEnv } from './context.ts';
import { documentProblems, PROBLEM_TYPE, type ProblemCode } from './problem.ts';
import { declaredRole } from './role.ts';

// What all operations have in common is documented here, from what their routes say of themselves, so that no route can
// forget it: who may call, with what, how often, and which headers count.

interface Answer {
  description: string;
  headers?: Record<string, unknown>;
  content?: Record<string, { schema?: unknown; examples?: Record<string, unknown> }>;
}

interface Operation {
  description?: string;
  parameters?: unknown[];
  responses: Record<string, Answer>;
  security?: unknown[];
  'x-role'?: Role;
}

export interface Document {
  paths?: Record<string, Record<string, Operation>>;
  components?: Record<string, Record<string, unknown>>;
}

const HEADERS = {
  ETag: {
    description: 'Names exactly this answer: send it as If-None-Match, or as If-Match where that is taken.',
    schema: { type: 'string' },
    example: '"6f2nNwLJ0fQ1kq0X4gS4bX9Zq3I"',
  },
  RateLimit: {
    description: 'Calls that are left to this caller, and in how many seconds there are all of them again.',
    schema: { type: 'string' },
    example: '"caller";r=199;t=4',
  },
  RetryAfter: {
    description: 'Seconds after which the call may be sent again.',
    schema: { type: 'integer', minimum: 1 },
    example: 2,
  },
  IdempotencyReplayed: {
    description: '`true` on the answer of an earlier call with this Idempotency-Key; absent otherwise.',
    schema: { type: 'string', enum: ['true'] },
  },
  RequestId: {
    description: 'Taken from the call or made; the log has it.',
    schema: { type: 'string' },
    example: '0b5c6a2e-3f0e-4a55-9d0a-5b1f2f1f7f11',
  },
};

const PARAMETERS = {
  IdempotencyKey: {
    name: 'Idempotency-Key',
    in: 'header',
    required: false,
    description:
      'Makes the call safe to send again: it is done once, and whoever sends it again with the same key gets the first ' +
      'answer. A new one for each call, for example a UUID.',
    schema: { type: 'string', minLength: 1, maxLength: 255, pattern: '^[\\x21-\\x7e]+$' },
    example: '1f0e6c1a-9a57-4b0e-8f43-0c5a2b1d7e90',
  },
  IfNoneMatch: {
    name: 'If-None-Match',
    in: 'header',
    required: false,
    description: 'The ETag of an answer that the caller has: 304 while it is still the same.',
    schema: { type: 'string' },
    example: '"6f2nNwLJ0fQ1kq0X4gS4bX9Zq3I"',
  },
};

const header = (name: keyof typeof HEADERS) => ({ $ref: `#/components/headers/${name}` });
const parameter = (name: keyof typeof PARAMETERS) => ({ $ref: `#/components/parameters/${name}` });

/** Completes the document of what `app` has mounted. `schemes` are the names of what a caller may prove itself with. */
export function completeDocument(
  app: OpenAPIHono<ApiEnv>,
  document: Document,
  { schemes, keyRequired }: { schemes: string[]; keyRequired: boolean },
): Document {
  const roles = new Map(
    app.routes.flatMap(({ method, path, handler }) => {
      const role = declaredRole(handler);
      return role === undefined ? [] : [[`${method} ${path}`, role] as const];
    }),
  );
  const security = [...schemes.map((scheme) => ({ [scheme]: [] })), ...(keyRequired ? [] : [{}])];
  for (const [path, operations] of Object.entries(document.paths ?? {})) {
    for (const [method, operation] of Object.entries(operations)) {
      const role = roles.get(`${method.toUpperCase()} ${path.replaceAll(/\{(.+?)\}/g, ':$1')}`);
      if (role === undefined) operation.security = [];
      else completeOperation(operation, { role, method, security });
      addHeader(operation, () => true, 'X-Request-Id', 'RequestId');
    }
  }
  document.components = { ...document.components, headers: HEADERS, parameters: PARAMETERS };
  return mendNullable(document) as Document;
}

/**
 * What may be null and has a name, as the generator writes it, could not: null is not what the name stands for. One of
 * the two is what is meant.
 */
function mendNullable(part: unknown): unknown {
  if (typeof part !== 'object' || part === null) return part;
  if (Array.isArray(part)) return part.map(mendNullable);
  const { allOf, ...rest } = part as { allOf?: { $ref?: string; type?: unknown }[] };
  const mended = Object.fromEntries(Object.entries(rest).map(([name, value]) => [name, mendNullable(value)]));
  if (allOf === undefined) return mended;
  const [named, { type, ...more } = {}] = allOf;
  const isNullable =
    allOf.length === 2 && named?.$ref !== undefined && Array.isArray(type) && type.includes('null');
  if (!isNullable) return { ...mended, allOf: allOf.map(mendNullable) };
  return { ...mended, ...more, anyOf: [named, { type: 'null' }] };
}

function completeOperation(
  operation: Operation,
  { role, method, security }: { role: Role; method: string; security: unknown[] },
): void {
  operation['x-role'] = role;
  operation.security = security;
  operation.description = [operation.description, `Needs the role \`${role}\`.`].filter(Boolean).join('\n\n');
  addProblems(operation, [
    'malformed_request',
    'key_refused',
    'role_refused',
    'wrong_host',
    'rate_limited',
    'internal_error',
    'database_unavailable',
    'identity_unavailable',
  ]);
  if (method === 'get') describeRead(operation);
  else describeAction(operation);
  addHeader(operation, () => true, 'RateLimit', 'RateLimit');
  addHeader(operation, (status) => status === '429' || status === '503', 'Retry-After', 'RetryAfter');
}

function describeRead(operation: Operation): void {
  if (operation.responses['200']?.content?.['application/json'] === undefined) return;
  operation.parameters = [...(operation.parameters ?? []), parameter('IfNoneMatch')];
  operation.responses['304'] = { description: 'It is what If-None-Match names.' };
  addHeader(operation, (status) => status === '200' || status === '304', 'ETag', 'ETag');
}

function describeAction(operation: Operation): void {
  operation.parameters = [...(operation.parameters ?? []), parameter('IdempotencyKey')];
  addProblems(operation, [
    'cross_site',
    'body_timeout',
    'idempotency_in_work',
    'body_too_large',
    'unsupported_media_type',
    'idempotency_mismatch',
  ]);
  addHeader(operation, (status) => Number(status) < 500, 'Idempotency-Replayed', 'IdempotencyReplayed');
  addHeader(operation, (status) => status === '409', 'Retry-After', 'RetryAfter');
}

/** Beside those that the route itself documents under the same status. */
function addProblems(operation: Operation, codes: ProblemCode[]): void {
  for (const [status, documented] of Object.entries(documentProblems(codes))) {
    const answer = operation.responses[status] ?? { description: documented.description };
    const { examples } = documented.content[PROBLEM_TYPE];
    const problem = {
      schema: { $ref: '#/components/schemas/Problem' },
      examples: { ...examples, ...answer.content?.[PROBLEM_TYPE]?.examples },
    };
    operation.responses[status] = { ...answer, content: { ...answer.content, [PROBLEM_TYPE]: problem } };
  }
}

function addHeader(
  operation: Operation,
  when: (status: string) => boolean,
  name: string,
  component: keyof typeof HEADERS,
): void {
  for (const [status, answer] of Object.entries(operation.responses)) {
    if (when(status)) answer.headers = { ...answer.headers, [name]: header(component) };
  }
}
