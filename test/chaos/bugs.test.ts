import { expect, test } from 'vitest';
import { BUGS, copyWithBug } from './bugs.ts';
import { ROOT } from './stage.ts';

test.each(BUGS)('the self-test finds the place for the mistake $name', (bug) => {
  const copy = copyWithBug(ROOT, bug);
  copy.remove();
  expect(copy.root).not.toBe(ROOT);
});
