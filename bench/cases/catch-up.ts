import type pg from 'pg';
import type { ConsumeContext } from '../../pipeline/consume.ts';
import { Decoder } from '../../pipeline/decode.ts';
import { DirtySet } from '../../pipeline/dirty.ts';
import { startReplication } from '../../pipeline/replication.ts';
import { identifyServer } from '../../pipeline/replication-server.ts';
import { Wakeup } from '../../pipeline/wakeup.ts';
import { writeBatch } from '../../pipeline/write-batch.ts';
import { MESSAGE_PREFIX, parseCaptureMessage } from '../../src/domain/change.ts';
import { type Lsn, parseLsn } from '../../src/lsn.ts';
import { acquireConsumer, beginHistory } from '../../src/store/checkpoint.ts';
import type { TestCluster } from '../../test/support/cluster.ts';
import type { BenchCase, BenchContext } from '../bench-case.ts';
import { type Result, toResult } from '../result.ts';
import { log, makeDatabase, openCluster } from '../stage.ts';
import { median } from '../statistics.ts';
import { idSql, SENSORS_PER_LOCATION } from '../world.ts';

/** As the settings are by default. */
const BATCH_KEYS_MAX = 250;
const PENDING_KEYS_MAX = 100_000;
const LEASE_SECONDS = 3_600;

const LOCATIONS = 200;
const BOOKINGS_PER_LOCATION = 25;

interface Load {
  case: string;
  reach: string;
  rows: number;
  /** Writes the readings, the same for the same number. */
  sql: (round: number) => string;
}

/**
 * The same readings worked off from the slot: with one message a statement, as this project captures them, and with
 * every row published. Everything after the stream is the same: the set of dirty keys, and the recompute.
 */
export const catchUp: BenchCase = {
  name: 'catch-up',
  run: async (ctx) => {
    const cluster = await openCluster(ctx.scope, { autovacuum: 'off' });
    const locations = ctx.quick ? LOCATIONS / 10 : LOCATIONS;
    const messages = await openSide(ctx, cluster, { name: 'messages', locations });
    const rows = await openSide(ctx, cluster, { name: 'rows', locations });
    const results: Result[] = [];
    for (const load of loads(ctx.quick, locations)) {
      ctx.progress(`${load.rows} readings, ${load.case}`);
      const times = { messages: [] as number[], rows: [] as number[] };
      const recomputed = { messages: 0, rows: 0 };
      const ratios: number[] = [];
      const repetitions = ctx.quick ? 3 : 5;
      // The first round fills the caches and counts for nothing.
      for (let round = -1; round < repetitions; round += 1) {
        const order = round % 2 === 0 ? [messages, rows] : [rows, messages];
        for (const side of order) {
          const stretch = await write(side, load.sql(round));
          const worked = await workOff(side, stretch);
          recomputed[side.name] = worked.bookings;
          if (round >= 0) times[side.name].push(worked.elapsedMs);
        }
        const [ours, theirs] = [times.messages.at(-1), times.rows.at(-1)];
        if (ours !== undefined && theirs !== undefined) ratios.push(theirs / ours);
      }
      const shown = (values: number[]): string => `${Math.round(median(values))} ms`;
      results.push(
        toResult({
          name: 'catch-up',
          case: load.case,
          unit: '×',
          samples: ratios,
          reach: load.reach,
          note: `${load.rows} readings: a message a statement ${shown(times.messages)} (${recomputed.messages} snapshots recomputed), a row each ${shown(times.rows)} (${recomputed.rows})`,
        }),
      );
    }
    return results;
  },
};

