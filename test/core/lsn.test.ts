import fc from 'fast-check';
import { expect, test } from 'vitest';
import { formatLsn, parseLsn } from '../../src/lsn.ts';

const lsns = fc.bigInt({ min: 0n, max: 2n ** 64n - 1n });

/** As pg-logical-replication prints it: each half padded to eight digits. */
const padded = (lsn: bigint): string => {
  const digits = lsn.toString(16).padStart(16, '0');
  return `${digits.slice(0, 8)}/${digits.slice(8)}`;
};

test('every position survives formatting and parsing', () => {
  fc.assert(fc.property(lsns, (lsn) => parseLsn(formatLsn(lsn)) === lsn));
});

test('the two notations of one position, padded and not, are equal', () => {
  fc.assert(
    fc.property(lsns, (lsn) => {
      expect(parseLsn(padded(lsn))).toBe(lsn);
      expect(parseLsn(padded(lsn).toUpperCase())).toBe(lsn);
    }),
  );
  expect(parseLsn('00000016/0B374D84')).toBe(parseLsn('16/B374D84'));
});

test('positions are written as PostgreSQL writes them, with capitals and without leading zeros', () => {
  expect(formatLsn(0n)).toBe('0/0');
  expect(formatLsn(0x16_b374_d848n)).toBe('16/B374D848');
  expect(formatLsn(2n ** 64n - 1n)).toBe('FFFFFFFF/FFFFFFFF');
  expect(formatLsn(0x1_0000_0000n)).toBe('1/0');
});

test('positions are ordered by number, where their texts are not', () => {
  expect(parseLsn('0/10') > parseLsn('0/9')).toBe(true);
  expect(parseLsn('A/0') > parseLsn('9/FFFFFFFF')).toBe(true);
  expect('0/10' > '0/9').toBe(false);
});

test.each([
  '',
  '0',
  '/',
  '0/',
  '/0',
  '0/0/0',
  '0/123456789',
  '123456789/0',
  'G/0',
  ' 0/0',
  '0/0\n',
  '0/0 ',
  '-1/0',
  '0x1/0',
  '+1/0',
])('what is no position is refused, with what it was: %j', (text) => {
  expect(() => parseLsn(text)).toThrow(new TypeError(`not an LSN: ${JSON.stringify(text)}`));
});
