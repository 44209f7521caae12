import type pg from 'pg';
import { type JobResult, PgBoss, type QueueOptions } from 'pg-boss';
import { crashPoint } from './crash-point.ts';
import { describeError } from './errors.ts';
import type { Logger } from './log.ts';
import { type Database, query, toConnectionError } from './postgres.ts';
import { ASKED_POLICY, type AskedQueue, PASSIVE, SCHEMA, type ScheduledQueue } from './queue-schema.ts';

/** A job that runs on a schedule. Its output is kept with the job, for people who look. */
export interface ScheduledJob {
  /** Queue name in pg-boss. */
  name: ScheduledQueue;
  /** Five-field cron expression, UTC. */
  cron: string;
  /** Seconds after which a run counts as failed. */
  expireInSeconds: number;
  run: (signal: AbortSignal) => Promise<Record<string, unknown>>;
}

/** A job that somebody asks for, with `sendJob`. One of each name is in work at a time, in whichever process. */
export interface AskedJob {
  /** Queue name in pg-boss. */
  name: string;
  /** Seconds after which a run counts as interrupted. */
  expireInSeconds: number;
  /**
   * Works one job. What it throws is kept with the job, which is tried again later, in any process. `failed` ends the
   * job for good. The signal aborts when the process stops, or the job was taken away: throw then.
   */
  run: (jobId: string, signal: AbortSignal) => Promise<{ failed: boolean; output: Record<string, unknown> }>;
}

export interface Queue {
  /** Runs a job now, beside its schedule; one that waits already serves. */
  trigger(name: string): Promise<void>;
  stop(): Promise<void>;
}

/** How long a stop waits for jobs in work. */
const STOP_TIMEOUT_MS = 5_000;

/**
 * A job is its process's own, and policy `stately` lets no other of its name begin meanwhile. Without signs of life a
 * killed process would keep it until the job expires: refreshes would stop for minutes. No less than 10 is accepted.
 */
const HEARTBEAT_SECONDS = 10;

/** How often jobs without a sign of life, and expired ones, are looked for. */
const SUPERVISE_SECONDS = 10;

/** Nobody notifies of a job that is to be tried again. */
const LOOK_AGAIN_SECONDS = 5;

/** Finished jobs stay this long for people to look at. */
const KEEP_FINISHED_SECONDS = 7 * 24 * 3600;

/** Interruptions that an asked job survives: restarts and outages, each a few seconds after the one before. */
const ASKED_RETRIES_MAX = 1_000;
const ASKED_RETRY_SECONDS = 1;
const ASKED_RETRY_SECONDS_MAX = 30;

/**
 * Starts pg-boss (schema `pgboss`) with these scheduled jobs. This file owns pg-boss and its traps: policy `stately`
 * keeps one queued and one active job of each; LISTEN/NOTIFY starts a job in milliseconds where polling takes up to a
 * second; a cron of six fields would fire once a minute, so settings allow five.
 */
export async function startQueue(
  { databaseUrl, log }: { databaseUrl: string; log: Logger },
  jobs: (ScheduledJob | AskedJob)[],
): Promise<Queue> {
  const stopping = new AbortController();
  const boss = new PgBoss({
    connectionString: databaseUrl,
    application_name: 'market-sync queue',
    schema: SCHEMA,
    max: 4,
    useListenNotify: true,
    cronMonitorIntervalSeconds: 10,
    cronWorkerIntervalSeconds: 5,
    superviseIntervalSeconds: SUPERVISE_SECONDS,
    monitorIntervalSeconds: SUPERVISE_SECONDS,
  });
  boss.on('error', (error) => log.warn({ error: describeError(error) }, 'queue error'));
  boss.on('warning', (warning) => log.debug({ warning: warning.message }, 'queue warning'));
  try {
    await boss.start();
    for (const job of jobs) {
      if ('cron' in job) await addScheduled({ boss, log }, job);
      else await addAsked({ boss, log, stopping: stopping.signal }, job);
    }
  } catch (error) {
    await boss.stop({ graceful: false, close: true }).catch(() => undefined); // It may not have begun.
    throw toConnectionError(error);
  }
  return {
    trigger: async (name) => {
      await boss.send(name, null);
    },
    stop: () => {
      stopping.abort();
      return boss.stop({ graceful: true, timeout: STOP_TIMEOUT_MS, close: true });
    },
  };
}

