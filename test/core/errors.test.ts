import { expect, test } from 'vitest';
import { describeError, EnvironmentError } from '../../src/errors.ts';

test('an error is described with its causes, outermost first', () => {
  const error = new EnvironmentError('cannot start', {
    cause: new Error('connection lost', { cause: new Error('ECONNRESET') }),
  });
  expect(describeError(error)).toBe('cannot start: connection lost: ECONNRESET');
});

test('a host with two addresses, which node reports as an aggregate without a message, is described by both failures', () => {
  const aggregate = new AggregateError([
    new Error('connect ECONNREFUSED ::1:5432'),
    new Error('connect ECONNREFUSED 127.0.0.1:5432'),
  ]);
  expect(describeError(new Error('unreachable', { cause: aggregate }))).toBe(
    'unreachable: connect ECONNREFUSED ::1:5432; connect ECONNREFUSED 127.0.0.1:5432',
  );
  expect(describeError(new AggregateError([new Error('one')], 'both failed'))).toBe('both failed');
});

test('an error that is its own cause is described in bounded length', () => {
  const error = new Error('loop');
  error.cause = error;
  expect(describeError(error)).toBe('loop: loop: loop: loop: loop');
});

test.each([
  ['a string', 'a string'],
  [42, '42'],
  [undefined, ''],
  [null, ''],
  [new Error(''), ''],
  [new Error('', { cause: 'inner' }), 'inner'],
])('whatever was thrown is described: %o', (thrown, expected) => {
  expect(describeError(thrown)).toBe(expected);
});
