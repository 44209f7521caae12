import { expect, test } from 'vitest';
import { CRASH_POINTS } from '../../src/crash-point.ts';
import { runApiCase } from './api-case.ts';
import { API_CASES, MIGRATE_CASES, PIPELINE_CASES } from './cases.ts';
import { listMatrix, pointsOf, testCrashes } from './matrix.ts';
import { runMigrateCase } from './migrate-case.ts';

test('every crash point has a case, and there are at least 15 of them', () => {
  const points = [PIPELINE_CASES, API_CASES, MIGRATE_CASES].flatMap(pointsOf);
  expect(points.toSorted()).toEqual(Object.keys(CRASH_POINTS).toSorted());
  expect(points.length).toBeGreaterThanOrEqual(15);
  expect(listMatrix(points).length).toBeGreaterThanOrEqual(3 * points.length);
});

test('where a request follows a crash point, its case knows the request', () => {
  const cases = Object.entries({ ...PIPELINE_CASES, ...API_CASES, ...MIGRATE_CASES });
  for (const [point, { request }] of cases) {
    expect(request !== undefined, point).toBe('request' in CRASH_POINTS[point as keyof typeof CRASH_POINTS]);
  }
});

testCrashes(pointsOf(API_CASES), (pool, { point, action }) =>
  pool.use(async (stage) => {
    const apiCase = API_CASES[point];
    if (apiCase === undefined) throw new Error(`no case of ${point}`);
    await runApiCase(stage, { point, action, call: apiCase.call, request: apiCase.request });
  }),
);

testCrashes(pointsOf(MIGRATE_CASES), async (_, { point, action }) => {
  const migrateCase = MIGRATE_CASES[point];
  if (migrateCase === undefined) throw new Error(`no case of ${point}`);
  await runMigrateCase({ point, action, passage: migrateCase.passage ?? 1, request: migrateCase.request });
});
