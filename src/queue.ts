import { PgBoss } from 'pg-boss';
import { describeError } from './errors.ts';
import type { Logger } from './log.ts';

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
  });
  boss.on('error', (error) => log.warn({ error: describeError(error) }, 'queue error'));
  boss.on('warning', (warning) => log.debug({ warning: warning.message }, 'queue warning'));
  await boss.start();
  for (const job of jobs) {
    const options = {
      notify: true,
      retryLimit: 2,
      expireInSeconds: job.expireInSeconds,
      deleteAfterSeconds: KEEP_FINISHED_SECONDS,
    };
    await boss.createQueue(job.name, { policy: 'stately', ...options });
    await boss.updateQueue(job.name, options);
    await boss.work(job.name, { pollingIntervalSeconds: 2, batchSize: 1 }, async (claimed) => {
      const signal = claimed[0]?.signal ?? AbortSignal.abort();
      try {
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
  return {
    trigger: async (name) => {
      await boss.send(name, null);
    },
    stop: () => boss.stop({ graceful: true, timeout: STOP_TIMEOUT_MS, close: true }),
  };
}
