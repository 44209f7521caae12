import { BSONError, Decimal128, Double, Int32, Long, ObjectId, serialize } from 'bson';
import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { Body } from '../../src/embedded/market/body.ts';
import { assemble, type Document, decodeCommand, parse } from '../../src/embedded/market/bson.ts';
import { compileFilter, compileMingoFilter } from '../../src/embedded/market/filter.ts';
import { overlay } from '../../src/embedded/market/overlay.ts';
import { compilePlainFilter } from '../../src/embedded/market/plain-filter.ts';

// The short ways of the stand-in, against the long ones that they stand for.

const RUNS = 5_000;
const FIELDS = ['a', 'b', 'ab', '_id', 'constructor'];
const USUAL = fc.oneof(
  { weight: 4, arbitrary: fc.constantFrom('a', 'b') },
  { weight: 1, arbitrary: fc.constantFrom(...FIELDS) },
);

const number = fc.oneof(
  fc.integer({ min: -1, max: 1 }),
  fc.constantFrom(-0, Number.NaN),
  fc.constantFrom(0.5, Number.POSITIVE_INFINITY, 2 ** 31, 2 ** 53),
);
const text = fc.constantFrom('', 'a', 'b', 'B', 'ä', '\u{1f33e}', '\ufffd', '\ud83c', '1', 'null');
const scalar = fc.oneof(number, text, fc.boolean(), fc.constant(null));
const other = fc.oneof(
  fc.constantFrom<unknown>(new ObjectId('00'.repeat(12)), new Date(0), Long.fromString('9007199254740993')),
  fc.constantFrom<unknown>(new Int32(1), new Double(1), Long.fromNumber(1), Decimal128.fromString('1'), /a/i),
  fc.array(scalar, { maxLength: 2 }),
  fc.array(fc.array(scalar, { maxLength: 2 }), { maxLength: 2 }),
  fc.dictionary(fc.constantFrom('a', 'b'), scalar, { maxKeys: 2 }),
);
const value = fc.oneof({ weight: 4, arbitrary: scalar }, { weight: 1, arbitrary: other });

const toDocument = (entries: readonly (readonly [string, unknown])[]): Document =>
  Object.fromEntries(entries);
const documents = fc.array(fc.tuple(USUAL, value), { maxLength: 5 }).map(toDocument);

const comparison = fc.tuple(fc.constantFrom('$eq', '$gt', '$gte', '$lt', '$lte', '$ne'), value);
const condition = fc.oneof(
  { weight: 3, arbitrary: value },
  { weight: 4, arbitrary: fc.array(comparison, { minLength: 1, maxLength: 2 }).map(toDocument) },
);
const filters = fc.letrec<{ filter: Document }>((tie) => ({
  filter: fc
    .array(
      fc.oneof(
        { maxDepth: 2 },
        fc.tuple(USUAL, condition),
        fc.tuple(fc.constantFrom('$and', '$or', '$nor'), fc.array(tie('filter'), { maxLength: 2 })),
      ),
      { maxLength: 3 },
    )
    .map(toDocument),
})).filter;

const encode = (document: Document): Buffer => Buffer.from(serialize(document));

describe('a filter', () => {
  test('says the same with and without mingo', () => {
    let plain = 0;
    let matching = 0;
    fc.assert(
      fc.property(filters, documents, (filter, document) => {
        // As it comes from the wire.
        const command = decodeCommand(encode(filter));
        const body = Body.ofBytes(encode(document));
        const matches = compileMingoFilter(command)(body);
        expect(compileFilter(command)(body)).toBe(matches);
        const plainly = compilePlainFilter(command)?.(body);
        if (plainly !== undefined) plain += 1;
        if (plainly !== undefined && matches) matching += 1;
      }),
      { numRuns: RUNS },
    );
    // That it has been tried.
    expect(plain).toBeGreaterThan(RUNS / 10);
    expect(matching).toBeGreaterThan(RUNS / 50);
    expect(plain - matching).toBeGreaterThan(RUNS / 50);
  });

  const GUARDS: [string, Document][] = [
    ['of a publish', { booking_id: 'x', $nor: [{ epoch: { $gt: 1 } }, { epoch: 1, revision: { $gte: 5 } }] }],
    ['of a known version', { booking_id: 'x', epoch: 1, revision: { $gte: 2, $lt: 5 } }],
    ['of a text', { booking_id: { $gt: 'w', $lte: 'y' } }],
    ['of nothing', {}],
  ];
  test.each(GUARDS)('%s needs no mingo', (_name, filter) => {
    const document = { booking_id: 'x', epoch: 1, revision: 4 };
    expect(compilePlainFilter(filter)?.(Body.ofBytes(encode(document)))).toBe(true);
  });

  test('tells a missing field by itself', () => {
    const missing = Body.ofBytes(encode({ b: 1 }));
    expect(compilePlainFilter({ a: null })?.(missing)).toBe(true);
    expect(compilePlainFilter({ a: { $gte: 0 } })?.(missing)).toBe(false);
  });

  test('takes 0 for -0, and NaN for NaN', () => {
    const document = Body.ofBytes(encode({ a: -0, b: Number.NaN }));
    expect(compilePlainFilter({ a: 0, b: Number.NaN })?.(document)).toBe(true);
  });

  const OTHERS: [string, Document][] = [
    ['a path', { 'a.b': 1 }],
    ['another operator', { a: { $in: [1] } }],
    ['an ObjectId', { a: new ObjectId() }],
    ['a document', { a: { b: 1 } }],
    ['an empty document', { a: {} }],
    ['an order of null', { a: { $gte: null } }],
    ['a name of JavaScript', { ['__proto__']: 1 }],
    ['logic without a list', { $nor: {} }],
  ];
  test.each(OTHERS)('with %s is left to mingo', (_name, filter) => {
    expect(compilePlainFilter(filter)).toBeUndefined();
  });

  test('leaves a text that is no UTF-8 to bson, which refuses it', () => {
    const bytes = encode({ a: 'xx', b: 1 });
    bytes[bytes.indexOf('xx')] = 0xff;
    expect(compilePlainFilter({ b: 2, a: 'x' })?.(Body.ofBytes(bytes))).toBeUndefined();
    expect(() => compileFilter({ b: 2, a: 'x' })(Body.ofBytes(bytes))).toThrow(BSONError);
  });
});

