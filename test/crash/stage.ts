import { type Queue, startQueue } from '../../src/queue.ts';
import { createScene, type Scene } from '../support/scene.ts';
import { type Actor, startActor } from './actor.ts';

/** One database and one market, the processes that work on them, and what outlives a case: the pipeline that runs. */
export interface Stage {
  scene: Scene;
  /** The pipeline that works. Started when there is none. */
  pipeline(): Promise<Actor>;
  /** Another pipeline, which works when the first does not. */
  startPipeline(): Promise<Actor>;
  /** The one that works from now on; undefined: none. */
  setPipeline(pipeline: Actor | undefined): void;
  startApi(): Promise<Actor>;
  /** Asks for a job, as its schedule does. */
  trigger(job: string): Promise<void>;
  stop(): Promise<void>;
}

const SLOT_HELP_MS = 500;

/** Never while a test runs. */
const FAR_CRON = '0 0 29 2 *';

/** Chunks that a handful of bookings fill; leases that run out within seconds. */
const SETTINGS: NodeJS.ProcessEnv = {
  BATCH_KEYS_MAX: '10',
  CONSUMER_LEASE_SECONDS: '2',
  PUBLISH_LEASE_SECONDS: '5',
  PUBLISH_SWEEP_CRON: FAR_CRON,
  REFRESH_CRON: FAR_CRON,
  CLEANUP_CRON: FAR_CRON,
  LOG_LEVEL: 'info',
  PORT: '0',
  TEST_CRASH_POINT: 'on',
};

async function setStage(): Promise<Stage> {
  const scene = await createScene();
  const { database, market, config } = scene;
  const actors = new Set<Actor>();
  let pipeline: Actor | undefined;
  let queue: Queue | undefined;

  // PostgreSQL finishes a slot when it next logs which transactions run: by itself every 15 seconds.
  const slotHelp = setInterval(
    () => void database.pool.query('select pg_log_standby_snapshot()').catch(() => undefined),
    SLOT_HELP_MS,
  );
  const start = async (command: 'pipeline' | 'api'): Promise<Actor> => {
    const actor = await startActor(command, {
      ...SETTINGS,
      TEST_CRASH_POINT: 'on',
      DATABASE_URL: database.url,
      MONGODB_URL: market.url,
      MONGODB_DATABASE: market.database,
      SLOT_NAME: config.slotName,
    });
    actors.add(actor);
    return actor;
  };
  const startPipeline = async (): Promise<Actor> => {
    const actor = await start('pipeline');
    await actor.service.printed(/pipeline running/);
    return actor;
  };
  return {
    scene,
    startPipeline,
    pipeline: async () => {
      if (pipeline === undefined) {
        pipeline = await startPipeline();
        await pipeline.service.logged('consumer active');
      }
      return pipeline;
    },
    setPipeline: (next) => {
      pipeline = next;
    },
    startApi: async () => {
      const actor = await start('api');
      await actor.service.printed(/API docs/);
      return actor;
    },
    trigger: async (job) => {
      queue ??= await startQueue({ databaseUrl: database.url, log: silent }, []);
      await queue.trigger(job);
    },
    stop: async () => {
      await Promise.all([...actors].map((actor) => actor.stop('SIGKILL')));
      clearInterval(slotHelp);
      await queue?.stop();
      await scene.stop();
    },
  };
}

const quiet = (): void => undefined;
const silent = { debug: quiet, info: quiet, warn: quiet, error: quiet };

/** The URL that an API process serves. */
export function urlOf({ service }: Actor): string {
  const url = /^API +(\S+)$/m.exec(service.stdout())?.[1];
  if (url === undefined) throw new Error('the API does not say where it is');
  return url;
}

/** Stages that cases borrow one after the other. One on which a case failed is not used again. */
export interface StagePool {
  use(work: (stage: Stage) => Promise<void>): Promise<void>;
  stop(): Promise<void>;
}

export function createStagePool(size: number): StagePool {
  const all = new Set<Stage>();
  const free: (Stage | undefined)[] = Array.from({ length: size }, () => undefined);
  const waiting: ((stage: Stage | undefined) => void)[] = [];
  const take = async (): Promise<Stage> => {
    const stage =
      free.length > 0 ? free.pop() : await new Promise<Stage | undefined>((resolve) => waiting.push(resolve));
    if (stage !== undefined) return stage;
    const fresh = await setStage();
    all.add(fresh);
    return fresh;
  };
  const giveBack = (stage: Stage | undefined): void => {
    const next = waiting.shift();
    if (next === undefined) free.push(stage);
    else next(stage);
  };
  return {
    use: async (work) => {
      let usable: Stage | undefined;
      try {
        const stage = await take();
        usable = stage;
        await work(stage).catch(async (error: unknown) => {
          usable = undefined;
          all.delete(stage);
          await stage.stop();
          throw error;
        });
      } finally {
        giveBack(usable);
      }
    },
    stop: async () => {
      for (const stage of all) await stage.stop();
    },
  };
}
