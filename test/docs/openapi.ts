import { createApi } from '../../src/api/app.ts';
import type { ApiContext } from '../../src/api/context.ts';
import { createLogger } from '../../src/log.ts';

/** A part of JSON Schema, as the served document uses it. */
export interface Schema {
  $ref?: string;
  type?: string | string[];
  format?: string;
  description?: string;
  example?: unknown;
  enum?: unknown[];
  const?: unknown;
  default?: unknown;
  minimum?: number;
  maximum?: number;
  minLength?: number;
  maxLength?: number;
  items?: Schema;
  properties?: Record<string, Schema>;
  required?: string[];
  additionalProperties?: boolean | Schema;
  anyOf?: Schema[];
  oneOf?: Schema[];
  allOf?: Schema[];
}

export interface Parameter {
  $ref?: string;
  name: string;
  in: string;
  required?: boolean;
  description?: string;
  schema: Schema;
}

export interface Content {
  schema?: Schema;
  example?: unknown;
  examples?: Record<string, { value: unknown }>;
}

export interface Answer {
  description: string;
  content?: Record<string, Content>;
}

export interface Operation {
  operationId: string;
  summary: string;
  description?: string;
  tags: string[];
  parameters?: Parameter[];
  requestBody?: { required?: boolean; content: Record<string, Content> };
  responses: Record<string, Answer>;
  'x-role'?: string;
}

export interface OpenApi {
  info: { version: string; description: string };
  tags: { name: string; description: string }[];
  paths: Record<string, Record<string, Operation>>;
  components: { schemas: Record<string, Schema>; parameters: Record<string, Parameter> };
}

/** The document that an API with a key serves. It is made of the routes alone: no server is asked. */
export async function readOpenApi(): Promise<OpenApi> {
  const apart = {};
  const ctx = {
    pool: apart,
    market: apart,
    publish: apart,
    log: createLogger('silent'),
    apiKey: undefined,
    requireKey: true,
    oidc: undefined,
    rateLimits: { perSecond: 1, burst: 1, failuresPerMinute: 1 },
  } as unknown as ApiContext;
  return (await (await createApi(ctx).request('/openapi.json')).json()) as OpenApi;
}