function loads(quick: boolean, locations: number): Load[] {
  const statements = quick ? 50 : 200;
  const singles = quick ? 5_000 : 50_000;
  const copied = quick ? 20_000 : 200_000;
  const columns = 'insert into sensor_readings (sensor_id, reading_value, reading_unit, reading_time)';
  const sensor = (number: string): string => idSql('sensor', number);
  // Each statement from one location's gateway, which sends what its sensors have gathered.
  const gateway = (statement: string, rowCount: number): string => `${columns}
    select ${sensor(`((${statement}) % ${locations}) * ${SENSORS_PER_LOCATION} + i % ${SENSORS_PER_LOCATION} + 1`)},
      20 + i % 7, '°C', clock_timestamp() from generate_series(1, ${rowCount}) i`;
  const loop = (count: number, statement: string): string => `do $$ begin
    set local synchronous_commit = off;
    for n in 1 .. ${count} loop ${statement}; commit; set local synchronous_commit = off; end loop;
  end $$`;
  return [
    {
      case: '1,000-row inserts',
      reach: '>= 3.5',
      rows: statements * 1_000,
      sql: (round) => loop(statements, gateway(`n * 7 + ${round + 1}`, 1_000)),
    },
    {
      // A loader's one statement, readings in order of time: COPY fires the same trigger, once.
      case: 'COPY',
      reach: '>= 3.5',
      rows: copied,
      sql: () => `${columns}
        select ${sensor(`i % ${locations * SENSORS_PER_LOCATION} + 1`)}, 20 + i % 7, '°C', clock_timestamp()
        from generate_series(1, ${copied}) i`,
    },
    {
      case: 'single rows',
      reach: '>= 1.1',
      rows: singles,
      sql: () =>
        loop(
          singles,
          `${columns} values (${sensor(`n % ${locations * SENSORS_PER_LOCATION} + 1`)}, 20 + n % 7, '°C', clock_timestamp())`,
        ),
    },
  ];
}

interface Side {
  name: 'messages' | 'rows';
  url: string;
  pool: pg.Pool;
  control: pg.PoolClient;
  slotName: string;
  generation: number;
}

interface Stretch {
  startLsn: Lsn;
  endLsn: Lsn;
}

async function openSide(
  ctx: BenchContext,
  cluster: TestCluster,
  { name, locations }: { name: Side['name']; locations: number },
): Promise<Side> {
  const { url, pool } = await makeDatabase(ctx.scope, cluster, {
    name,
    size: {
      locations,
      bookings: locations * BOOKINGS_PER_LOCATION,
      readings: locations * SENSORS_PER_LOCATION * 10,
    },
    seed: ctx.seed,
    migrated: true,
  });
  if (name === 'rows') {
    for (const event of ['insert', 'update', 'delete', 'truncate']) {
      await pool.query(`drop trigger market_sync_${event} on sensor_readings`);
    }
    await pool.query('alter publication market_sync add table sensor_readings');
  }
  await pool.query(
    `select market_sync.reconcile_bookings(array_agg(id), null)
     from (select id, row_number() over (order by id) / 1000 as chunk from storage_bookings) b group by chunk`,
  );
  await pool.query('vacuum analyze');
  const slotName = `bench_${name}`;
  const created = await pool.query<{ lsn: string }>(CREATE_SLOT, [slotName]);
  const generation = await acquireConsumer(pool, { holder: 'bench', slotName, leaseSeconds: LEASE_SECONDS });
  if (generation === undefined) throw new Error('the consumer has its place already');
  const { systemIdentifier, timeline } = await identifyServer(url);
  await beginHistory(pool, {
    generation,
    slotName,
    systemIdentifier,
    timeline,
    commitLsn: parseLsn(created.rows[0]?.lsn ?? ''),
    cut: false,
    marketEpoch: 0,
    reason: 'bench',
  });
  const control = ctx.scope.add(await pool.connect(), async (client) => client.release(true));
  return { name, url, pool, control, slotName, generation };
}

const CREATE_SLOT = `select lsn::text from pg_create_logical_replication_slot($1, 'pgoutput')`;

