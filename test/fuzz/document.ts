import { ROLES, type Role } from '../../src/store/api-keys.ts';
import type { AnswersDocument } from '../api/answer-schema.ts';

/** As much of JSON Schema as the inputs of the API are described with. */
export interface Schema {
  type?: string | string[];
  enum?: unknown[];
  format?: string;
  minLength?: number;
  maxLength?: number;
  minimum?: number;
  maximum?: number;
  properties?: Record<string, Schema>;
  required?: string[];
  $ref?: string;
}

export interface Parameter {
  name: string;
  in: 'path' | 'query' | 'header';
  schema: Schema;
}

/** One call that the document lists. */
export interface Operation {
  id: string;
  method: string;
  path: string;
  /** Undefined: anybody may call it. */
  role: Role | undefined;
  parameters: Parameter[];
  /** Undefined: it takes no body. */
  body: Schema | undefined;
}

interface Described {
  operationId?: string;
  'x-role'?: string;
  parameters?: (Parameter | { $ref: string })[];
  requestBody?: { content: Record<string, { schema: Schema }> };
}

export type OpenApiDocument = AnswersDocument & { components: Record<string, Record<string, unknown>> };

export async function readDocument(
  url: string,
): Promise<{ document: OpenApiDocument; operations: Operation[] }> {
  const document = (await (await fetch(`${url}/openapi.json`)).json()) as OpenApiDocument;
  const resolve = <Part extends object>(part: Part | { $ref: string }): Part => {
    if (!('$ref' in part) || typeof part.$ref !== 'string') return part as Part;
    const [, , kind = '', name = ''] = part.$ref.split('/');
    const found = document.components[kind]?.[name];
    if (found === undefined) throw new Error(`the document has no ${part.$ref}`);
    return found as Part;
  };
  const operations = Object.entries(document.paths).flatMap(([path, methods]) =>
    Object.entries(methods as Record<string, Described>).map(([method, described]): Operation => {
      const body = described.requestBody?.content['application/json']?.schema;
      return {
        id: described.operationId ?? `${method} ${path}`,
        method: method.toUpperCase(),
        path,
        role: ROLES.find((role) => role === described['x-role']),
        parameters: (described.parameters ?? []).map((parameter) => resolve<Parameter>(parameter)),
        body: body && resolve(body),
      };
    }),
  );
  return { document, operations };
}

export const isSafe = (method: string): boolean => ['GET', 'HEAD', 'OPTIONS', 'TRACE'].includes(method);

export interface Match {
  operation: Operation;
  /** The path that counts, after whatever stood for it in the target. */
  path: string;
}

/**
 * The operation that a target of this method names, HEAD as GET; undefined when it names none, or when it cannot be told
 * which.
 */
export function createMatch(
  operations: readonly Operation[],
): (method: string, target: string) => Match | undefined {
  // Fixed addresses before those with a parameter in their place.
  const known = operations
    .map((operation) => ({
      operation,
      pattern: new RegExp(`^${operation.path.replaceAll(/\{\w+\}/g, '[^/]+')}$`),
      parameters: operation.path.split('{').length,
    }))
    .toSorted((one, other) => one.parameters - other.parameters);
  return (method, target) => {
    const path = pathOf(target);
    if (path === undefined) return undefined;
    const wanted = method === 'HEAD' ? 'GET' : method;
    // An address is one path's alone, also for methods that only another path like it takes.
    const own = known.find(({ pattern }) => pattern.test(path))?.operation.path;
    const found = known.find(({ operation }) => operation.path === own && operation.method === wanted);
    return found && { operation: found.operation, path };
  };
}

export function pathOf(target: string): string | undefined {
  try {
    return decodeURI(new URL(target.startsWith('/') ? `http://127.0.0.1${target}` : target).pathname);
  } catch {
    return undefined;
  }
}
