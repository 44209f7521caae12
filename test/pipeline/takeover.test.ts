import { execFile } from 'node:child_process';
import { hostname } from 'node:os';
import { promisify } from 'node:util';
import { afterEach, beforeEach, expect, test, vi } from 'vitest';
import { query } from '../../src/postgres.ts';
import {
  insertBooking,
  insertLocation,
  insertReading,
  insertSensor,
  setQuantity,
} from '../support/application.ts';
import { until } from '../support/pipeline.ts';
import { type FaultProxy, startProxy } from '../support/proxy.ts';
import { createScene, type Scene } from '../support/scene.ts';
import { type Service, startService } from '../support/service.ts';

// Two pipelines as the processes that they are in production, with the settings that they have by default.

vi.setConfig({ testTimeout: 120_000 });

/** From the signal to a change in MongoDB (issue 3). */
const AFTER_SIGKILL_MS_MAX = 5_000;
const AFTER_SIGSTOP_MS_MAX = 15_000;

const ACTIVE = 'consumer active';
const STANDBY = 'another consumer is active, standing by';

let scene: Scene;
const services: Service[] = [];
const proxies: FaultProxy[] = [];
const watches: (() => Promise<unknown>)[] = [];

beforeEach(async () => {
  scene = await createScene();
});

afterEach(async () => {
  await Promise.all(watches.splice(0).map((stop) => stop()));
  await Promise.all(services.splice(0).map((service) => service.end()));
  await Promise.all(proxies.splice(0).map((proxy) => proxy.stop()));
  await scene?.stop();
});

async function startPipeline(settings: NodeJS.ProcessEnv = {}): Promise<Service> {
  const service = startService('pipeline', {
    DATABASE_URL: scene.database.url,
    MONGODB_URL: scene.market.url,
    MONGODB_DATABASE: scene.market.database,
    SLOT_NAME: scene.config.slotName,
    LOG_LEVEL: 'info',
    ...settings,
  });
  services.push(service);
  await service.printed(/pipeline running/);
  return service;
}

const startBoth = async (settings: NodeJS.ProcessEnv = {}): Promise<[Service, Service]> => {
  const first = await startPipeline(settings);
  await first.logged(ACTIVE);
  const second = await startPipeline();
  await second.logged(STANDBY);
  return [first, second];
};

const countLogged = (service: Service, message: string): number =>
  service.log.filter((line) => line.msg === message).length;

/** Signals, commits a change, and answers after how long it is in MongoDB. */
async function timeTakeover(service: Service, signal: 'SIGKILL' | 'SIGSTOP'): Promise<number> {
  const startedAt = performance.now();
  service.signal(signal);
  const bookingId = await insertBooking(scene.database.pool);
  await until('the change is in MongoDB', async () => (await scene.listing(bookingId)) !== undefined);
  return performance.now() - startedAt;
}

/** Who is the consumer, as PostgreSQL knows it. */
async function readPlace(): Promise<{ generation: number; holder: string; activePid: number }> {
  const [place] = await query<{ generation: number; holder: string; activePid: number }>(
    scene.database.pool,
    `select generation, holder, active_pid as "activePid"
     from market_sync.checkpoint left join pg_replication_slots slot on slot.slot_name = $1`,
    [scene.config.slotName],
  );
  if (place === undefined) throw new Error('no checkpoint');
  return place;
}

/** A reader that looks at a listing without pause and keeps what it saw go down (I3). */
function watchListing(bookingId: string): { stop(): Promise<number[]> } {
  let [stopped, newest] = [false, 0];
  const regressed: number[] = [];
  const watching = (async () => {
    while (!stopped) {
      const revision = Number((await scene.listing(bookingId))?.revision ?? 0);
      if (revision < newest) regressed.push(revision);
      newest = Math.max(newest, revision);
    }
  })();
  const stop = async (): Promise<number[]> => {
    stopped = true;
    await watching;
    return regressed;
  };
  watches.push(stop);
  return { stop };
}

/** Resolves once the operating system has stopped the process. */
const stopped = (service: Service): Promise<void> =>
  until('the process is stopped', async () => {
    const { stdout } = await promisify(execFile)('ps', ['-o', 'state=', '-p', String(service.pid)]);
    return stdout.trim().startsWith('T');
  });

test('I6, row 10: of two pipelines one works and one says that it stands by, which takes over within 5 s of a SIGKILL of the first', async () => {
  const [first, second] = await startBoth();
  expect((await readPlace()).holder).toBe(`${hostname()}:${first.pid}`);
  expect(await second.logged(STANDBY)).toMatchObject({ state: 'standby' });
  expect([countLogged(first, STANDBY), countLogged(second, ACTIVE)]).toEqual([0, 0]);
  await insertBooking(scene.database.pool);
  await scene.settle();

  const tookMs = await timeTakeover(first, 'SIGKILL');
  console.info(`a change is in MongoDB ${Math.round(tookMs)} ms after SIGKILL of the active pipeline`);
  expect(tookMs).toBeLessThan(AFTER_SIGKILL_MS_MAX);
  expect((await readPlace()).holder).toBe(`${hostname()}:${second.pid}`);
  await scene.settle();
  await scene.expectConverged();
});

