import { setTimeout as delay } from 'node:timers/promises';
import { afterAll, beforeAll, expect, type TestContext, test } from 'vitest';
import { query } from '../../src/postgres.ts';
import { insertBooking as insertWholeBooking } from '../api/setup.ts';
import { insertBooking, setQuantity } from '../support/application.ts';
import { startCluster, type TestCluster } from '../support/cluster.ts';
import { until } from '../support/pipeline.ts';
import { createScene, type Scene } from '../support/scene.ts';
import { readExamples } from './guide.ts';
import { createLogins, type Login, type Logins } from './logins.ts';

// docs/dba.md, word by word: every statement as the role it names, beside a running pipeline on other connections, and
// each does what the page says. A cluster of its own, because the page changes settings and roles.

const BOOKING = 'fac6d754-a26c-44cb-a47c-0dc5de58a252';

/** What the issue promises, with slack for a busy machine: what was measured is annotated. */
const EFFECT_MS_MAX = 5_000;

let cluster: TestCluster;
let scene: Scene;
let logins: Logins;
const byRole = new Map<string, Login>();
let heldId: string;
let parkedId: string;

beforeAll(async () => {
  cluster = await startCluster({ fsync: false });
  scene = await createScene({ cluster, settings: { PUBLISH_ATTEMPTS_MAX: '1' } });
  const { pool, url } = scene.database;
  logins = createLogins({ admin: pool, url });
  for (const role of ['market_sync_reader', 'market_sync_operator', 'market_sync_admin']) {
    byRole.set(role, await logins.create([role]));
  }
  await insertBooking(pool, { id: BOOKING });
  heldId = (await insertWholeBooking(pool)).bookingId;
  parkedId = await insertBooking(pool);
  await scene.start();
  await scene.settle();
  await setQuantity(pool, BOOKING, 5);
  await scene.settle();

  // Poison: with the id of another booking's listing, this one's can never be written.
  const taken = await scene.listing(heldId);
  await scene.market.market.listings.deleteOne({ booking_id: parkedId });
  await giveListingId(String(taken?._id));
  await setQuantity(pool, parkedId, 2);
  await until('it is parked', async () => (await query(pool, 'select from market_sync.parked')).length === 1);
  await giveListingId(null);
  const operator = loginOf('market_sync_operator').pool;
  await query(operator, 'select market_sync.hold(array[$1::uuid], $2)', [heldId, 'being looked at']);
  await query(operator, `select market_sync.set_override($1, 'looks fine', p_grade => 'A')`, [BOOKING]);
  await scene.settle();
});

afterAll(async () => {
  await logins?.endPools();
  await scene?.stop();
  await cluster?.stop();
});

const giveListingId = (listingId: string | null): Promise<unknown> =>
  query(
    scene.database.pool,
    'update market_inventory_snapshots set market_listing_id = $2, published_at = null where booking_id = $1',
    [parkedId, listingId],
  );

function loginOf(role: string): Login {
  const login = byRole.get(role);
  if (login === undefined) throw new Error(`no login in ${role}`);
  return login;
}

type Row = Record<string, unknown>;

interface Ran {
  /** Rows of each statement. */
  results: Row[][];
  /** When the first statement was sent, by `performance.now()`. */
  startedAt: number;
  annotate: TestContext['annotate'];
}

interface Check {
  role: string;
  before?: () => Promise<void>;
  does: (ran: Ran) => Promise<void>;
}

const [READER, OPERATOR, ADMIN, SUPERUSER] = [
  'market_sync_reader',
  'market_sync_operator',
  'market_sync_admin',
  'a superuser',
];

const status = async (): Promise<Row> => {
  const [row] = await query<Row>(loginOf(READER).pool, 'select * from market_sync.status');
  if (row === undefined) throw new Error('no status');
  return row;
};

/** The last row of the audit log. */
const lastAction = async (): Promise<Row | undefined> =>
  (
    await query<Row>(
      loginOf(READER).pool,
      'select action, actor, via, reason, booking_ids from market_sync.audit_log order by id desc limit 1',
    )
  )[0];

async function expectAudited(
  action: string,
  { role, reason }: { role: string; reason: string | null },
): Promise<void> {
  expect(await lastAction()).toMatchObject({ action, actor: loginOf(role).name, via: 'sql', reason });
}