const POLLING = {
  pollingIntervalSeconds: 2,
  notifyPollingIntervalSeconds: LOOK_AGAIN_SECONDS,
  batchSize: 1,
} as const;

/** Makes the queue of a job, the worker that runs it, and its schedule. */
async function addScheduled({ boss, log }: { boss: PgBoss; log: Logger }, job: ScheduledJob): Promise<void> {
  const options = queueOptions({ expireInSeconds: job.expireInSeconds, retryLimit: 2 });
  await boss.createQueue(job.name, { policy: 'stately', ...options });
  await boss.updateQueue(job.name, options);
  await boss.work(job.name, POLLING, async (claimed) => {
    const signal = claimed[0]?.signal ?? AbortSignal.abort();
    try {
      await crashPoint('queue.job_started');
      const output = await job.run(signal);
      log.debug({ job: job.name, ...output }, 'job done');
      return output;
    } catch (error) {
      log.warn({ job: job.name, error: describeError(error) }, 'job failed');
      throw error;
    }
  });
  await boss.schedule(job.name, job.cron, null, { tz: 'UTC' });
}

const queueOptions = (
  options: QueueOptions & { expireInSeconds: number; retryLimit: number },
): QueueOptions & { notify: true } => ({
  notify: true,
  heartbeatSeconds: HEARTBEAT_SECONDS,
  deleteAfterSeconds: KEEP_FINISHED_SECONDS,
  ...options,
});

const askedOptions = (expireInSeconds: number): QueueOptions & { notify: true } =>
  queueOptions({
    expireInSeconds,
    retryLimit: ASKED_RETRIES_MAX,
    retryDelay: ASKED_RETRY_SECONDS,
    retryBackoff: true,
    retryDelayMax: ASKED_RETRY_SECONDS_MAX,
  });

/** Makes the queue of an asked job and the worker that runs it. */
async function addAsked(
  { boss, log, stopping }: { boss: PgBoss; log: Logger; stopping: AbortSignal },
  job: AskedJob,
): Promise<void> {
  const options = askedOptions(job.expireInSeconds);
  await boss.createQueue(job.name, { policy: ASKED_POLICY, ...options });
  await boss.updateQueue(job.name, options);
  await boss.work(job.name, { ...POLLING, perJobResults: true }, async (claimed): Promise<JobResult[]> => {
    const results: JobResult[] = [];
    for (const { id, signal } of claimed) {
      try {
        await crashPoint('queue.job_started');
        const { failed, output } = await job.run(id, AbortSignal.any([signal, stopping]));
        // Without a dead letter queue, which there is none of, `deadletter` is a failure that is not tried again.
        results.push({ id, status: failed ? 'deadletter' : 'completed', output });
        log.info({ job: job.name, job_id: id, ...output }, failed ? 'job failed' : 'job done');
      } catch (error) {
        results.push({ id, status: 'failed', output: { message: describeError(error) } });
        log.warn(
          { job: job.name, job_id: id, error: describeError(error) },
          'job interrupted, it is tried again',
        );
      }
    }
    return results;
  });
}

/**
 * Queues a job in the caller's transaction: once that commits, a worker in whichever process has it within
 * milliseconds; when it is rolled back, there was none. No pg-boss runs here. The queue is one of `ASKED_QUEUES`.
 */
export async function sendJob(
  client: pg.ClientBase,
  { name, id, input }: { name: AskedQueue; id: string; input: object },
): Promise<void> {
  const boss = new PgBoss({
    db: { executeSql: async (text, values) => ({ rows: await query(client, text, values ?? []) }) },
    ...PASSIVE,
    migrate: false,
  });
  try {
    await boss.start();
    if ((await boss.send(name, input, { id })) === null) throw new Error(`job ${id} was sent before`);
  } finally {
    await boss.stop({ graceful: false });
  }
}

/** Which of these jobs wait or are in work. */
export async function findOpenJobs(db: Database, ids: readonly string[]): Promise<Set<string>> {
  const rows = await query<{ id: string }>(
    db,
    `select id from ${SCHEMA}.job where id = any ($1::uuid[]) and state in ('created', 'retry', 'active')`,
    [ids],
  );
  return new Set(rows.map((row) => row.id));
}
