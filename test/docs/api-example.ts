import type { Content, OpenApi, Schema } from './openapi.ts';

/** A named part with more fields than these stands by its name in the example of another; its own example is with its fields. */
const FIELDS_MAX = 6;

/** What a schema shows of itself: its example where it has one, else one made of its parts. */
export function exampleOf(document: OpenApi, schema: Schema): unknown {
  if (schema.$ref !== undefined) {
    const named = resolve(document, schema.$ref);
    const isLong = Object.keys(named.properties ?? {}).length > FIELDS_MAX;
    return isLong ? `<${nameOf(schema.$ref)}>` : exampleOf(document, named);
  }
  if (schema.example !== undefined) return schema.example;
  if (schema.const !== undefined) return schema.const;
  if (schema.enum !== undefined) return schema.enum[0];
  if (schema.default !== undefined) return schema.default;
  const [choice] = schema.anyOf ?? schema.oneOf ?? [];
  if (choice !== undefined) return exampleOf(document, choice);
  if (schema.allOf !== undefined) {
    return Object.assign({}, ...schema.allOf.map((part) => exampleOf(document, part)));
  }
  const [type] = [schema.type].flat();
  switch (type) {
    case 'object':
      return Object.fromEntries(
        Object.entries(schema.properties ?? {}).map(([name, part]) => [name, exampleOf(document, part)]),
      );
    case 'array':
      return schema.items === undefined ? [] : [exampleOf(document, schema.items)];
    case 'integer':
    case 'number':
      return schema.minimum ?? 0;
    case 'boolean':
      return true;
    case 'null':
      return null;
    default:
      return exampleText(schema);
  }
}

function exampleText({ format }: Schema): string {
  if (format === 'uuid') return 'fac6d754-a26c-44cb-a47c-0dc5de58a252';
  if (format === 'date-time') return '2026-11-24T09:30:00.000Z';
  return '…';
}

const nameOf = (reference: string): string => reference.replace('#/components/schemas/', '');

function resolve(document: OpenApi, reference: string): Schema {
  const schema = document.components.schemas[nameOf(reference)];
  if (schema === undefined) throw new Error(`no such schema: ${reference}`);
  return schema;
}

/** The example that an answer or a body has, or one made of its schema. */
export function exampleOfContent(document: OpenApi, content: Content): unknown {
  if (content.example !== undefined) return content.example;
  const [named] = Object.values(content.examples ?? {});
  if (named !== undefined) return named.value;
  return content.schema === undefined ? undefined : exampleOf(document, content.schema);
}
