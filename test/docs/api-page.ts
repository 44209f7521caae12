import { exampleOf, exampleOfContent } from './api-example.ts';
import type { Answer, OpenApi, Operation, Parameter, Schema } from './openapi.ts';

const PROBLEM = 'application/problem+json';

/** A call of the API. */
interface Call {
  method: string;
  path: string;
  operation: Operation;
}

/** docs/api.md, from the document that the API serves. */
export function renderApi(document: OpenApi): string {
  const calls = Object.entries(document.paths).flatMap(([path, operations]) =>
    Object.entries(operations).map(([method, operation]) => ({
      method: method.toUpperCase(),
      path,
      operation,
    })),
  );
  const shared = commonErrors(calls);
  return `${[
    '# The API',
    '<!-- Written by `npm run docs` from the OpenAPI document; do not edit. -->',
    `${document.info.description} The same, for machines: \`GET /openapi.json\`; to try it out: \`/docs\`.`,
    'Examples are made of the schemas: their values show the form, not one booking; `<Name>` stands for an object of that [schema](#schemas). What all answers have in common, and the errors that every call may get, stand at the end.',
    '| call | role | does |\n|---|---|---|',
  ].join('\n\n')}
${calls.map((call) => `| [${titleOf(call)}](#${anchorOf(titleOf(call))}) | ${call.operation['x-role'] ?? 'none'} | ${cell(call.operation.summary)} |`).join('\n')}

${document.tags
  .map(({ name, description }) => {
    const ofTag = calls.filter(({ operation }) => operation.tags[0] === name);
    return `## ${name}\n\n${description}\n\n${ofTag.map((call) => renderCall(document, call, shared)).join('\n')}`;
  })
  .join('\n')}
## Errors of every call

Every error is \`${PROBLEM}\`: branch on \`code\`, show \`detail\`.

${renderErrors(shared)}

## Schemas

${Object.entries(document.components.schemas)
  .map(([name, schema]) => renderSchema(document, name, schema))
  .join('\n')}`.replace(/\n*$/, '\n');
}

const titleOf = ({ method, path }: Call): string => `${method} ${path}`;

/** As GitHub makes anchors of headings. */
export const anchorOf = (heading: string): string =>
  heading
    .toLowerCase()
    .replaceAll(/[^\p{L}\p{N}_\- ]/gu, '')
    .replaceAll(' ', '-');

const cell = (text: string): string => text.replaceAll('|', '\\|').replaceAll('\n', ' ');

const block = (value: unknown): string => `\`\`\`json\n${JSON.stringify(value, null, 2)}\n\`\`\``;

function renderCall(document: OpenApi, call: Call, shared: Problems): string {
  const { operation } = call;
  const parts = [`### ${titleOf(call)}`, `${operation.summary}.`];
  if (operation.description !== undefined) parts.push(operation.description);
  const parameters = (operation.parameters ?? []).map((parameter) => resolveParameter(document, parameter));
  if (parameters.length > 0) parts.push(renderParameters(parameters));
  for (const [type, content] of Object.entries(operation.requestBody?.content ?? {})) {
    const named = nameOf(content.schema);
    parts.push(
      `Body (${type}${operation.requestBody?.required === true ? '' : ', may be left out'}${named === undefined ? '' : `, ${named}`}):`,
      block(exampleOfContent(document, content)),
    );
  }
  for (const [status, answer] of Object.entries(operation.responses)) {
    if (!isError(answer)) parts.push(...renderAnswer(document, status, answer));
  }
  const own = ownErrors(call, shared);
  if (own.length > 0) parts.push('Errors of its own:', renderErrors(own));
  return `${parts.join('\n\n')}\n`;
}

function resolveParameter({ components }: OpenApi, parameter: Parameter): Parameter {
  if (parameter.$ref === undefined) return parameter;
  const found = components.parameters[parameter.$ref.replace('#/components/parameters/', '')];
  if (found === undefined) throw new Error(`no such parameter: ${parameter.$ref}`);
  return found;
}

function renderParameters(parameters: Parameter[]): string {
  const rows = parameters.map(
    ({ name, in: place, required, description, schema }) =>
      `| \`${name}\` | ${place}${required === true ? ', needed' : ''} | ${cell(describeType(schema))} | ${cell(description ?? '')} |`,
  );
  return ['| parameter | in | is | says |', '|---|---|---|---|', ...rows].join('\n');
}

