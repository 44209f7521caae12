import { loadConfig } from '../../src/config.ts';
import { createRandom } from '../support/random.ts';
import { startAppends } from './appends.ts';
import { startMonitor } from './monitor.ts';
import { changeUnseen, runNemesis } from './nemesis.ts';
import type { Observations } from './observations.ts';
import { startOperator } from './operator.ts';
import { makePlan, type PlanOptions } from './plan.ts';
import { type Stage, setStage } from './stage.ts';
import { compareAll, settleAll } from './verdict.ts';
import { startWatcher } from './watcher.ts';
import { bookingIdsOf } from './world.ts';
import { startWriters } from './writers.ts';

export interface ChaosOptions extends PlanOptions {
  /** Seconds after which no more is broken, whatever is left of the plan. */
  seconds: number;
  /** The writers go on until they have written so many rows, or the seconds are over. */
  operations: number;
  /** Milliseconds between the transactions of one writer, on average. */
  pauseMs: number;
  /** The tree that the processes under test run from. */
  root: string;
}

const WRITERS = 4;
const APPENDERS = 3;
const LISTS = 3;

/** Writes, breaks, watches; then lets everything come to rest and compares. What was seen is in the observations. */
export async function runChaos(
  options: ChaosOptions,
  observations: Observations,
  onStage: (stage: Stage) => void,
): Promise<void> {
  const stage = await setStage({ root: options.root, observations });
  onStage(stage);
  try {
    await act(stage, options, observations);
  } finally {
    await stage.stop();
  }
}

async function act(stage: Stage, options: ChaosOptions, observations: Observations): Promise<void> {
  const { pool, market, slotName } = stage;
  const { tally } = observations;
  const { pauseMs } = options;
  const random = createRandom(options.seed);
  const monitor = startMonitor({ pool, slotName, observations });
  await untilConsuming(stage);
  const writers = startWriters({ pool, observations, pauseMs }, { count: WRITERS, random: random.fork() });
  const appends = startAppends(
    { pool, market, observations, pauseMs },
    { appenders: APPENDERS, lists: LISTS, random: random.fork() },
  );
  const inChange = (): string[] => writers.live().flatMap(bookingIdsOf);
  const operator = startOperator(
    { api: stage.api.service, pool, observations, pauseMs: pauseMs * 5 },
    { bookingIds: inChange, random: random.fork() },
  );
  const watcher = startWatcher({ market, observations }, inChange);

  const deadline = performance.now() + options.seconds * 1000;
  const nemesis = { stage, observations, random: random.fork(), bookingIds: [] as string[] };
  await runNemesis(nemesis, makePlan(options), deadline);
  while (tally.operations < options.operations && performance.now() < deadline) await turn();
  await Promise.all([writers.stop(), appends.stop(), operator.stop()]);
  observations.note('quiet');

  const quietAt = performance.now();
  const config = loadConfig({});
  const verdict = { pool, market, observations, settings: config };
  const settle = (): Promise<void> => settleAll(verdict);
  await settle();
  tally.settle_ms = Math.round(performance.now() - quietAt);
  observations.note(`settled after ${tally.settle_ms} ms`);
  await changeUnseen(nemesis, settle);
  const bookingIds = [
    ...writers.worlds.flatMap(bookingIdsOf),
    ...appends.bookingIds(),
    ...nemesis.bookingIds,
  ];
  await compareAll(verdict, bookingIds);
  await appends.check();
  await operator.check();
  await Promise.all([watcher.stop(), monitor.stop()]);
  observations.note(`compared ${bookingIds.length} bookings`);
  await countResyncs(stage, observations);
}

/** What only a dropped slot gives cause for. It is ahead when its maker was killed before it had begun a history. */
const CUT = /^the replication slot (is gone$|\(.*\) is ahead of the checkpoint)/;

async function countResyncs({ pool }: Stage, observations: Observations): Promise<void> {
  const { tally } = observations;
  const { rows } = await pool.query<{ reason: string }>('select reason from market_sync.resync order by id');
  tally.resyncs = rows.length - 1;
  let cuts = 0;
  for (const { reason } of rows.slice(1)) {
    observations.note(`resync: ${reason}`);
    if (CUT.test(reason)) cuts += 1;
    else observations.violation('needless_resyncs', reason);
  }
  // A maker that was killed twice over one slot makes it ahead twice.
  if (cuts > tally.slots_dropped * 2) {
    observations.violation(
      'needless_resyncs',
      `${cuts} new histories for ${tally.slots_dropped} dropped slots`,
    );
  }
}

async function untilConsuming({ pool }: Stage): Promise<void> {
  const DEADLINE_MS = 30_000;
  const deadline = performance.now() + DEADLINE_MS;
  for (;;) {
    const { rowCount } = await pool.query(
      'select from market_sync.checkpoint where commit_lsn is not null and holder is not null',
    );
    if (rowCount === 1) return;
    if (performance.now() > deadline) throw new Error('no consumer after 30 s');
    await turn();
  }
}

const turn = (): Promise<void> => new Promise((resolve) => void setTimeout(resolve, 20));
