import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { expect, test } from 'vitest';
import { DOCTOR_EXIT_CODES } from '../../src/commands/doctor.ts';
import { CATALOGUE } from '../../src/doctor/examine.ts';
import { readGrants } from '../../src/doctor/role-grants.ts';
import { ROLES_FILE } from '../../src/roles.ts';
import { runProgram } from '../cli/program.ts';

const ROOT = join(import.meta.dirname, '..', '..');
const read = (path: string): string => readFileSync(join(ROOT, path), 'utf8');

test("the DBA's guide has every check of the doctor, in its order, with its meaning", () => {
  const rows = CATALOGUE.map(
    ({ name, means, stops }) => `| \`${name}\` | ${means}${stops ? ' Stops `start`.' : ''} |`,
  );
  const table = ['| check | meaning |', '|---|---|', ...rows].join('\n');
  expect(/<!-- checks: .*-->\n([\s\S]*?)\n<!-- \/checks -->/.exec(read('docs/dba.md'))?.[1]).toBe(table);
});

test('no two checks have one name', () => {
  expect(new Set(CATALOGUE.map(({ name }) => name)).size).toBe(CATALOGUE.length);
});

test("doctor's exit codes are in its help and in the README", async () => {
  const { stdout } = await runProgram(['doctor', '--help']);
  expect(stdout).toContain(DOCTOR_EXIT_CODES);
  expect(read('README.md').replace(/\s+/g, ' ')).toContain(DOCTOR_EXIT_CODES);
});

test('every statement of roles.sql that grants is read', () => {
  const sql = readFileSync(ROLES_FILE, 'utf8');
  const grants = readGrants(sql);
  const written = sql
    .replace(/--.*$/gm, '')
    .split('\n')
    .filter((line) => /^\s*grant\s/.test(line)).length;
  expect(written).toBeGreaterThan(20);
  const read = [
    ...sql.replace(/--.*$/gm, '').matchAll(/^[ \t]*grant\s+[^;']+?\s+on\s+[^;']+?\s+to\s+[^;']+;/gm),
  ];
  expect(read.length).toBe(written);
  expect(grants).toContainEqual({
    role: 'market_sync_consumer',
    privilege: 'update',
    kind: 'column',
    object: 'market_sync.settings',
    column: 'sensor_stale_after',
  });
  expect(grants).toContainEqual({
    role: 'market_sync_api',
    privilege: 'execute',
    kind: 'function',
    object: 'market_sync.iso(timestamptz)',
    column: null,
  });
  for (const { privilege, role } of grants) {
    expect(['select', 'insert', 'update', 'delete', 'usage', 'execute']).toContain(privilege);
    expect(role).toMatch(/^market_sync_(reader|operator|admin|consumer|publisher|api)$/);
  }
});
