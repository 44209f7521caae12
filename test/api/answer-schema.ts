import { Ajv2020, type ValidateFunction } from 'ajv/dist/2020.js';
import { default as addFormats } from 'ajv-formats';

/** What of an OpenAPI document says how calls are answered. */
export interface AnswersDocument {
  paths: Record<
    string,
    Record<
      string,
      { responses: Record<string, { content?: Record<string, unknown> }>; [rest: string]: unknown }
    >
  >;
}

export interface GivenAnswer {
  method: string;
  /** As it was sent, with its query. */
  target: string;
  status: number;
  contentType: string | undefined;
  body: string;
}

/**
 * Tells how an answer differs from what the document says of its call; undefined when it does not, or when the document
 * does not know the call, as for other methods and addresses.
 */
export function createAnswerCheck(document: AnswersDocument): (answer: GivenAnswer) => string | undefined {
  const ajv = new Ajv2020({ strict: false, allErrors: false });
  addFormats.default(ajv);
  ajv.addSchema(document, 'api');
  const compiled = new Map<string, ValidateFunction>();
  // Fixed addresses before those with a parameter in their place, as they are served.
  const paths = Object.keys(document.paths)
    .toSorted((one, other) => one.split('{').length - other.split('{').length)
    .map((path) => ({ path, pattern: new RegExp(`^${path.replaceAll(/\{\w+\}/g, '[^/]+')}$`) }));

  return ({ method, target, status, contentType, body }) => {
    const address = target.split('?')[0] ?? '';
    const path = paths.find(({ pattern }) => pattern.test(address))?.path ?? '';
    const operation = document.paths[path]?.[method.toLowerCase()];
    if (operation === undefined) return undefined;
    const documented = operation.responses[status];
    const call = `${method} ${path} ${status}`;
    if (documented === undefined) return `${call} is not documented`;
    if (documented.content === undefined) return body === '' ? undefined : `${call} has a body`;
    const type = contentType?.split(';')[0] ?? '';
    if (documented.content[type] === undefined) return `${call} is ${type}`;
    if (!type.endsWith('json')) return undefined;
    const parts = [
      'paths',
      path,
      method.toLowerCase(),
      'responses',
      String(status),
      'content',
      type,
      'schema',
    ];
    const pointer = parts.map((part) => encodeURIComponent(part.replaceAll('~', '~0').replaceAll('/', '~1')));
    const validate = compiled.get(call) ?? ajv.compile({ $ref: `api#/${pointer.join('/')}` });
    compiled.set(call, validate);
    return validate(JSON.parse(body)) ? undefined : `${call}: ${ajv.errorsText(validate.errors)}`;
  };
}
