import { afterAll, test } from 'vitest';
import { CRASH_ACTIONS, CRASH_POINTS, type CrashPoint, hasRequest } from '../../src/crash-point.ts';
import { API_CASES, MIGRATE_CASES, PIPELINE_CASES } from './cases.ts';
import { type Action, runPipelineCase } from './pipeline-case.ts';
import { createStagePool, type StagePool } from './stage.ts';

/** Stages at once in one file: most of a case is waiting for leases to run out. */
const STAGES_MAX = 3;

const CASE_TIMEOUT_MS = 240_000;

interface MatrixEntry {
  point: CrashPoint;
  action: Action;
}

/** Each point with each action that makes sense there. */
export function listMatrix(points: readonly CrashPoint[]): MatrixEntry[] {
  return points.flatMap((point) =>
    CRASH_ACTIONS.filter((action) => action !== 'reply_lost' || hasRequest(point)).map((action) => ({
      point,
      action,
    })),
  );
}

const isCrashPoint = (name: string): name is CrashPoint => Object.hasOwn(CRASH_POINTS, name);

/** The points that the cases are about, in their order. */
export const pointsOf = (cases: object): CrashPoint[] => Object.keys(cases).filter(isCrashPoint);

const rowOf = (point: CrashPoint): string =>
  (PIPELINE_CASES[point] ?? API_CASES[point] ?? MIGRATE_CASES[point])?.row ?? '';

/** A test of each point and action. They run side by side, each on a stage that no other one uses meanwhile. */
export function testCrashes(
  points: readonly CrashPoint[],
  run: (pool: StagePool, entry: MatrixEntry) => Promise<void>,
): void {
  const pool = createStagePool(STAGES_MAX);
  afterAll(() => pool.stop());
  for (const { point, action } of listMatrix(points)) {
    test.concurrent(
      `${rowOf(point)}: ${action} at ${point}, where ${CRASH_POINTS[point].endangers}`,
      () => run(pool, { point, action }),
      CASE_TIMEOUT_MS,
    );
  }
}

/** The points of a pipeline whose names begin so. */
export function testPipelineCrashes(parts: readonly string[]): void {
  const points = pointsOf(PIPELINE_CASES).filter((point) => parts.includes(point.split('.')[0] ?? ''));
  testCrashes(points, (pool, { point, action }) =>
    pool.use(async (stage) => {
      const crashCase = PIPELINE_CASES[point];
      if (crashCase !== undefined) await runPipelineCase(stage, { point, action, crashCase });
    }),
  );
}
