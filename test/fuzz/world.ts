import type pg from 'pg';
import { type RunningApi, startApi } from '../../src/api/server.ts';
import { ensureListingIndexes } from '../../src/mongo.ts';
import { query } from '../../src/postgres.ts';
import { publishContext } from '../../src/store/publish.ts';
import { apiContext, giveListingId, insertBooking } from '../api/setup.ts';
import { createLogins } from '../sql/logins.ts';
import { testLog, until } from '../support/pipeline.ts';
import { createScene, type Scene } from '../support/scene.ts';
import { type Credential, makeCredentials } from './credentials.ts';

/** The real API on a port of its own and as the login that it should have, beside a pipeline with little to do. */
export interface World {
  scene: Scene;
  pool: pg.Pool;
  api: RunningApi;
  credentials: Credential[];
  bookings: Bookings;
  /** Rejected when the pipeline fails. */
  failed: Promise<never>;
  stop(): Promise<void>;
}

export interface Bookings {
  live: string[];
  cancelled: string;
  /** Its snapshot cannot be computed. */
  uncomputable: string;
  /** Its listing cannot be written. */
  unpublishable: string;
  /** Ended before anybody saw it: it never had a snapshot. */
  unseen: string;
}

const SETTING_KEY = 'correct-horse-battery-staple';

export async function createWorld(): Promise<World> {
  const scene = await createScene({ settings: { PUBLISH_ATTEMPTS_MAX: '1' } });
  const { pool, url } = scene.database;
  await ensureListingIndexes(scene.market.market);
  const pipeline = await scene.start();
  const bookings = await makeBookings(scene);
  const logins = createLogins({ admin: pool, url });
  const login = await logins.create(['market_sync_api']);
  const credentials = await makeCredentials(pool, { settingKey: SETTING_KEY });
  const log = testLog();
  const { market } = scene.market;
  const api = await startApi(
    {
      ...apiContext({ pool: login.pool, market, log, apiKey: SETTING_KEY, requireKey: true }),
      publish: publishContext({
        config: scene.config,
        pool: login.pool,
        market,
        log,
        random: Math.random,
        role: 'api',
      }),
    },
    { host: '127.0.0.1', port: 0 },
  );
  return {
    scene,
    pool,
    api,
    credentials,
    bookings,
    failed: pipeline.failed,
    stop: async () => {
      await api.stop();
      await logins.endPools();
      await scene.stop();
      await logins.drop();
    },
  };
}

async function makeBookings(scene: Scene): Promise<Bookings> {
  const { pool } = scene.database;
  await query(
    pool,
    `create function refuse_poison() returns trigger language plpgsql as $$
     begin
       if new.crop_type = 'Poison' then raise exception 'poison' using errcode = '22003'; end if;
       return new;
     end $$`,
  );
  await query(
    pool,
    `create trigger refuse_poison before insert or update on market_inventory_snapshots
       for each row execute function refuse_poison()`,
  );
  const make = async (cropType: string): Promise<string> =>
    (await insertBooking(pool, { cropType })).bookingId;
  const end = (id: string) =>
    query(pool, `update storage_bookings set booking_status = 'cancelled' where id = $1`, [id]);
  const live = [
    await make('Tomato'),
    await make('Potato'),
    await make('Grüner Tee 💣'),
    await make('Tomato'),
  ];
  const [cancelled, uncomputable, unpublishable] = [
    await make('Tomato'),
    await make('Poison'),
    await make('Onion'),
  ];
  await scene.settle();
  await end(cancelled);
  const unseen = await query<{ id: string }>(
    pool,
    `insert into storage_bookings (farmer_id, crop_type, quantity_kg, booking_status)
     values (gen_random_uuid(), 'Tomato', 1, 'completed') returning id`,
  );
  await scene.market.market.listings.deleteOne({ booking_id: unpublishable });
  const taken = await query<{ market_listing_id: string }>(
    pool,
    'select market_listing_id from market_inventory_snapshots where booking_id = $1',
    [live[0]],
  );
  await giveListingId(pool, unpublishable, taken[0]?.market_listing_id ?? '');
  await query(pool, 'update storage_bookings set quantity_kg = 7 where id = $1', [unpublishable]);
  await scene.settle();
  return { live, cancelled, uncomputable, unpublishable, unseen: unseen[0]?.id ?? '' };
}