/** Waits until it shows, and says how long that took since the statement was sent. */
async function expectWithin(
  { startedAt, annotate }: Ran,
  what: string,
  shows: () => Promise<boolean>,
): Promise<void> {
  await until(what, shows, EFFECT_MS_MAX);
  await annotate(`${what} after ${Math.round(performance.now() - startedAt)} ms`);
}

async function auditInSql(repair: string): Promise<void> {
  const rows = await query<Row>(loginOf(ADMIN).pool, `select market_sync.audit('a test', $1)`, [repair]);
  await untilAudited(rows[0]?.audit);
}

const untilAudited = (id: unknown): Promise<unknown> =>
  until('the audit is done', async () => {
    const rows = await query(
      scene.database.pool,
      `select from market_sync.audit_run where id = $1 and state = 'done'`,
      [id],
    );
    return rows.length === 1;
  });

const listingSays = async (field: string, value: unknown): Promise<boolean> =>
  ((await scene.listing(BOOKING)) as Row | undefined)?.[field] === value;

/** An application that does not stop writing. */
let stopWriting: (() => Promise<number>) | undefined;
function startWriting(): void {
  const abort = new AbortController();
  const run = async (): Promise<number> => {
    let quantity = 1_000;
    while (!abort.signal.aborted) {
      quantity += 1;
      await setQuantity(scene.database.pool, BOOKING, quantity);
      await delay(10);
    }
    return quantity;
  };
  const ended = run();
  stopWriting = () => {
    abort.abort();
    return ended;
  };
}

