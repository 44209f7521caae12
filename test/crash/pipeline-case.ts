import { expect } from 'vitest';
import type { CrashPoint } from '../../src/crash-point.ts';
import { query } from '../../src/postgres.ts';
import { until } from '../support/pipeline.ts';
import type { Service } from '../support/service.ts';
import { type Actor, type Crash, untilStopped, within } from './actor.ts';
import type { CrashCase } from './cases.ts';
import { changeFirst, createFarm, type Farm } from './farm.ts';
import type { Stage } from './stage.ts';
import { startWatcher } from './watcher.ts';

export type Action = 'kill' | 'error' | 'hang' | 'reply_lost';

export interface PipelineCase {
  point: CrashPoint;
  action: Action;
  crashCase: CrashCase;
}

/** Brings a pipeline to the point, crashes it there, lets it or another one go on, and looks whether all is right. */
export async function runPipelineCase(
  stage: Stage,
  { point, action, crashCase }: PipelineCase,
): Promise<void> {
  const pipeline = await stage.pipeline();
  const farm = await createFarm(stage, crashCase.farmSize ?? 3);
  await crashCase.prepare?.(stage, farm);
  const before = await readHistory(stage);
  const watcher = startWatcher(stage.scene.market.market, farm);
  try {
    const crash = await pipeline.arm(`${point}:${action}:${crashCase.passage ?? 1}`);
    const lost = action === 'reply_lost' ? pipeline.loseReply(requestOf(crashCase)) : undefined;
    await crashCase.provoke(stage, farm);
    // The other bookings of the farm stay as they are: a change of theirs would cover up what was lost.
    const goOn = (): Promise<void> => changeFirst(stage, farm);
    switch (action) {
      case 'kill':
        await replaceKilled(stage, pipeline, goOn);
        break;
      case 'hang':
        await replaceHanging(stage, { pipeline, crash, goOn });
        break;
      case 'error':
        await within('the crash point is reached', crash.reached);
        break;
      case 'reply_lost':
        await within('the crash point is reached', crash.reached);
        crash.proceed();
        await within('the reply is lost', lost ?? Promise.reject(new Error('no request')));
        break;
    }
    await goOn();
    await crashCase.done?.(stage, farm);
    await stage.scene.settle();
    await expectAlive(await stage.pipeline());
  } finally {
    await watcher.stop();
  }
  await expectRight(stage, farm);
  expect(await readHistory(stage)).toEqual({
    epoch: before.epoch + (crashCase.histories ?? 0),
    resyncs: before.resyncs + (crashCase.resyncs ?? 0),
  });
}

function requestOf({ request }: CrashCase): NonNullable<CrashCase['request']> {
  if (request === undefined) throw new Error('the case does not say which request follows its point');
  return request;
}

async function replaceKilled(stage: Stage, pipeline: Actor, goOn: () => Promise<void>): Promise<void> {
  const { signal } = await within('the process is killed', pipeline.service.exited);
  expect(signal).toBe('SIGKILL');
  stage.setPipeline(undefined);
  await pipeline.stop();
  await goOn();
  await stage.pipeline();
}

/** Row 11: another one takes over; what the first still does when it wakes must change nothing. */
async function replaceHanging(
  stage: Stage,
  { pipeline, crash, goOn }: { pipeline: Actor; crash: Crash; goOn: () => Promise<void> },
): Promise<void> {
  await within('the crash point is reached', crash.reached);
  await untilStopped(pipeline.service);
  await goOn();
  const second = await stage.startPipeline();
  stage.setPipeline(second);
  await second.service.logged('consumer active');
  await stage.scene.settle();
  await goOn();
  await stage.scene.settle();
  const lines = pipeline.service.log.length;
  const linesOfSecond = second.service.log.length;
  pipeline.service.signal('SIGCONT');
  await untilLogged(pipeline.service, { message: 'another consumer is active, standing by', after: lines });
  await goOn();
  await stage.scene.settle();
  // In order: what it has in work it finishes, and afterwards it writes no more.
  await pipeline.stop('SIGTERM');
  const disturbed = second.service.log
    .slice(linesOfSecond)
    .filter((line) => line.msg === 'consumer interrupted, coming back');
  expect(disturbed, 'the one that works is left alone').toEqual([]);
}

const untilLogged = (
  { log, pid }: Service,
  { message, after }: { message: string; after: number },
): Promise<void> =>
  until(`process ${pid} logs "${message}"`, () => log.slice(after).some((line) => line.msg === message));

async function expectAlive({ service: { child, log } }: Actor): Promise<void> {
  expect([child.exitCode, child.signalCode], log.map((line) => line.msg).join('\n')).toEqual([null, null]);
}

/** Of a large farm some bookings are compared in full; the others were computed by the same statements. */
const COMPARED_MAX = 12;

export async function expectRight({ scene }: Stage, { bookingIds, expiring }: Farm): Promise<void> {
  const step = Math.ceil(bookingIds.length / COMPARED_MAX);
  await scene.expectConverged(bookingIds.filter((_, index) => index % step === 0));
  const held = await query(
    scene.database.pool,
    `select booking_id, attempts, parked_at, claimed_by, lease_until from market_sync.snapshot_state
     where booking_id = any ($1)
       and (attempts > 0 or parked_at is not null or claimed_by is not null or lease_until is not null
         or (published_epoch, published_revision) <> (epoch, revision))`,
    [bookingIds],
  );
  expect(held, 'nothing is held against a booking').toEqual([]);
  for (const id of expiring) expect(await scene.listing(id)).toBeUndefined();
}

interface History {
  epoch: number;
  resyncs: number;
}

async function readHistory({ scene }: Stage): Promise<History> {
  const rows = await query<{ epoch: number; resyncs: number }>(
    scene.database.pool,
    'select epoch, (select count(*) from market_sync.resync) as resyncs from market_sync.checkpoint',
  );
  if (rows[0] === undefined) throw new Error('no checkpoint');
  return rows[0];
}