/** A reader that has gone may still be on its way out. */
async function dropSlot(pool: pg.Pool, slotName: string): Promise<void> {
  await pool.query(
    'select pg_terminate_backend(active_pid, 5000) from pg_replication_slots where slot_name = $1 and active',
    [slotName],
  );
  await pool.query('select pg_drop_replication_slot($1)', [slotName]);
}

/** Runs the statement where the slot sees nothing else, and says between which positions. */
async function write({ pool, slotName }: Side, sql: string): Promise<Stretch> {
  // Anew, because one that is moved on may begin to read where it stood before, through what the other side has written.
  await dropSlot(pool, slotName);
  // Of one size for every round; the slot does not see it.
  await pool.query('truncate sensor_readings');
  const created = await pool.query<{ lsn: string }>(CREATE_SLOT, [slotName]);
  await pool.query(sql);
  await pool.query('checkpoint');
  const end = await pool.query<{ lsn: string }>('select pg_current_wal_insert_lsn()::text as lsn');
  // Behind the end, so that a transaction passes it, and on disk, so that nothing waits for the WAL writer.
  await pool.query(`select pg_logical_emit_message(true, 'bench', 'end')`);
  return { startLsn: parseLsn(created.rows[0]?.lsn ?? ''), endLsn: parseLsn(end.rows[0]?.lsn ?? '') };
}

/** As the consumer's session does it, without lease, signals and checks. Times are from the stream's beginning. */
async function workOff(
  side: Side,
  { startLsn, endLsn }: Stretch,
): Promise<{ elapsedMs: number; bookings: number }> {
  const { pool, url, slotName, generation, control } = side;
  const context: ConsumeContext = {
    pool,
    databaseUrl: url,
    log,
    slotName,
    holder: 'bench',
    leaseSeconds: LEASE_SECONDS,
    batchKeysMax: BATCH_KEYS_MAX,
    pendingKeysMax: PENDING_KEYS_MAX,
    slotFailover: false,
    clock: () => undefined,
    readMarketEpoch: async () => 0,
    random: Math.random,
  };
  const dirty = new DirtySet(startLsn);
  const wakeup = new Wakeup();
  let paused = false;
  let bookings = 0;
  const replication = await startReplication({
    url,
    slotName,
    startLsn,
    silenceMaxMs: 600_000,
    decoder: new Decoder(side.name === 'rows' ? 'sensor_id' : 'id'),
    onChange: (change) => {
      if (change.kind === 'begin') dirty.begin(change);
      // The rows are readings: no booking is written here.
      else if (change.kind === 'booking') dirty.addMessage({ v: 1, sensor: change.bookingIds });
      else if (change.kind === 'message' && change.prefix === MESSAGE_PREFIX) {
        const message = parseCaptureMessage(change.content);
        if (message === undefined) throw new Error('a message that cannot be parsed');
        dirty.addMessage(message);
      } else if (change.kind === 'commit') {
        dirty.commit(change.endLsn);
        wakeup.notify();
      }
      if (!paused && dirty.isFull(PENDING_KEYS_MAX)) {
        paused = true;
        replication.pause();
        wakeup.notify();
      }
    },
    onKeepalive: () => undefined,
  });
  const startedAt = performance.now();
  const { signal } = new AbortController();
  try {
    while (dirty.received < endLsn || dirty.hasWork) {
      if (!dirty.hasWork) {
        await Promise.race([wakeup.wait(1_000), replication.ended]);
        continue;
      }
      const batch = dirty.take(BATCH_KEYS_MAX);
      const work = { control, generation, batch, signal, stopIfNeeded: () => undefined };
      bookings += (await writeBatch(context, work)).bookings;
      if (paused && !dirty.isFull(PENDING_KEYS_MAX / 2)) {
        paused = false;
        replication.resume();
      }
    }
    return { elapsedMs: performance.now() - startedAt, bookings };
  } finally {
    await replication.confirm(endLsn);
    await replication.stop();
  }
}