test('I6, row 11: a standby takes over within 15 s of a SIGSTOP of the active pipeline, which wakes up and writes, confirms and takes nothing', async () => {
  const { pool } = scene.database;
  const [first, second] = await startBoth();
  const bookingId = await insertBooking(pool, { quantityKg: 1 });
  await scene.settle();
  const watch = watchListing(bookingId);

  const tookMs = await timeTakeover(first, 'SIGSTOP');
  console.info(`a change is in MongoDB ${Math.round(tookMs)} ms after SIGSTOP of the active pipeline`);
  expect(tookMs).toBeLessThan(AFTER_SIGSTOP_MS_MAX);
  for (const quantityKg of [2, 3, 4]) {
    await setQuantity(pool, bookingId, quantityKg);
    await scene.settle();
  }
  const [place, listing] = [await readPlace(), await scene.listing(bookingId)];
  expect(place.holder).toBe(`${hostname()}:${second.pid}`);
  const snapshots = () =>
    query(pool, 'select booking_id, epoch, revision, updated_at from market_inventory_snapshots order by 1');
  const before = await snapshots();

  first.signal('SIGCONT');
  await until('the woken one stands by', () => countLogged(first, STANDBY) === 1);
  expect(await readPlace()).toEqual(place);
  expect(await snapshots()).toEqual(before);
  expect(await scene.listing(bookingId)).toEqual(listing);
  expect(countLogged(first, ACTIVE)).toBe(1);

  // It is of use again: as the standby that it now is.
  expect(await timeTakeover(second, 'SIGKILL')).toBeLessThan(AFTER_SIGKILL_MS_MAX);
  expect((await readPlace()).holder).toBe(`${hostname()}:${first.pid}`);
  await scene.settle();
  expect(await watch.stop()).toEqual([]);
  await scene.expectConverged();
});

test('I6, row 11: a pipeline that is stopped with changes unread, and wakes when they are old, brings none of them back', async () => {
  const { pool } = scene.database;
  const [first] = await startBoth();
  const bookingId = await insertBooking(pool, { quantityKg: 1 });
  await scene.settle();
  const watch = watchListing(bookingId);
  first.signal('SIGSTOP');
  await stopped(first);
  // PostgreSQL sends these to the stopped one, and later to the other.
  for (let quantityKg = 2; quantityKg <= 50; quantityKg += 1) await setQuantity(pool, bookingId, quantityKg);
  await scene.settle();
  const [place, listing] = [await readPlace(), await scene.listing(bookingId)];
  expect(listing).toMatchObject({ quantity_kg: 50 });
  first.signal('SIGCONT');
  await until('the woken one stands by', () => countLogged(first, STANDBY) === 1);
  expect(await readPlace()).toEqual(place);
  expect(await scene.listing(bookingId)).toEqual(listing);
  expect(await watch.stop()).toEqual([]);
  await scene.expectConverged([bookingId]);
});

test.for([
  // The recompute claims, and says what a reading changed; of other changes the snapshot is read after it.
  ['a reading', 'reconcile_batch'],
  ['a change of the booking', 'read_claimed'],
] as const)(
  'I3, row 29: a publisher that is stopped with %s in its hands, and writes it long after another has published newer, changes nothing',
  async ([kind, request]) => {
    const { pool } = scene.database;
    const [database, market] = [await startProxy(scene.database.url), await startProxy(scene.market.url)];
    proxies.push(database, market);
    // Alone for now: any pipeline publishes, standby or not.
    const first = await startPipeline({
      DATABASE_URL: database.url,
      MONGODB_URL: market.url,
      PUBLISH_LEASE_SECONDS: '5',
      // The claim that is held must find the change due.
      PUBLISH_INTERVAL_MS: '0',
    });
    await first.logged(ACTIVE);
    const locationId = await insertLocation(pool);
    const sensorId = await insertSensor(pool, locationId);
    const bookingId = await insertBooking(pool, { quantityKg: 1, locationId });
    await scene.settle();
    const watch = watchListing(bookingId);

    // It waits in the network until the process is stopped; so it has its answer, and nothing done with it.
    let [reconciling, held] = [false, false];
    database.onRequest = (chunk) => {
      reconciling ||= chunk.includes('reconcile_batch');
      if (held || !reconciling || !chunk.includes(request)) return;
      held = true;
      database.hold();
    };
    const readState = async () =>
      (
        await query<{ revision: number; claimed_by: string | null }>(
          pool,
          'select revision, claimed_by from market_sync.snapshot_state where booking_id = $1',
          [bookingId],
        )
      )[0];
    await (kind === 'a reading' ? insertReading(pool, sensorId, 21) : setQuantity(pool, bookingId, 2));
    await until(
      `${request} is held`,
      async () => held && (request === 'reconcile_batch' || (await readState())?.revision === 2),
    );
    first.signal('SIGSTOP');
    await stopped(first);
    await database.release();
    const publisher = `${hostname()}:${first.pid}:pipeline:`;
    await until('it is claimed', async () => (await readState())?.claimed_by?.startsWith(publisher) === true);
    await startPipeline();
    await setQuantity(pool, bookingId, 3);
    await until('another publishes', async () => (await scene.listing(bookingId))?.quantity_kg === 3);
    await scene.settle();
    const listing = await scene.listing(bookingId);

    let lateWrites = 0;
    market.onRequest = (chunk) => {
      if (chunk.includes('market_listings') && chunk.includes(bookingId)) lateWrites += 1;
    };
    first.signal('SIGCONT');
    await until('the woken one writes', () => lateWrites > 0);
    await until('it stands by', () => countLogged(first, STANDBY) === 1);
    await setQuantity(pool, bookingId, 4);
    await scene.settle();
    expect(listing).toMatchObject({ quantity_kg: 3, revision: 3 });
    expect(await watch.stop()).toEqual([]);
    await scene.expectConverged([bookingId]);
  },
);