export const allBookings = ({ live, ...others }: Bookings): string[] => [...live, ...Object.values(others)];

/** Brings back what actions have taken away, so that the next ones can be done; audited as done in SQL. */
export async function restore({ pool, bookings }: World): Promise<void> {
  await query(pool, `select market_sync.resume() from market_sync.checkpoint where paused_at is not null`);
  // Each in a transaction of its own: several that lock one booking after another could wait for a publisher in a circle.
  const release =
    'select market_sync.release(array_agg(booking_id)) from market_sync.manual_state having count(*) > 0';
  await query(pool, release);
  const overridden = await query<{ booking_id: string }>(pool, 'select booking_id from market_sync.override');
  for (const { booking_id } of overridden)
    await query(pool, 'select market_sync.end_override($1)', [booking_id]);
  const parked = async (): Promise<boolean> => {
    const rows = await query(pool, 'select from market_sync.parked where booking_id = any ($1)', [
      [bookings.uncomputable, bookings.unpublishable],
    ]);
    return rows.length === 2;
  };
  // One that changed while it failed is not parked for that, and its next attempt may be a minute away.
  const again = `select market_sync.publish_now(array[booking_id]) from market_sync.snapshot_state
    where booking_id = $1 and parked_at is null and next_attempt_at > clock_timestamp()`;
  await until('what cannot be done is parked again', async () => {
    await query(pool, again, [bookings.unpublishable]);
    return parked();
  });
}

/** As much as a request could change, at one moment. */
export interface State {
  /** Differs when anything does that nothing but a manual action changes here. */
  fingerprint: string;
  parked: string[];
  /** Entries of the audit log. */
  audited: number;
  lastAction: number;
  /** Those after the state that was given. */
  newActions: AuditedAction[];
  tasks: number;
  /** Changes of all snapshots that a buyer can see. */
  revisions: number;
}

interface AuditedAction {
  id: number;
  action: string;
  actor: string;
  via: string;
  request_id: string | null;
  idempotency_key: string | null;
}

/** What the pipeline writes beside it (published versions, claims, progress) is left out. */
const FINGERPRINT = [
  'select * from market_sync.manual_state',
  'select * from market_sync.override',
  'select paused_at, paused_by, pause_reason, epoch, revision_floor from market_sync.checkpoint',
  'select prefix, secret_hash, name, role, created_at, created_by, expires_at, revoked_at from market_sync.api_key',
  `select id, kind, requested_by, requested_at, state = 'cancelled' from market_sync.task`,
  'select count(*), max(id), max(reason) from market_sync.resync',
  'select * from market_sync.settings',
  'select * from storage_bookings',
  `select booking_id, epoch, revision, own_hash, parts_hash, ended_at,
     case when status in ('ready_to_publish', 'publishing', 'published') then 'live' else status end
   from market_inventory_snapshots`,
].map((rows) => `(select string_agg(t::text, '|' order by t::text) from (${rows}) t)`);

/** Quick enough to be asked after every request. `since`: which actions count as new. */
export async function readState(pool: pg.Pool, since: State | undefined): Promise<State> {
  const rows = await query<State & Record<string, unknown>>(
    pool,
    `select md5(concat_ws(E'\\n', ${FINGERPRINT.join(', ')})) as fingerprint,
      (select coalesce(array_agg(booking_id::text order by booking_id), '{}') from market_sync.snapshot_state
       where parked_at is not null) as parked,
      (select count(*)::int from market_sync.manual_action) as audited,
      (select coalesce(max(id), 0)::int from market_sync.manual_action) as "lastAction",
      (select coalesce(jsonb_agg(to_jsonb(a) - array['at', 'db_user'] order by id), '[]')
       from market_sync.manual_action a where id > $1) as "newActions",
      (select count(*)::int from market_sync.task) as tasks,
      (select sum(revision)::int from market_inventory_snapshots) as revisions`,
    [since?.lastAction ?? 2 ** 40],
  );
  const state = rows[0];
  if (state === undefined) throw new Error('no state');
  return state;
}
