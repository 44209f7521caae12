import { setTimeout as delay } from 'node:timers/promises';
import type pg from 'pg';
import type { Config } from '../src/config.ts';
import { describeError } from '../src/errors.ts';
import type { Logger } from '../src/log.ts';
import type { Market } from '../src/mongo.ts';
import { ConnectionLostError, classifyPostgresError } from '../src/postgres.ts';
import { type AskedJob, type Queue, type ScheduledJob, startQueue } from '../src/queue.ts';
import { storeWindows } from '../src/store/checkpoint.ts';
import { readMarketEpoch } from '../src/store/listings.ts';
import { processName, publishContext } from '../src/store/publish.ts';
import type { Clock } from '../src/store/reconcile.ts';
import { startAuditor } from './audit.ts';
import { type BatchReport, type Consumer, startConsumer } from './consume.ts';
import { startHistoryCheck } from './history-check.ts';
import { startPublisher } from './publish.ts';
import { startResyncer } from './resync.ts';
import { queueJobs } from './schedules.ts';
import { startSlotWatch } from './slot-watch.ts';
import { startTaskWatch } from './task-watch.ts';

export interface PipelineContext {
  config: Config;
  databaseUrl: string;
  pool: pg.Pool;
  market: Market;
  log: Logger;
  /** Instant as which snapshots are computed; PostgreSQL's own when it answers undefined. */
  clock?: Clock;
  random?: () => number;
  onBatch?: (batch: BatchReport) => void;
  /** How often capture and the source tables are looked at, in milliseconds. */
  checkIntervalMs?: number;
}

export interface Pipeline {
  consumer: Consumer;
  queue: Queue;
  /** Rejected with the first error that nothing can be done about. */
  failed: Promise<never>;
  /** Stops in order: schedules, consumer, publisher. What is in work is finished. */
  stop(): Promise<void>;
}

/** Starts everything that runs by itself: consumer, publisher, resync, schedules. The database must be migrated, the listings indexed. */
export async function startPipeline(ctx: PipelineContext): Promise<Pipeline> {
  const { config, pool, market, log } = ctx;
  const clock: Clock = ctx.clock ?? (() => undefined);
  const random = ctx.random ?? Math.random;
  await storeWindows(pool, config);

  const publish = publishContext({ config, pool, market, log, random, role: 'pipeline' });
  const publisher = startPublisher(publish, { batchMax: config.publishBatchMax });
  const resyncer = startResyncer({ pool, market, log, clock, chunkMax: config.batchKeysMax });
  const historyCheck = startHistoryCheck({ pool, market, log });
  const auditor = startAuditor({
    pool,
    market,
    log,
    clock,
    config,
    publish: publishContext({ config, pool, market, log, random, role: 'sweep' }),
  });
  const slotWatch = startSlotWatch({ pool, log });
  const consumer = startConsumer({
    pool,
    databaseUrl: ctx.databaseUrl,
    log,
    slotName: config.slotName,
    slotFailover: config.slotFailover,
    holder: processName(),
    leaseSeconds: config.consumerLeaseSeconds,
    batchKeysMax: config.batchKeysMax,
    pendingKeysMax: config.pendingKeysMax,
    clock,
    readMarketEpoch: () =>
      readMarketEpoch(market).catch((cause: unknown) => {
        throw new ConnectionLostError('a new history waits for MongoDB', { cause });
      }),
    random,
    reserve: publisher.reserve,
    onFenced: publisher.fenced,
    ...(ctx.onBatch === undefined ? {} : { onBatch: ctx.onBatch }),
    ...(ctx.checkIntervalMs === undefined ? {} : { checkIntervalMs: ctx.checkIntervalMs }),
  });
  const failed = Promise.all([
    consumer.ended,
    publisher.ended,
    resyncer.ended,
    historyCheck.ended,
    auditor.ended,
  ]).then(() => new Promise<never>(() => undefined));
  // Before anything is waited for: a part may fail while the queue is still starting.
  failed.catch(() => undefined);
  // One that has ended with an error has said so in `failed`; the others are stopped all the same.
  const stopLoops = async (): Promise<void> => {
    await Promise.allSettled([consumer.stop()]);
    await Promise.allSettled([
      auditor.stop(),
      resyncer.stop(),
      publisher.stop(),
      historyCheck.stop(),
      slotWatch.stop(),
    ]);
  };
  let queue: Queue;
  try {
    const jobs = queueJobs({
      pool,
      market,
      log,
      clock,
      config,
      publish: publishContext({ config, pool, market, log, random, role: 'sweep' }),
    });
    queue = await startQueueInTime({ databaseUrl: ctx.databaseUrl, log }, jobs);
  } catch (error) {
    await stopLoops();
    throw error;
  }
  const taskWatch = startTaskWatch({ pool, log });
  return {
    consumer,
    queue,
    failed,
    stop: async () => {
      try {
        await Promise.all([taskWatch.stop(), queue.stop()]);
      } finally {
        await stopLoops();
      }
    },
  };
}

const QUEUE_ATTEMPTS_MAX = 20;
const QUEUE_RETRY_MS = 500;

/** PostgreSQL may go away and come back while the queue starts; the other parts bear that too. */
async function startQueueInTime(
  ctx: Parameters<typeof startQueue>[0],
  jobs: (ScheduledJob | AskedJob)[],
): Promise<Queue> {
  for (let attempt = 1; ; attempt += 1) {
    try {
      return await startQueue(ctx, jobs);
    } catch (error) {
      if (attempt >= QUEUE_ATTEMPTS_MAX || classifyPostgresError(error) !== 'retryable') throw error;
      ctx.log.warn({ error: describeError(error), attempt }, 'queue interrupted while starting, coming back');
      await delay(QUEUE_RETRY_MS);
    }
  }
}
