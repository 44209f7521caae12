import { readdir, readFile } from 'node:fs/promises';
import { setTimeout as delay } from 'node:timers/promises';
import { type Service, startService } from '../../test/support/service.ts';
import type { BenchCase, BenchContext } from '../bench-case.ts';
import { type Live, openLive, residentBytes, settle } from '../live.ts';
import { type Result, toResult } from '../result.ts';
import { median, percentile } from '../statistics.ts';
import { watchChanges } from '../watch.ts';
import { SENSORS_PER_LOCATION } from '../world.ts';

const BOOKINGS = [10_000, 100_000, 1_000_000];
const BOOKINGS_PER_LOCATION = 25;
const READINGS_PER_SENSOR = 2;
const CHANGES_PER_SECOND = 20;
const REACH = '<= 1.3';

interface Stage {
  bookings: number;
  live: Live;
  pipeline: Service;
  cpuMs: number[];
  latencyMs: number[];
  idleMb: number[];
}

/** What a change costs, and what an idle pipeline holds, in markets of different sizes: side by side, in turn. */
export const scale: BenchCase = {
  name: 'scale',
  run: async (ctx) => {
    const stages: Stage[] = [];
    for (const bookings of ctx.quick ? BOOKINGS.slice(0, 2) : BOOKINGS) {
      stages.push(await openStage(ctx, bookings));
    }
    const rounds = ctx.quick ? 2 : 7;
    const seconds = ctx.quick ? 2 : 5;
    for (let round = -1; round < rounds; round += 1) {
      ctx.progress(`round ${round + 1} of ${rounds}`);
      for (const stage of round % 2 === 0 ? stages : stages.toReversed()) {
        await measure(stage, { seconds, seed: ctx.seed + round, counts: round >= 0 });
      }
    }
    return toResults(stages);
  },
};

async function openStage(ctx: BenchContext, bookings: number): Promise<Stage> {
  const locations = bookings / BOOKINGS_PER_LOCATION;
  const live = await openLive(ctx, {
    locations,
    bookings,
    readings: locations * SENSORS_PER_LOCATION * READINGS_PER_SENSOR,
  });
  // A process that has published all of it holds what that took: an idle one has done nothing yet.
  await live.pipeline.end('SIGTERM');
  const pipeline = ctx.scope.add(
    startService('pipeline', {
      DATABASE_URL: live.cluster.url('world'),
      MONGODB_URL: live.marketUrl,
      MONGODB_DATABASE: live.market.listings.dbName,
      LOG_LEVEL: 'info',
      PUBLISH_SWEEP_CRON: '0 0 1 1 *',
      REFRESH_CRON: '0 0 1 1 *',
    }),
    (service) => service.end('SIGTERM'),
  );
  await pipeline.logged('consumer active');
  await settle({ ...live, pipeline });
  return { bookings, live: { ...live, pipeline }, pipeline, cpuMs: [], latencyMs: [], idleMb: [] };
}

async function measure(
  stage: Stage,
  { seconds, seed, counts }: { seconds: number; seed: number; counts: boolean },
): Promise<void> {
  const { live, pipeline } = stage;
  const before = await cpuMs(stage);
  const latencies = await watchChanges(live, { perSecond: CHANGES_PER_SECOND, seconds, watchers: 1, seed });
  await settle(live);
  const cost = ((await cpuMs(stage)) - before) / (CHANGES_PER_SECOND * seconds);
  await delay(1_000); // What is to be idle has come to rest.
  if (!counts) return;
  stage.cpuMs.push(cost);
  stage.latencyMs.push(percentile(latencies, 50));
  stage.idleMb.push((await residentBytes(pipeline.pid)) / 1024 ** 2);
}

const TICK_MS = 10;

/** Processor time of the pipeline and of its PostgreSQL so far, the application's share included. MongoDB's is not ours. */
async function cpuMs({ live, pipeline }: Stage): Promise<number> {
  const [postmaster, wanted] = [live.cluster.pid(), new Set([pipeline.pid, live.cluster.pid()])];
  let ticks = 0;
  for (const name of await readdir('/proc')) {
    if (!/^\d+$/.test(name)) continue;
    const stat = await readFile(`/proc/${name}/stat`, 'utf8').catch(() => undefined);
    if (stat === undefined) continue;
    const fields = stat
      .slice(stat.lastIndexOf(')') + 2)
      .split(' ')
      .map(Number);
    const [parent, user = 0, system = 0, childUser = 0, childSystem = 0] = [1, 11, 12, 13, 14].map(
      (field) => fields[field],
    );
    if (parent !== postmaster && !wanted.has(Number(name))) continue;
    ticks += user + system;
    // Of backends that have ended.
    if (Number(name) === postmaster) ticks += childUser + childSystem;
  }
  return ticks * TICK_MS;
}

function toResults(stages: Stage[]): Result[] {
  const [first, last] = [stages[0], stages.at(-1)];
  if (first === undefined || last === undefined) throw new Error('scale: nothing measured');
  const sizes = `${last.bookings.toLocaleString('en')} against ${first.bookings.toLocaleString('en')} bookings`;
  const told = (values: (stage: Stage) => number[], digits: number, unit: string): string =>
    stages
      .map(
        (stage) => `${stage.bookings.toLocaleString('en')}: ${median(values(stage)).toFixed(digits)} ${unit}`,
      )
      .join(', ');
  const compare = (what: string, values: (stage: Stage) => number[], note: string, reach?: string): Result =>
    toResult({
      name: 'scale',
      case: `${what}, ${sizes}`,
      unit: '×',
      samples: values(last).map((value, round) => value / (values(first)[round] ?? Number.NaN)),
      ...(reach === undefined ? {} : { reach }),
      note,
    });
  return [
    compare(
      'processor time of a change',
      (stage) => stage.cpuMs,
      told((stage) => stage.cpuMs, 1, 'ms'),
      REACH,
    ),
    compare(
      'commit to listing, p50',
      (stage) => stage.latencyMs,
      told((stage) => stage.latencyMs, 1, 'ms'),
    ),
    compare(
      'idle memory',
      (stage) => stage.idleMb,
      told((stage) => stage.idleMb, 0, 'MB'),
      REACH,
    ),
  ];
}
