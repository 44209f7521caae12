import fc from 'fast-check';

/** Texts that no program expects. */
export const HOSTILE_TEXTS = [
  '__proto__',
  'constructor',
  'toString',
  '{"$ne": null}',
  '{"$where":"sleep(1000)"}',
  '[object Object]',
  "' or 1=1; --",
  '../../../etc/passwd',
  '..\\..',
  '\0',
  'a\0b',
  '\0Tomato',
  '\r\nX-Injected: 1',
  '<script>alert(1)</script>',
  '\u202e\ufeff💣',
  '\ud800',
  'null',
  'NaN',
  '-1',
  '1e999',
  '0x10',
  '9'.repeat(400),
  'x'.repeat(3_000),
  '',
  ' ',
  'infinity',
  '-infinity',
  '[]',
];

/** Percent-encoded sequences that are no UTF-8, or no sequences; and raw bytes. */
export const HOSTILE_ENCODED = [
  '%00',
  '%ff',
  '%c0%af',
  '%e0%80%af',
  '%ed%a0%80',
  '%',
  '%2',
  '%zz',
  '%2e%2e',
  '%2F',
  '\xff\xfe',
  '&',
  '=',
  '+',
];

/** UUIDs that are none, or nearly. */
const UUIDS = [
  '00000000-0000-0000-0000-000000000000',
  'ffffffff-ffff-ffff-ffff-ffffffffffff',
  '{7e2c0a4e-6f52-4a6c-9d6e-0c9b3f3f1a01}',
  '7e2c0a4e6f524a6c9d6e0c9b3f3f1a01',
  '7e2c0a4e-6f52-4a6c-9d6e-0c9b3f3f1a0',
  '7e2c0a4e-6f52-4a6c-9d6e-0c9b3f3f1a0g',
  '7E2C0A4E-6F52-4A6C-9D6E-0C9B3F3F1A01',
];

const encoded = (text: string): string => encodeURIComponent(text.toWellFormed());
const base64 = (text: string): string => Buffer.from(text).toString('base64url');

/** Cursors that nobody gave out: of another list, of no time, of no calendar, of another type, too long. */
export const HOSTILE_CURSORS = [
  '["2026-02-31 00:00:00+00","7e2c0a4e-6f52-4a6c-9d6e-0c9b3f3f1a01"]',
  '["999999-12-31 00:00:00+00","7e2c0a4e-6f52-4a6c-9d6e-0c9b3f3f1a01"]',
  '["infinity","7e2c0a4e-6f52-4a6c-9d6e-0c9b3f3f1a01"]',
  '["2026-01-01 00:00:00+00",null]',
  '{"at":"2026-01-01 00:00:00+00"}',
  '999999999999999',
  '99999999999999999999',
  '-1',
  '1e3',
  '0',
  'null',
  '[]',
].map(base64);

/** What stands in a path or a query: encoded, more or less. */
export const hostileParts = (): fc.Arbitrary<string> =>
  fc.oneof(
    fc.constantFrom(...HOSTILE_TEXTS).map(encoded),
    fc.constantFrom(...HOSTILE_ENCODED),
    fc.constantFrom(...UUIDS),
    fc.constantFrom(...HOSTILE_CURSORS),
    fc.string({ unit: 'binary', maxLength: 40 }).map(encoded),
  );

/** Bytes of a header's value; what ends a line or is none of its characters among them. */
export const hostileHeaderValues = (): fc.Arbitrary<string> =>
  fc.oneof(
    fc.constantFrom(...HOSTILE_TEXTS).map((text) => Buffer.from(text).toString('latin1')),
    fc.constantFrom('a\rb', 'a\nX-Injected: 1', 'a\r\n b', '\x7f', '\t', '\xe9', '"\xff"'),
    fc.uint8Array({ maxLength: 30 }).map((bytes) => Buffer.from(bytes).toString('latin1')),
  );

/** Values of wrong types, and of right ones that nobody means. */
export const hostileValues = (): fc.Arbitrary<unknown> =>
  fc.oneof(
    // What PostgreSQL's text cannot hold, often: it is what gets far.
    fc.constantFrom('\0', 'a\0b', '\ud800', 'a\udfff'),
    fc.constantFrom(...HOSTILE_TEXTS),
    fc.constantFrom<unknown>(null, true, 0, -0, -1, 1e308, 5e-324, 2 ** 53, 100.005, [], {}, [[]], [null]),
    fc.constantFrom<unknown>({ $ne: null }, { $gt: '' }, ['x'], { toString: 'x' }, { length: 3 }),
    fc.constantFrom(
      '2026-02-30T00:00:00Z',
      '0000-01-01T00:00:00Z',
      '9999-12-31T23:59:59.999999Z',
      '1970-01-01',
    ),
    fc.constantFrom('9999-12-31T23:59:59-23:59', '0001-01-01T00:00:00+14:00', '2026-01-01T24:00:00Z'),
    fc.jsonValue({ maxDepth: 3 }),
  );

/** Bodies that are no JSON objects, or none that anybody should take. */
export const HOSTILE_BODIES = [
  '',
  '{',
  '[]',
  'null',
  'true',
  '"reason"',
  '{"reason":"x"}{"reason":"y"}',
  '{"reason":"x",}',
  "{'reason':'x'}",
  '{"__proto__":{"polluted":true}}',
  '{"reason":"x","__proto__":{"polluted":true}}',
  '{"constructor":{"prototype":{"polluted":true}}}',
  '{"reason":"x","reason":{"$ne":null}}',
  '{"$ne":null}',
  '{"reason":{"$gt":""}}',
  '{"reason":"\\u0000"}',
  '{"reason":"\\ud800"}',
  '{"reason":"x","quality_score":1e999}',
  '{"reason":"x","quality_score":-1e-400}',
  '{"reason":"x","quality_score":99999999999999999999999999999999}',
  '{"reason":"x","expires_at":"infinity"}',
  '{"reason":"x","grade":"💣💣💣💣💣💣💣💣💣💣💣💣💣💣💣💣"}',
  '\0',
  '\ufeff{"reason":"x"}',
  '<reason>x</reason>',
  'reason=x',
  '['.repeat(30_000),
  `{"reason":${'['.repeat(20_000)}${']'.repeat(20_000)}}`,
  `${'{"a":'.repeat(5_000)}1${'}'.repeat(5_000)}`,
  `{"reason":"${'x'.repeat(70_000)}"}`,
  `{"reason":"x"${' '.repeat(65_600)}}`,
]
  .map((text) => Buffer.from(text))
  .concat([Buffer.from([0xff, 0xfe]), Buffer.from('{"reason":"\xff\xfe"}', 'latin1')]);
