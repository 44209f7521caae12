import fc from 'fast-check';
import type { Schema } from './document.ts';

/** Far enough away that none of them comes true while a test runs. */
const INSTANTS = ['2999-01-01T00:00:00Z', '2999-12-31T23:59:59.999Z', '2999-06-01T05:30:00+05:30'];

/** Values that the schema allows and that mean something: texts of more than white space, instants that are to come. */
export function validValues(schema: Schema): fc.Arbitrary<unknown> {
  if (schema.enum !== undefined) return fc.constantFrom(...schema.enum);
  const types = [schema.type ?? 'object'].flat();
  const others = types.filter((type) => type !== 'null');
  const values = fc.oneof(...others.map((type) => valuesOfType(type, schema)));
  return types.length === others.length
    ? values
    : fc.oneof({ weight: 4, arbitrary: values }, { weight: 1, arbitrary: fc.constant(null) });
}

function valuesOfType(type: string, schema: Schema): fc.Arbitrary<unknown> {
  switch (type) {
    case 'string':
      return texts(schema);
    case 'integer':
      return fc.oneof(
        fc.integer({ min: schema.minimum ?? 0, max: schema.maximum ?? 1_000_000 }),
        fc.constant(schema.minimum ?? 0),
      );
    case 'number':
      return fc.double({ min: schema.minimum ?? -1e6, max: schema.maximum ?? 1e6, noNaN: true });
    case 'object':
      return objects(schema);
    default:
      throw new Error(`the fuzzer does not know what a valid ${type} is: teach it`);
  }
}

function texts({ format, maxLength = 100 }: Schema): fc.Arbitrary<string> {
  if (format === 'uuid') return fc.uuid();
  if (format === 'date-time') return fc.constantFrom(...INSTANTS);
  if (format !== undefined) throw new Error(`the fuzzer does not know what a valid ${format} is: teach it`);
  return fc.oneof(
    fc
      .string({ unit: 'grapheme', maxLength: Math.min(maxLength, 40) })
      .map((text) => text.trim().slice(0, maxLength).toWellFormed())
      .filter((text) => text !== '' && !text.includes('\0')),
    fc.constantFrom('A', 'x'.repeat(maxLength)),
  );
}

function objects({ properties = {}, required = [] }: Schema): fc.Arbitrary<unknown> {
  const fields = Object.fromEntries(
    Object.entries(properties).map(([name, schema]) => [name, validValues(schema)]),
  );
  return fc.record(fields, { requiredKeys: required, noNullPrototype: true });
}