function renderAnswer(document: OpenApi, status: string, answer: Answer): string[] {
  const [[type, content] = ['', undefined]] = Object.entries(answer.content ?? {});
  const named = nameOf(content?.schema);
  const about = type === '' ? '' : ` (${type}${named === undefined ? '' : `, ${named}`})`;
  const line = `**${status}**${about}: ${answer.description}`;
  const example = content === undefined ? undefined : exampleOfContent(document, content);
  // One that is a named schema and no more has its example there.
  if (example === undefined || (typeof example === 'string' && /^<\w+>$/.test(example))) return [line];
  return [line, typeof example === 'string' ? `\`\`\`text\n${example.trimEnd()}\n\`\`\`` : block(example)];
}

const isError = ({ content }: Answer): boolean => {
  const types = Object.keys(content ?? {});
  return types.length === 1 && types[0] === PROBLEM;
};

type Problem = { status: string; code: string; detail: string };
type Problems = Problem[];

const problemsOf = ({ operation }: Call): Problems =>
  Object.entries(operation.responses).flatMap(([status, answer]) =>
    Object.entries(answer.content?.[PROBLEM]?.examples ?? {}).map(([code, { value }]) => ({
      status,
      code,
      detail: (value as { detail?: string }).detail ?? '',
    })),
  );

/** Those that most calls may get: they are listed once. */
function commonErrors(calls: Call[]): Problems {
  const counts = new Map<string, { problem: Problem; count: number }>();
  for (const problem of calls.flatMap(problemsOf)) {
    const known = counts.get(problem.code);
    if (known === undefined) counts.set(problem.code, { problem, count: 1 });
    else known.count += 1;
  }
  const changing = calls.filter(({ method }) => method !== 'GET').length;
  return [...counts.values()]
    .filter(({ count }) => count >= changing)
    .map(({ problem }) => problem)
    .toSorted((one, other) => one.status.localeCompare(other.status) || one.code.localeCompare(other.code));
}

const ownErrors = (call: Call, shared: Problems): Problems =>
  problemsOf(call).filter(({ code }) => !shared.some((common) => common.code === code));

const renderErrors = (problems: Problems): string =>
  [
    '| status | code | for example |',
    '|---|---|---|',
    ...problems.map(({ status, code, detail }) => `| ${status} | \`${code}\` | ${cell(detail)} |`),
  ].join('\n');

function nameOf(schema: Schema | undefined): string | undefined {
  const name = schema?.$ref?.replace('#/components/schemas/', '');
  return name === undefined ? undefined : `[${name}](#${anchorOf(name)})`;
}

function describeType(schema: Schema): string {
  const named = nameOf(schema);
  if (named !== undefined) return named;
  if (schema.enum !== undefined) return schema.enum.map((value) => `\`${value}\``).join(', ');
  const choices = schema.anyOf ?? schema.oneOf ?? schema.allOf;
  if (choices !== undefined) return choices.map(describeType).join(' or ');
  if (schema.items !== undefined) return `list of ${describeType(schema.items)}`;
  const type = [schema.type ?? 'any'].flat().join(' or ');
  const limits = [
    schema.format,
    range('', schema.minimum, schema.maximum),
    range(' characters', schema.minLength, schema.maxLength),
    schema.default === undefined ? undefined : `default ${JSON.stringify(schema.default)}`,
  ].filter((text) => text !== undefined);
  return [type, ...limits].join(', ');
}

function range(unit: string, least: number | undefined, most: number | undefined): string | undefined {
  if (least === undefined && most === undefined) return undefined;
  if (least === undefined) return `at most ${most}${unit}`;
  return most === undefined ? `at least ${least}${unit}` : `${least} to ${most}${unit}`;
}

function renderSchema(document: OpenApi, name: string, schema: Schema): string {
  const rows = Object.entries(schema.properties ?? {}).map(
    ([field, part]) =>
      `| \`${field}\`${schema.required?.includes(field) === true ? '' : ' (may be absent)'} | ${cell(describeType(part))} | ${cell(part.description ?? '')} |`,
  );
  const table =
    rows.length === 0
      ? `${describeType(schema)}.`
      : ['| field | is | says |', '|---|---|---|', ...rows].join('\n');
  return `### ${name}\n\n${schema.description === undefined ? '' : `${schema.description}\n\n`}${table}\n\n${block(exampleOf(document, schema))}\n`;
}
