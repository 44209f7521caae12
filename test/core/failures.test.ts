import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { expect, test } from 'vitest';

const ROOT = join(import.meta.dirname, '..', '..');
const ROWS = 36;

/** A row of the table in docs/reliability.md: `| 7 | what happens | where it is tested |`. */
const ROW = /^\| (\d+) \| ([^|]+) \| ([^|]+) \|$/gm;

/** A file names a row in the name of a test, or of a case that tests are made from. */
const names = (text: string, row: number): boolean =>
  [...text.matchAll(/\brows? ((?:\d+(?:, | and |–)?)+)/g)].some(([, list = '']) =>
    list.split(/\D+/).map(Number).includes(row),
  );

test('every failure that must be survived is named by a test, or the document says why it cannot be', () => {
  const text = readFileSync(join(ROOT, 'docs', 'reliability.md'), 'utf8');
  const rows = [...text.matchAll(ROW)].map(([, number, , where = '']) => ({ row: Number(number), where }));
  expect(rows.map(({ row }) => row)).toEqual(Array.from({ length: ROWS }, (_, index) => index + 1));
  const untrue: string[] = [];
  for (const { row, where } of rows) {
    const files = [...where.matchAll(/`(test\/[\w/.-]+)`/g)].map(([, file = '']) => file);
    if (files.length === 0 && !/not yet|cannot/.test(where)) untrue.push(`row ${row} names no test`);
    for (const file of files) {
      if (!names(readFileSync(join(ROOT, file), 'utf8'), row))
        untrue.push(`${file} does not name row ${row}`);
    }
  }
  expect(untrue).toEqual([]);
});
