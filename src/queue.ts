import { PgBoss } from 'pg-boss';
import { crashPoint } from './crash-point.ts';
import { describeError } from './errors.ts';
import type { Logger } from './log.ts';
import { toConnectionError } from './postgres.ts';

/** A job that runs on a schedule. Its output is kept with the job, for people who look. */
export interface ScheduledJob {
  /** Queue name in pg-boss. */
  name: string;
  /** Five-field cron expression, UTC. */
  cron: string;
  /** Seconds after which a run counts as failed. */
  expireInSeconds: number;
  run: (signal: AbortSignal) => Promise<Record<string, unknown>>;
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

/**
 * Starts pg-boss (schema `pgboss`) with these scheduled jobs. This file owns pg-boss and its traps: policy `stately`
 * keeps one queued and one active job of each; LISTEN/NOTIFY starts a job in milliseconds where polling takes up to a
 * second; a cron of six fields would fire once a minute, so settings allow five.
 */
export async function startQueue(
  { databaseUrl, log }: { databaseUrl: string; log: Logger },
  jobs: ScheduledJob[],
): Promise<Queue> {
  const boss = new PgBoss({
    connectionString: databaseUrl,
    application_name: 'market-sync queue',
    schema: 'pgboss',
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
    for (const job of jobs) await addJob({ boss, log }, job);
  } catch (error) {
    await boss.stop({ graceful: false, close: true }).catch(() => undefined); // It may not have begun.
    throw toConnectionError(error);
  }
  return {
    trigger: async (name) => {
      await boss.send(name, null);
    },
    stop: () => boss.stop({ graceful: true, timeout: STOP_TIMEOUT_MS, close: true }),
  };
}

/** Makes the queue of a job, the worker that runs it, and its schedule. */
async function addJob({ boss, log }: { boss: PgBoss; log: Logger }, job: ScheduledJob): Promise<void> {
  const options = {
    notify: true,
    retryLimit: 2,
    heartbeatSeconds: HEARTBEAT_SECONDS,
    expireInSeconds: job.expireInSeconds,
    deleteAfterSeconds: KEEP_FINISHED_SECONDS,
  };
  await boss.createQueue(job.name, { policy: 'stately', ...options });
  await boss.updateQueue(job.name, options);
  const polling = { pollingIntervalSeconds: 2, notifyPollingIntervalSeconds: LOOK_AGAIN_SECONDS };
  await boss.work(job.name, { ...polling, batchSize: 1 }, async (claimed) => {
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
