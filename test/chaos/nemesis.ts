import { setTimeout as delay } from 'node:timers/promises';
import type pg from 'pg';
import { insertBooking, setQuantity } from '../support/application.ts';
import type { FaultProxy } from '../support/proxy.ts';
import { createRandom, type Random } from '../support/random.ts';
import type { Observations } from './observations.ts';
import type { Break, Planned, Role, Step } from './plan.ts';
import type { Actor, Stage } from './stage.ts';
import type { Supervised } from './supervisor.ts';

export interface NemesisContext {
  stage: Stage;
  observations: Observations;
  /** Draws what the plan leaves open: which of the backends there are. */
  random: Random;
  /** Bookings of the nemesis's own are added here. */
  bookingIds: string[];
}

/** The application may be at a stand: then the next step comes after this long. */
const WAIT_MS_MAX = 1_500;

const SLOW_MS = 30;

/** Requests pass; so many replies are lost with their connections before it mends by itself. */
const CUTS_MAX = 20;

/** Carries out the plan, until it is done or `deadline` (of `performance.now()`) has passed; then mends everything. */
export async function runNemesis(
  ctx: NemesisContext,
  plan: readonly Planned[],
  deadline: number,
): Promise<void> {
  for (const { commitsBefore, step } of plan) {
    if (performance.now() > deadline) break;
    await waitForCommits(ctx, commitsBefore);
    ctx.observations.note(`nemesis: ${JSON.stringify(step)}`);
    await perform(ctx, step);
  }
  await mendEverything(ctx);
}

/** Waits until it is so, or no longer: what is broken at the moment may keep it from ever being so. */
async function waitUpTo(
  ms: number,
  condition: () => boolean | Promise<boolean>,
  intervalMs = 20,
): Promise<void> {
  const until = performance.now() + ms;
  while (!(await condition()) && performance.now() < until) await delay(intervalMs);
}

/** False too while PostgreSQL is down. */
async function finds(pool: pg.Pool, count: number, text: string, values: unknown[]): Promise<boolean> {
  const { rowCount } = await pool.query(text, values).catch(() => ({ rowCount: 0 }));
  return rowCount === count;
}

async function waitForCommits({ observations }: NemesisContext, count: number): Promise<void> {
  const { tally } = observations;
  const enough = tally.commits + count;
  await waitUpTo(WAIT_MS_MAX, () => tally.commits >= enough, 2);
}

async function perform(ctx: NemesisContext, step: Step): Promise<void> {
  const { stage, observations } = ctx;
  switch (step.do) {
    case 'kill':
      while (!(await (await findActor(stage, step.role)).service.kill()));
      observations.tally.kills += 1;
      return;
    case 'kill postmaster':
      await stage.cluster.kill('SIGKILL');
      await stage.cluster.start();
      observations.tally.kills += 1;
      observations.tally.postmaster_kills += 1;
      return;
    case 'await consumer':
      return awaitConsumer(stage);
    case 'pause':
      return (await findActor(stage, step.role)).service.pause();
    case 'continue':
      // Whoever it was: roles change while one is stopped.
      for (const actor of actorsOf(stage)) actor.service.continue();
      return;
    case 'terminate backends':
      return terminateBackends(ctx, step.share);
    case 'drop slot':
      return dropSlot(ctx);
    case 'lose standby':
      return loseStandby(ctx);
    case 'regain standby':
      return setSynchronousStandby(ctx, '');
    case 'restart market':
      return stage.restartMarket();
    case 'delay writes':
      return delayWrites(ctx, step.role);
    case 'break':
      return breakProxy((await findActor(stage, step.role))[step.server], step.how);
    case 'mend':
      for (const actor of actorsOf(stage)) {
        // What was held arrives, late, on connections that stay.
        if (step.how === 'hold') await actor[step.server].release();
        else await mendProxy(actor[step.server]);
      }
      return;
  }
}

const actorsOf = (stage: Stage): Actor[] => [...stage.pipelines, stage.api];

/** The pipeline that has the consumer's place, by its process id in the checkpoint; the first one when nobody says. */
async function findActor(stage: Stage, role: Role): Promise<Actor> {
  if (role === 'api') return stage.api;
  const [first, second] = stage.pipelines;
  const holder = await readHolder(stage);
  const consumer = holder?.endsWith(`:${second.service.current.pid}`) === true ? second : first;
  return role === 'consumer' ? consumer : consumer === first ? second : first;
}

const awaitConsumer = ({ pool, slotName }: Stage): Promise<void> =>
  waitUpTo(6_000, () =>
    finds(pool, 1, 'select from pg_replication_slots where slot_name = $1 and active', [slotName]),
  );

async function readHolder({ pool }: Stage): Promise<string | undefined> {
  const { rows } = await pool
    .query<{ holder: string | null }>('select holder from market_sync.checkpoint')
    .catch(() => ({ rows: [] }));
  return rows[0]?.holder ?? undefined;
}

