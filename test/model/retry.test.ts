import { MongoBulkWriteError, MongoNetworkError, MongoServerError, MongoServerSelectionError } from 'mongodb';
import { expect, test } from 'vitest';
import { outageDelayMs } from '../../pipeline/outage-delay.ts';
import { classifyMarketError } from '../../src/mongo.ts';
import { ConnectionLostError, classifyPostgresError } from '../../src/postgres.ts';
import { retryDelayMs } from '../../src/store/publish.ts';
import { createRandom } from '../support/random.ts';
import { sqlError } from './server.ts';

const CHARACTERS = [...'0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ'];

/** Said twice, here by hand: a code that joins the list in the code must be meant. */
const RETRYABLE_STATES =
  '25006 25P03 40001 40P01 53100 53200 53300 53400 55006 55P03 57014 57P01 57P02 57P03 57P05';
const POISON_CLASSES = ['22', '23', '54'];

test('row 31: every SQLSTATE there can be has one kind, and only those that were meant are retried', () => {
  const retryable = new Set(RETRYABLE_STATES.split(' '));
  const error = sqlError('00000');
  const wrong: string[] = [];
  const classify = (state: string): void => {
    error.code = state;
    const expected =
      retryable.has(state) || state.startsWith('08')
        ? 'retryable'
        : POISON_CLASSES.includes(state.slice(0, 2))
          ? 'poison'
          : 'fatal';
    if (classifyPostgresError(error) !== expected) wrong.push(state);
  };
  // Every class with a thousand of its states, and every state of the classes that are told apart.
  const told = new Set([...retryable].map((state) => state.slice(0, 2)).concat(POISON_CLASSES, '08'));
  const random = createRandom(1);
  for (const first of CHARACTERS) {
    for (const second of CHARACTERS) {
      const whole = told.has(first + second);
      for (let rest = 0; rest < (whole ? 36 ** 3 : 1_000); rest += 1) {
        const number = whole ? rest : random.below(36 ** 3);
        classify(first + second + number.toString(36).toUpperCase().padStart(3, '0'));
      }
    }
  }
  for (const state of retryable) classify(state);
  expect(wrong).toEqual([]);
});

test('a lost connection is retried whatever it was in the middle of, and a stranger never is', () => {
  expect(classifyPostgresError(new ConnectionLostError('lost', { cause: sqlError('42703') }))).toBe(
    'retryable',
  );
  for (const stranger of [
    undefined,
    null,
    0,
    '40001',
    {},
    { code: '40001' },
    new Error('40001'),
    Symbol('x'),
  ]) {
    expect(classifyPostgresError(stranger)).toBe('fatal');
    if (typeof stranger !== 'object' || stranger === null)
      expect(classifyMarketError(stranger)).toBe('fatal');
  }
});

const LABELS = [
  'RetryableWriteError',
  'TransientTransactionError',
  'RetryableError',
  'SystemOverloadedError',
  'UnknownTransactionCommitResult',
  'NoWritesPerformed',
  'NetworkError',
  'SomethingElse',
];
const RETRYABLE_LABELS = LABELS.slice(0, 4);

const RETRYABLE_CODES = [
  ...[6, 7, 24, 50, 64, 89, 91, 112, 133, 134, 189, 202, 262, 9001, 10107, 11600, 11602, 13435, 13436, 14031],
];
const POISON_CODES = [2, 9, 14, 15, 22, 28, 52, 56, 57, 121, 171, 10334, 11000, 17280, 17419, 17420];

test('row 6: every code of MongoDB with every combination of labels has one kind, in a bulk write as alone', () => {
  const wrong: unknown[] = [];
  for (let set = 0; set < 2 ** LABELS.length; set += 1) {
    const errorLabels = LABELS.filter((_, index) => (set & (1 << index)) !== 0);
    const labelled = errorLabels.some((label) => RETRYABLE_LABELS.includes(label));
    for (const code of [...RETRYABLE_CODES, ...POISON_CODES, 0, 1, 13, 18, 20, 26, 424_242, -1]) {
      const error = new MongoServerError({ message: 'network timeout', code, errorLabels });
      const expected =
        labelled || RETRYABLE_CODES.includes(code)
          ? 'retryable'
          : POISON_CODES.includes(code)
            ? 'poison'
            : 'fatal';
      const bulk = new MongoBulkWriteError(error, {} as never);
      const kinds = [classifyMarketError(error), classifyMarketError(bulk)];
      if (kinds.some((kind) => kind !== expected)) wrong.push({ code, errorLabels, kinds, expected });
    }
  }
  expect(wrong).toEqual([]);
});

test('row 6: codes that nobody has met are never retried, and the driver itself never stops the work', () => {
  const known = new Set([...RETRYABLE_CODES, ...POISON_CODES]);
  for (let code = 0; code < 50_000; code += 1) {
    if (!known.has(code) && classifyMarketError({ code }) !== 'fatal') {
      expect.unreachable(`code ${code} is ${classifyMarketError({ code })}`);
    }
  }
  expect(classifyMarketError(new MongoNetworkError('reset'))).toBe('retryable');
  expect(classifyMarketError(new MongoServerSelectionError('none', {} as never))).toBe('retryable');
});

test('rows 4 and 5: whatever failed and how often, a delay is never nothing, never more than the cap, never the same for all', () => {
  const random = createRandom(7);
  for (const [delay, capMs] of [
    [retryDelayMs, 60_000],
    [outageDelayMs, 2_000],
  ] as const) {
    const longest = (attempt: number): number => delay(attempt, () => 1);
    for (const attempt of [...Array(64).keys(), 1_000, 2 ** 31, Number.MAX_SAFE_INTEGER]) {
      const delays = Array.from({ length: 50 }, () => delay(attempt, random.next));
      for (const delayMs of delays) {
        expect(delayMs).toBeGreaterThanOrEqual(250);
        expect(delayMs).toBeLessThanOrEqual(capMs);
      }
      expect(new Set(delays).size, 'jittered').toBeGreaterThan(25);
      expect(longest(attempt + 1)).toBeGreaterThanOrEqual(longest(attempt));
    }
    expect(longest(1_000), 'capped').toBe(capMs);
  }
});
