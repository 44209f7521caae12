import { query } from '../../src/postgres.ts';
import type { BenchCase } from '../bench-case.ts';
import { type Live, openLive, settle } from '../live.ts';
import { type Result, toResult } from '../result.ts';
import { percentile } from '../statistics.ts';
import { atRate, watchChanges } from '../watch.ts';
import { idSql } from '../world.ts';

const RATES = [
  { perSecond: 20, reaches: { 50: '<= 8', 99: '<= 25' } as Record<number, string> },
  { perSecond: 200, reaches: { 99: '<= 50' } as Record<number, string> },
  { perSecond: 400, reaches: { 99: '<= 150' } as Record<number, string> },
];

/** From commit to a read of MongoDB that sees the change. A statement is a reading, which changes 25 listings. */
export const latency: BenchCase = {
  name: 'latency',
  run: async (ctx) => {
    const locations = ctx.quick ? 400 : 2_000;
    const live = await openLive(ctx, { locations, bookings: locations * 25, readings: locations * 50 });
    const rounds = ctx.quick ? 2 : 3;
    const seconds = ctx.quick ? 2 : 15;
    await watchChanges(live, { perSecond: 20, seconds: 3, watchers: 1, seed: ctx.seed });
    const byRate = new Map<number, number[][]>(RATES.map(({ perSecond }) => [perSecond, []]));
    for (let round = 0; round < rounds; round += 1) {
      for (const { perSecond } of RATES) {
        ctx.progress(`round ${round + 1}, ${perSecond} statements/s`);
        const latencies = await watchChanges(live, {
          perSecond,
          seconds,
          watchers: 2,
          seed: ctx.seed + round,
        });
        await settle(live);
        byRate.get(perSecond)?.push(latencies);
      }
    }
    const results: Result[] = [];
    for (const { perSecond, reaches } of RATES) {
      const runs = byRate.get(perSecond) ?? [];
      for (const percent of [50, 99]) {
        const reach = reaches[percent];
        results.push(
          toResult({
            name: 'latency',
            case: `${perSecond} statements/s, p${percent}`,
            unit: 'ms',
            samples: runs.map((run) => percentile(run, percent)),
            ...(reach === undefined ? {} : { reach }),
            note: `${runs.flat().length} changes watched, ${perSecond * 25} listings/s`,
          }),
        );
      }
    }
    return [...results, ...(await traceStages(live, ctx.quick ? 3 : 10))];
  },
};

/** Where the time of single changes goes, by the pipeline's own trace. */
async function traceStages(live: Live, seconds: number): Promise<Result[]> {
  const location = 1;
  await query(
    live.pool,
    `select market_sync.trace_latency(id, '1 minute') from storage_bookings where location_id = ${idSql('location', '$1::int')} limit 1`,
    [location],
  );
  await atRate({ perSecond: 2, seconds }, (number) =>
    watchChanges(live, { perSecond: 1, seconds: 1, watchers: 1, seed: number, locations: [location] }).catch(
      () => undefined,
    ),
  );
  await settle(live);
  const STAGES = [
    ['commit to receive', 'received_at - committed_at'],
    ['receive to reconcile', 'reconcile_started_at - received_at'],
    ['reconcile', 'reconciled_at - reconcile_started_at'],
    ['reconciled to claim', 'claimed_at - reconciled_at'],
    ['claim to MongoDB reply', 'replied_at - claimed_at'],
    ['reply to mark', 'marked_at - replied_at'],
  ] as const;
  const rows = await query<Record<string, number>>(
    live.pool,
    `select ${STAGES.map(([, difference], index) => `extract(epoch from ${difference})::float8 * 1000 as s${index}`).join(', ')}
     from market_sync.latency_trace where marked_at is not null and committed_at is not null`,
  );
  return STAGES.map(([stage], index) =>
    toResult({
      name: 'latency',
      case: `trace at idle: ${stage}`,
      unit: 'ms',
      samples: rows.map((row) => row[`s${index}`] ?? 0),
    }),
  );
}