const CHECKS: Record<string, Check> = {
  status: {
    role: READER,
    does: async ({ results: [rows] }) => {
      expect(rows).toHaveLength(1);
      expect(rows?.[0]).toMatchObject({
        consumer_state: 'active',
        paused_at: null,
        slot_state: 'ok',
        slot_active: true,
        epoch: 1,
        snapshots: 3,
        to_publish: 0,
        parked: 1,
        held: 1,
        resync_id: null,
        migration: expect.stringMatching(/^\d{3}_\w+\.sql$/),
      });
      expect(Number(rows?.[0]?.lag_seconds)).toBeLessThan(EFFECT_MS_MAX / 1_000);
    },
  },
  slot_health: {
    role: READER,
    does: async ({ results: [rows] }) => {
      expect(rows).toEqual([
        {
          state: 'ok',
          wal_status: 'reserved',
          retained: expect.stringMatching(/^\d+ (bytes|kB|MB)$/),
          safe: null,
          active_pid: expect.any(Number),
        },
      ]);
    },
  },
  queue: {
    role: READER,
    does: async ({ results: [rows = []] }) => {
      const counts = Object.fromEntries(rows.map((row) => [row.state, row.count]));
      expect(counts).toEqual({
        to_publish: 0,
        in_work: 0,
        waiting_for_retry: 0,
        parked: 1,
        held: 1,
        due_for_refresh: 0,
      });
    },
  },
  parked: {
    role: READER,
    does: async ({ results: [rows] }) => {
      expect(rows).toMatchObject([{ booking_id: parkedId, stage: 'publish', attempts: 1 }]);
      expect(rows?.[0]?.error).toMatch(/listing/i);
    },
  },
  'held and overrides': {
    role: READER,
    does: async ({ results: [held, overrides] }) => {
      expect(held).toMatchObject([
        { booking_id: heldId, state: 'held', reason: 'being looked at', actor: loginOf(OPERATOR).name },
      ]);
      expect(overrides).toMatchObject([{ booking_id: BOOKING, grade: 'A', reason: 'looks fine' }]);
    },
  },
  audit_log: {
    role: READER,
    does: async ({ results: [last, ofBooking] }) => {
      expect(last?.map((row) => row.action)).toEqual(['set_override', 'hold']);
      expect(ofBooking?.map((row) => row.action)).toEqual(['set_override']);
    },
  },
  revisions: {
    role: READER,
    does: async ({ results: [rows] }) => {
      expect(rows?.[0]).toMatchObject({ revision: 1, status: 'ready_to_publish', cause: 'new' });
      expect(rows?.[1]).toMatchObject({ cause: 'own' });
      expect(rows?.at(-1)).toMatchObject({ cause: 'manual' });
    },
  },
  'jobs and schedules': {
    role: READER,
    does: async ({ results: [, schedules] }) => {
      expect(schedules?.map((row) => row.queue).toSorted()).toEqual(
        expect.arrayContaining(['cleanup', 'publish-sweep', 'refresh']),
      );
    },
  },
  'latency and throughput': {
    role: READER,
    does: async ({ results: [latency, throughput] }) => {
      expect(latency?.map((row) => [row.stage, row.window_minutes])).toEqual(
        ['listing', 'snapshot'].flatMap((stage) => [1, 15, 60].map((minutes) => [stage, minutes])),
      );
      for (const row of latency ?? []) expect(Number(row.count)).toBeGreaterThan(0);
      expect(throughput).toHaveLength(10);
      expect(throughput?.some((row) => Number(row.published) > 0)).toBe(true);
    },
  },
  drift: {
    role: READER,
    before: () =>
      until('listings were compared', async () => {
        return (await query(loginOf(READER).pool, 'select from market_sync.drift')).length > 0;
      }),
    does: async ({ results: [rows] }) => {
      expect(rows).toContainEqual(expect.objectContaining({ kind: 'versions', found: 0 }));
    },
  },
  drift_findings: {
    role: READER,
    before: async () => {
      await scene.market.market.listings.updateOne({ booking_id: BOOKING }, { $set: { quantity_kg: -1 } });
      await auditInSql('off');
    },
    does: async ({ results: [rows] }) => {
      expect(rows).toEqual([
        {
          kind: 'listing_differs',
          booking_id: BOOKING,
          listing_id: String((await scene.listing(BOOKING))?._id),
          fields: ['quantity_kg'],
          repaired: false,
        },
      ]);
    },
  },
  audits: {
    role: READER,
    does: async ({ results: [rows] }) => {
      expect(rows?.[0]).toMatchObject({ state: 'done', repair: 'off', found: 1, repaired: 0, error: null });
      expect(rows?.[0]?.kinds).toEqual({ listing_differs: { found: 1, repaired: 0 } });
    },
  },
  hold: {
    role: OPERATOR,
    does: async (ran) => {
      await expectWithin(ran, 'the listing is held', () => listingSays('status', 'held'));
      await expectAudited('hold', { role: OPERATOR, reason: 'quality complaint 4711' });
      await setQuantity(scene.database.pool, BOOKING, 77);
      await until('it follows its source', () => listingSays('quantity_kg', 77));
      expect(await listingSays('status', 'held')).toBe(true);
    },
  },
  withdraw: {
    role: OPERATOR,
    does: async (ran) => {
      await expectWithin(ran, 'the listing is withdrawn', () => listingSays('status', 'withdrawn'));
      await expectAudited('withdraw', { role: OPERATOR, reason: 'sold elsewhere' });
    },
  },
  release: {
    role: OPERATOR,
    does: async (ran) => {
      await expectWithin(ran, 'the listing is back', () => listingSays('status', 'published'));
      await expectAudited('release', { role: OPERATOR, reason: 'complaint settled' });
    },
  },
  set_override: {
    role: OPERATOR,
    does: async (ran) => {
      await expectWithin(ran, 'the listing is corrected', () => listingSays('quality_score', 61.5));
      expect(await listingSays('grade', 'B')).toBe(true);
      await expectAudited('set_override', { role: OPERATOR, reason: 'inspected again' });
    },
  },
  end_override: {
    role: OPERATOR,
    does: async (ran) => {
      await expectWithin(ran, 'the listing says what the source says', () => listingSays('quality_score', 0));
      expect(ran.results).toEqual([[{ end_override: true }]]);
      await expectAudited('end_override', { role: OPERATOR, reason: 'new inspection is in' });
    },
  },
  reconcile: {
    role: OPERATOR,
    does: async ({ results }) => {
      expect(results).toMatchObject([[{ booking_id: BOOKING, changed: false }]]);
      await expectAudited('reconcile', { role: OPERATOR, reason: null });
    },
  },
  publish_now: {
    role: OPERATOR,
    before: async () => {
      await scene.market.market.listings.deleteOne({ booking_id: BOOKING });
    },
    does: async (ran) => {
      await expectWithin(ran, 'the listing is written again', async () => listingSays('status', 'published'));
      await expectAudited('publish_now', { role: OPERATOR, reason: null });
    },
  },
  retry_parked: {
    role: OPERATOR,
    does: async (ran) => {
      expect(ran.results).toEqual([[{ retry_parked: 1 }]]);
      await expectWithin(
        ran,
        'it is published',
        async () => (await scene.listing(parkedId))?.quantity_kg === 2,
      );
      expect(await status()).toMatchObject({ parked: 0 });
      await expectAudited('retry_parked', { role: OPERATOR, reason: null });
    },
  },
  pause: {
    role: ADMIN,
    before: async () => {
      startWriting();
      await until(
        'the listing follows',
        async () => Number((await scene.listing(BOOKING))?.quantity_kg) > 1_005,
      );
    },
    does: async ({ startedAt, annotate }) => {
      // Writes go on: the pause has taken effect when the listing changed last.
      let last: { quantity: unknown; at: number } = { quantity: undefined, at: performance.now() };
      await until('nothing reaches the listing', async () => {
        const quantity = (await scene.listing(BOOKING))?.quantity_kg;
        if (quantity !== last.quantity) last = { quantity, at: performance.now() };
        return performance.now() - last.at > 1_500;
      });
      const effectMs = Math.max(last.at - startedAt, 0);
      await annotate(`the listing changed last ${Math.round(effectMs)} ms after pause() was sent`);
      expect(effectMs).toBeLessThan(EFFECT_MS_MAX);
      expect(await status()).toMatchObject({
        consumer_state: 'active',
        paused_by: loginOf(ADMIN).name,
        pause_reason: 'MongoDB is being upgraded',
      });
      expect(Number((await status()).lag_seconds)).toBeGreaterThan(1);
      await expectAudited('pause', { role: ADMIN, reason: 'MongoDB is being upgraded' });
    },
  },
  resume: {
    role: ADMIN,
    does: async (ran) => {
      const [row] = await query<{ quantity_kg: number }>(
        scene.database.pool,
        'select quantity_kg from storage_bookings where id = $1',
        [BOOKING],
      );
      await expectWithin(
        ran,
        'what waited is in the listing',
        async () => Number((await scene.listing(BOOKING))?.quantity_kg) >= (row?.quantity_kg ?? Infinity),
      );
      const written = await stopWriting?.();
      await until('the last change, too', () => listingSays('quantity_kg', written));
      expect(await status()).toMatchObject({ paused_at: null });
      await expectAudited('resume', { role: ADMIN, reason: null });
    },
  },
  resync: {
    role: ADMIN,
    does: async () => {
      const reason = 'triggers were disabled over the weekend';
      await expectAudited('resync', { role: ADMIN, reason });
      await until('it is done', async () => (await status()).resync_id === null);
      const done = await query<Row>(
        scene.database.pool,
        'select phase, bookings_done from market_sync.resync where reason = $1',
        [reason],
      );
      expect(done).toEqual([{ phase: 'done', bookings_done: 3 }]);
    },
  },
  backfill: {
    role: ADMIN,
    does: async ({ results: [asked, rows], ...ran }) => {
      await expectAudited('backfill', { role: ADMIN, reason: 'the old system is off' });
      expect(rows).toHaveLength(1);
      const id = asked?.[0]?.backfill;
      await expectWithin({ results: [], ...ran }, 'it has begun', async () => {
        const [row] = await query<Row>(
          loginOf(READER).pool,
          'select started_at from market_sync.backfills where id = $1',
          [id],
        );
        return row?.started_at !== null;
      });
      await until('it is done', async () => {
        const [row] = await query<Row>(
          loginOf(READER).pool,
          'select state, done from market_sync.backfills where id = $1',
          [id],
        );
        return row?.state === 'done' && row.done === 3;
      });
    },
  },
  cancel_task: {
    role: ADMIN,
    before: async () => {
      await query(loginOf(ADMIN).pool, `select market_sync.pause('so that it stays open')`);
      await query(loginOf(ADMIN).pool, `select market_sync.backfill('to be cancelled')`);
    },
    does: async () => {
      await expectAudited('cancel', { role: ADMIN, reason: 'not in office hours' });
      const states = await query<Row>(
        loginOf(READER).pool,
        'select state from market_sync.backfills order by requested_at',
      );
      expect(states.map((row) => row.state)).toEqual(['done', 'cancelled']);
      await query(loginOf(ADMIN).pool, 'select market_sync.resume()');
    },
  },
  audit: {
    role: ADMIN,
    before: async () => {
      await scene.settle();
      await scene.market.market.listings.updateOne({ booking_id: BOOKING }, { $set: { quantity_kg: -1 } });
    },
    does: async ({ results: [asked] }) => {
      await expectAudited('audit', { role: ADMIN, reason: 'somebody edited listings by hand' });
      await untilAudited(asked?.[0]?.audit);
      expect(await listingSays('quantity_kg', -1)).toBe(false);
      expect(
        await query<Row>(
          loginOf(READER).pool,
          `select kind from market_sync.drift_findings where audit_id = $1 and not repaired`,
          [asked?.[0]?.audit],
        ),
      ).toEqual([]);
    },
  },
  'login roles': {
    role: SUPERUSER,
    does: async () => {
      const made = await query<Row>(
        scene.database.pool,
        `select rolname as name, rolreplication as replicates,
           pg_has_role(oid, 'market_sync_reader', 'usage') as looks,
           pg_has_role(oid, 'market_sync_publisher', 'usage') as publishes, pg_has_role(oid, 'market_sync_api', 'usage') as serves
         from pg_roles where rolname in ('ana', 'sync_pipeline', 'sync_api') order by 1`,
      );
      expect(made).toEqual([
        { name: 'ana', replicates: false, looks: true, publishes: false, serves: false },
        { name: 'sync_api', replicates: false, looks: false, publishes: false, serves: true },
        { name: 'sync_pipeline', replicates: true, looks: false, publishes: true, serves: false },
      ]);
    },
  },
  'who holds up recomputes': {
    role: SUPERUSER,
    before: async () => {
      const client = await loginOf(OPERATOR).pool.connect();
      await client.query('begin');
      await client.query('select market_sync.reconcile(array[$1::uuid])', [BOOKING]);
      release = async () => {
        await client.query('rollback');
        client.release();
      };
    },
    does: async ({ results: [rows] }) => {
      await release?.();
      expect(rows).toContainEqual(
        expect.objectContaining({ usename: loginOf(OPERATOR).name, granted: true }),
      );
    },
  },
  'limit the WAL': {
    role: SUPERUSER,
    does: async () => {
      await until('the setting is in force', async () => {
        const [row] = await query<Row>(
          scene.database.pool,
          'select kept_wal_bytes from market_sync.slot_health',
        );
        return row?.kept_wal_bytes === 64 * 1024 ** 3;
      });
    },
  },
  'is the slot on the standby': {
    role: SUPERUSER,
    does: async ({ results: [rows] }) => {
      expect(rows).toContainEqual({
        slot_name: scene.config.slotName,
        failover: true,
        synced: false,
        kept: true,
        valid: true,
      });
    },
  },
  'drop the slot': {
    role: SUPERUSER,
    before: async () => {
      await scene.stopPipelines();
      await until('nobody streams', async () => (await status()).slot_active === false);
    },
    does: async () => {
      expect(await status()).toMatchObject({ slot_state: 'missing', consumer_state: 'absent' });
      // And a pipeline that comes all the same makes another, and computes everything again.
      await scene.start();
      await scene.settle();
      expect(await status()).toMatchObject({ slot_state: 'ok', epoch: 2 });
    },
  },
  partitions: {
    role: READER,
    does: async ({ results }) => {
      expect(results).toEqual([[]]); // Here they are not partitioned.
    },
  },
};

let release: (() => Promise<void>) | undefined;

const EXAMPLES = readExamples({ booking: BOOKING });

test('every block of the guide is checked, and every check has its block', () => {
  expect(EXAMPLES.map(({ heading }) => heading)).toEqual(Object.keys(CHECKS));
});

test.for(EXAMPLES)('docs/dba.md: $heading, as $role', async (example, { annotate }) => {
  const check = CHECKS[example.heading];
  if (check === undefined) throw new Error('unchecked');
  expect(example.role).toBe(check.role);
  await check.before?.();
  const pool = example.role === SUPERUSER ? scene.database.pool : loginOf(example.role).pool;
  const startedAt = performance.now();
  const results: Row[][] = [];
  for (const statement of example.statements) results.push(await query<Row>(pool, statement));
  await check.does({ results, startedAt, annotate });
});