async function terminateBackends({ stage, random }: NemesisContext, share: number): Promise<void> {
  const { rows } = await stage.pool
    .query<{ pid: number }>(
      `select pid from pg_stat_activity
       where backend_type in ('client backend', 'walsender') and pid <> pg_backend_pid() order by backend_start`,
    )
    .catch(() => ({ rows: [] }));
  for (const { pid } of rows.filter(() => random.chance(share))) {
    await stage.pool.query('select pg_terminate_backend($1)', [pid]).catch(() => undefined);
  }
}

/** Its consumer may take it again at once: in one statement, a few times. */
async function dropSlot({ stage, observations }: NemesisContext): Promise<void> {
  for (let attempt = 0; attempt < 20; attempt += 1) {
    const dropped = await stage.pool
      .query(
        `select pg_terminate_backend(active_pid, 5000) from pg_replication_slots where slot_name = '${stage.slotName}' and active;
         select pg_drop_replication_slot('${stage.slotName}')`,
      )
      .then(
        () => true,
        () => false,
      );
    if (dropped) {
      observations.tally.slots_dropped += 1;
      return;
    }
    await delay(10);
  }
}

/** Longer than a publisher waits for MongoDB: it gives its claims back, and the other one publishes newer versions. */
const LATE_MS = 3_000;

async function delayWrites({ stage }: NemesisContext, role: Role): Promise<void> {
  await awaitConsumer(stage);
  await Promise.all(stage.pipelines.map(({ service }) => awaitRunning(service)));
  const { market } = await findActor(stage, role);
  market.hold();
  await delay(LATE_MS);
  await market.release();
}

const awaitRunning = ({ current }: Supervised): Promise<void> =>
  waitUpTo(5_000, () => current.stdout().includes('pipeline running'));

/** Bookings that change once while nobody can see it, and never again: nothing else would put them right. */
const UNSEEN_CHANGES = 4;

/** With a standby that is not there commits are written, sent to the consumer, and visible to nobody (D3a). */
async function loseStandby(ctx: NemesisContext): Promise<void> {
  const { pool } = ctx.stage;
  const bookingIds: string[] = [];
  try {
    for (let count = 0; count < UNSEEN_CHANGES; count += 1) bookingIds.push(await insertBooking(pool));
  } catch {
    return; // PostgreSQL is down.
  }
  ctx.bookingIds.push(...bookingIds);
  // Nobody may still be busy with these when they change.
  await awaitSnapshots(pool, bookingIds);
  await setSynchronousStandby(ctx, 'nobody');
  // They end when the standby is back, or with PostgreSQL.
  for (const id of bookingIds) void setQuantity(pool, id, 2).catch(() => undefined);
}

async function setSynchronousStandby({ stage }: NemesisContext, names: string): Promise<void> {
  const client = await stage.pool.connect().catch(() => undefined);
  if (client === undefined) return;
  try {
    await client.query(`alter system set synchronous_standby_names = '${names}'`);
    await client.query('select pg_reload_conf()');
  } catch {
    // The next one sets it.
  } finally {
    client.release(true);
  }
}

function breakProxy(proxy: FaultProxy, how: Break): Promise<void> | void {
  switch (how) {
    case 'refuse':
      return proxy.refuse();
    case 'hang':
      return proxy.hang();
    case 'hold':
      return proxy.hold();
    case 'slow':
      return proxy.slow(SLOW_MS);
    case 'cut': {
      let cuts = 0;
      const random = createRandom(CUTS_MAX);
      proxy.onReply = () => {
        if (cuts >= CUTS_MAX || !random.chance(0.2)) return 'forward';
        cuts += 1;
        return 'cut';
      };
    }
  }
}

async function mendProxy(proxy: FaultProxy): Promise<void> {
  proxy.onReply = () => 'forward';
  await proxy.heal();
}

const awaitSnapshots = (pool: pg.Pool, bookingIds: readonly string[]): Promise<void> =>
  waitUpTo(2_000, () =>
    finds(pool, bookingIds.length, 'select from market_inventory_snapshots where booking_id = any($1)', [
      bookingIds,
    ]),
  );

/** While all is quiet: a consumer with nothing else to do recomputes at once what it cannot see yet (D3a). */
export async function changeUnseen(ctx: NemesisContext, settle: () => Promise<void>): Promise<void> {
  const ROUNDS = 3;
  const UNSEEN_MS = 300;
  for (let round = 0; round < ROUNDS; round += 1) {
    await loseStandby(ctx);
    await delay(UNSEEN_MS);
    await setSynchronousStandby(ctx, '');
    await settle();
  }
}

async function mendEverything(ctx: NemesisContext): Promise<void> {
  for (const actor of actorsOf(ctx.stage)) {
    await mendProxy(actor.market);
    await mendProxy(actor.database);
    actor.service.continue();
  }
  await setSynchronousStandby(ctx, '');
}
