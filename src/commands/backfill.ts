import { setTimeout as delay } from 'node:timers/promises';
import type pg from 'pg';
import { workBackfill } from '../../pipeline/tasks.ts';
import type { Config } from '../config.ts';
import { EnvironmentError } from '../errors.ts';
import type { Logger } from '../log.ts';
import { sqlStateOf } from '../postgres.ts';
import { type BackfillProgress, readBackfill } from '../store/backfills.ts';
import { cancelAudited, findOpenBackfill, requestBackfill } from '../store/tasks.ts';
import { describeEnd, describeProgress, toProgressLine } from './progress.ts';
import { withRunningDatabase } from './running-database.ts';

export interface BackfillOptions {
  reason: string;
  /** Asks for it and does not wait. */
  detach: boolean;
  /** Cancels the open one instead. */
  cancel: boolean;
}

/** How often a terminal is written over, and a pipe gets a line, in milliseconds. */
const TERMINAL_MS = 250;
const PIPE_MS = 1_000;

const EXIT_NOT_DONE = 1;
/** As a shell says of what Ctrl-C has ended. */
const EXIT_DETACHED = 130;

/**
 * `market-sync backfill`: asks for a recompute of every booking, or joins the one that is open, and shows it until its end.
 *
 * A running pipeline works it. Where none shows signs of life this command does so itself, by the same code: waiting for
 * what nobody does would be waiting for ever, and a backfill before the first start of a pipeline is a wish that makes
 * sense. Should a pipeline come meanwhile, both work it, each chunk by one of them.
 */
export async function runBackfill(config: Config, log: Logger, options: BackfillOptions): Promise<void> {
  try {
    await withRunningDatabase(config, log, async (pool) => {
      if (options.cancel) return cancel(pool, options.reason);
      const id = await requestBackfill(pool, options.reason);
      if (options.detach) say(`${id}\n`, `asked for. ${HOW_TO_GO_ON}`);
      else await follow({ config, log, pool, id });
    });
  } catch (error) {
    if (sqlStateOf(error) !== '42501') throw error;
    throw new EnvironmentError(
      'DATABASE_URL: the role may not do that. Asking for a backfill takes a member of market_sync_admin; where no pipeline runs to work it, start one (market-sync pipeline), or take the role that migrates.',
      { cause: error },
    );
  }
}

const HOW_TO_GO_ON =
  'Watch it: market-sync backfill, or select * from market_sync.backfills. Cancel it: market-sync backfill --cancel';

async function cancel(pool: pg.Pool, reason: string): Promise<void> {
  const id = await findOpenBackfill(pool);
  if (id === undefined) return say('no backfill is open\n');
  await cancelAudited(pool, id, reason);
  say(`cancelled ${id}; what it has done stays\n`);
}

interface Following {
  config: Config;
  log: Logger;
  pool: pg.Pool;
  id: string;
}

async function follow(ctx: Following): Promise<void> {
  const detach = new AbortController();
  const onSignal = (): void => detach.abort();
  process.on('SIGINT', onSignal);
  process.on('SIGTERM', onSignal);
  const show = process.stdout.isTTY === true ? createTerminal() : createPipe(ctx.id);
  let own: Promise<unknown> | undefined;
  let failure: unknown;
  try {
    while (!detach.signal.aborted) {
      if (failure !== undefined) throw failure;
      const progress = await readBackfill(ctx.pool, ctx.id);
      if (progress === undefined) throw new Error('the backfill was deleted');
      if (progress.state !== 'queued' && progress.state !== 'running') {
        show.end(progress);
        if (progress.state !== 'done') process.exitCode = EXIT_NOT_DONE;
        return;
      }
      show.progress(progress);
      if (!progress.pipeline_alive && own === undefined) {
        show.note(
          'no pipeline is running: this command does the work itself. Listings are published once one runs: market-sync pipeline',
        );
        own = workHere(ctx, detach.signal).catch((error: unknown) => {
          failure = error;
        });
      }
      await delay(show.everyMs, undefined, { signal: detach.signal }).catch(() => undefined);
    }
    await own;
    show.note(
      own === undefined
        ? `it goes on without this command. ${HOW_TO_GO_ON}`
        : 'stopped. Go on where it stopped: market-sync backfill. Give it up: market-sync backfill --cancel',
    );
    process.exitCode = EXIT_DETACHED;
  } finally {
    detach.abort();
    await own;
    process.off('SIGINT', onSignal);
    process.off('SIGTERM', onSignal);
  }
}

async function workHere({ config, log, pool, id }: Following, signal: AbortSignal): Promise<void> {
  try {
    await workBackfill({ pool, log, clock: () => undefined, chunkMax: config.batchKeysMax }, { id, signal });
  } catch (error) {
    if (!signal.aborted) throw error;
  }
}

interface Display {
  everyMs: number;
  progress(progress: BackfillProgress): void;
  note(text: string): void;
  end(progress: BackfillProgress): void;
}

/** One line, written over in place. */
function createTerminal(): Display {
  const ERASE_LINE = '\r\u001b[2K';
  const write = (text: string): void => void process.stdout.write(`${ERASE_LINE}${text}`);
  return {
    everyMs: TERMINAL_MS,
    progress: (progress) => write(describeProgress(progress, process.stdout.columns || 80)),
    note: (text) => write(`${text}\n`),
    end: (progress) => write(`${describeEnd(progress)}\n`),
  };
}

/** Lines of JSON, when something has changed; what is for people goes beside them. */
function createPipe(id: string): Display {
  let last = '';
  const write = (progress: BackfillProgress): void => {
    const line = toProgressLine(id, progress);
    if (line !== last) process.stdout.write(`${line}\n`);
    last = line;
  };
  return {
    everyMs: PIPE_MS,
    progress: write,
    note: (text) => void process.stderr.write(`market-sync: ${text}\n`),
    end: write,
  };
}

/** To standard output what scripts take, beside it what people read. */
function say(output: string, hint?: string): void {
  process.stdout.write(output);
  if (hint !== undefined) process.stderr.write(`market-sync: ${hint}\n`);
}