describe('$set of whole fields', () => {
  const NAMES = ['a', 'b', 'ab', 'abc', 'ä', 'z'];
  const fields = fc
    .uniqueArray(fc.tuple(fc.constantFrom(...NAMES), value), { selector: ([name]) => name })
    .map((entries) => encode(toDocument(entries)));

  test('comes to the same laid over the bytes as in a map', () => {
    let overlaid = 0;
    fc.assert(
      fc.property(fields, fields, (bytes, given) => {
        const document = Body.ofBytes(Buffer.concat([bytes]));
        const expected = assemble(new Map([...parse(bytes), ...parse(given)]).values());
        const result = overlay(document, Body.ofBytes(given));
        if (result === undefined) return;
        overlaid += 1;
        expect(result.bytes.equals(expected)).toBe(true);
        expect(result.length).toBe(expected.length);
        expect(result === document).toBe(expected.equals(bytes));
        for (const name of NAMES) {
          const [mine, before] = [parse(expected).get(name), parse(bytes).get(name)];
          const same = mine === undefined || before === undefined ? mine === before : mine.equals(before);
          expect(result.shares(name, document)).toBe(same);
          expect(Body.ofBytes(expected).shares(name, document)).toBe(same);
        }
      }),
      { numRuns: RUNS },
    );
    expect(overlaid).toBeGreaterThan(RUNS / 10);
  });

  test('is not shared where only one has the field', () => {
    const [one, both] = [{ a: 1 }, { a: 1, b: 2 }].map((fields) => Body.ofBytes(encode(fields))) as [
      Body,
      Body,
    ];
    expect([one.shares('b', both), both.shares('b', one), one.shares('a', both)]).toEqual([
      false,
      false,
      true,
    ]);
  });

  test('takes fields in any order, and copies what follows each other at once', () => {
    const document = Body.ofBytes(encode({ _id: 1, a: 1, b: 2, c: 3, d: 4 }));
    const turned = overlay(document, Body.ofBytes(encode({ d: 8, a: 5 })));
    expect(turned?.bytes).toEqual(encode({ _id: 1, a: 5, b: 2, c: 3, d: 8 }));
    const straight = overlay(document, Body.ofBytes(encode({ a: 5, b: 6, c: 7, d: 8 })));
    // The length, `_id`, everything else, the end.
    expect(straight?.pieces.length).toBe(4);
  });

  test.each<[string, Buffer]>([
    ['a new field', encode({ a: 1, c: 2 })],
    ['a path', encode({ 'a.b': 2 })],
    ['the id', encode({ _id: 2 })],
    ['an operator', encode({ $a: 2 })],
    ['no name', encode({ '': 2 })],
    ['a field twice', Buffer.concat([Buffer.from([19, 0, 0, 0]), twice('a'), Buffer.alloc(1)])],
    [
      'more fields than are compared',
      encode(Object.fromEntries(Array.from({ length: 101 }, (_, n) => [`n${n}`, 1]))),
    ],
  ])('of %s goes the long way', (_name, given) => {
    const names = Array.from({ length: 101 }, (_, n) => [`n${n}`, 0]);
    const document = encode({ _id: 1, a: 1, 'a.b': 1, $a: 1, '': 1, ...Object.fromEntries(names) });
    expect(overlay(Body.ofBytes(document), Body.ofBytes(given))).toBeUndefined();
  });

  test('of bytes that are no document is refused as bson refuses it', () => {
    const given = encode({ a: 'text' });
    given[8] = 0xff;
    expect(() => overlay(Body.ofBytes(encode({ a: 1 })), Body.ofBytes(given))).toThrow(BSONError);
  });
});

function twice(name: string): Buffer {
  const element = encode({ [name]: 1 }).subarray(4, -1);
  return Buffer.concat([element, element]);
}
