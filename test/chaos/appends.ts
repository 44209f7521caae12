import { setTimeout as delay } from 'node:timers/promises';
import type pg from 'pg';
import { describeError } from '../../src/errors.ts';
import type { Market } from '../../src/mongo.ts';
import { insertBooking, insertInspection, insertLocation } from '../support/application.ts';
import type { Random } from '../support/random.ts';
import type { Observations } from './observations.ts';
import { isExcused } from './writers.ts';

// Jepsen's list-append, over two tables: each transaction appends its own number to the inspection's defects and to the
// detection's action of one booking. A listing shows both lists, so it shows whether it has seen all of a transaction,
// in order, and nothing that was rolled back.

/** Appends that a booking takes before another one is begun: the lists are read whole every time. */
const APPENDS_PER_BOOKING = 400;

/** Transactions that take their append back. */
const ROLLED_BACK = 0.2;

const RETRY_MS = 50;

export interface AppendContext {
  pool: pg.Pool;
  market: Market;
  observations: Observations;
  pauseMs: number;
}

interface List {
  bookingId: string;
  inspectionId: string;
  locationId: string;
  left: number;
  /** The longest that a reader has seen. */
  seen: string;
  rolledBack: Set<string>;
}

export interface Appends {
  bookingIds(): string[];
  stop(): Promise<void>;
  /** After everything has settled: what readers saw was the beginning of what there is now. */
  check(): Promise<void>;
}

/** Starts `appenders` sessions, all appending to the same few lists, and a reader of the listings. */
export function startAppends(
  ctx: AppendContext,
  { appenders, lists: width, random }: { appenders: number; lists: number; random: Random },
): Appends {
  const all: List[] = [];
  const current: (List | undefined)[] = Array.from({ length: width });
  let [stopped, reading] = [false, true];
  let last = 0;

  const append = async (own: Random): Promise<void> => {
    const place = own.below(width);
    const list = current[place];
    if (list === undefined || list.left <= 0) {
      const begun = await beginList(ctx.pool);
      all.push(begun);
      current[place] = begun;
      return;
    }
    list.left -= 1;
    last += 1;
    await appendOne(ctx, list, { item: `,${last}`, committed: !own.chance(ROLLED_BACK) });
  };
  const run = async (own: Random): Promise<void> => {
    while (!stopped) {
      try {
        await append(own);
        await delay(ctx.pauseMs * 2 * own.next());
      } catch (error) {
        if (!isExcused(error)) {
          ctx.observations.violation('application_errors', `append: ${describeError(error)}`);
        }
        await delay(RETRY_MS);
      }
    }
  };
  const readAll = async (): Promise<void> => {
    while (reading) {
      for (const list of current) {
        // The stand-in may be between two lives.
        if (list !== undefined) await readList(ctx, list).catch((error: unknown) => note(error));
      }
      await delay(ctx.pauseMs);
    }
  };
  const note = (error: unknown): void => ctx.observations.note(`reader: ${describeError(error)}`);
  const running = Array.from({ length: appenders }, () => run(random.fork()));
  const reader = readAll();
  return {
    bookingIds: () => all.map((list) => list.bookingId),
    stop: async () => {
      stopped = true;
      await Promise.all(running);
    },
    check: async () => {
      reading = false;
      await reader;
      for (const list of all) await checkList(ctx, list);
    },
  };
}

async function beginList(pool: pg.Pool): Promise<List> {
  const client = await pool.connect();
  try {
    await client.query('begin');
    const locationId = await insertLocation(client);
    const inspectionId = await insertInspection(client, '');
    await client.query(
      `insert into pest_detections (location_id, pest_type, action_taken, detected_at) values ($1, 'moth', '', clock_timestamp())`,
      [locationId],
    );
    const bookingId = await insertBooking(client, { locationId, inspectionId });
    await client.query('commit');
    return {
      bookingId,
      inspectionId,
      locationId,
      left: APPENDS_PER_BOOKING,
      seen: '',
      rolledBack: new Set(),
    };
  } finally {
    client.release(true);
  }
}

async function appendOne(
  { pool, observations }: AppendContext,
  list: List,
  { item, committed }: { item: string; committed: boolean },
): Promise<void> {
  // Said before it is sent: whoever sees it afterwards has seen something that was never committed.
  if (!committed) list.rolledBack.add(item);
  const client = await pool.connect();
  let broken = true;
  try {
    await client.query('begin');
    await client.query('update crop_inspections set visual_defects = visual_defects || $2 where id = $1', [
      list.inspectionId,
      item,
    ]);
    await client.query(
      'update pest_detections set action_taken = action_taken || $2 where location_id = $1',
      [list.locationId, item],
    );
    await client.query(committed ? 'commit' : 'rollback');
    broken = false;
    if (committed) {
      observations.tally.appends += 1;
      observations.tally.operations += 2;
      observations.tally.commits += 1;
    }
  } finally {
    client.release(broken);
  }
}

async function readList({ market, observations }: AppendContext, list: List): Promise<void> {
  const listing = await market.listings.findOne({ booking_id: list.bookingId });
  if (listing === null) return;
  observations.tally.reads += 1;
  const defects = listing.visual_defects;
  const action = (listing.pest_events[0] as { action_taken?: string } | undefined)?.action_taken;
  if (defects !== action) {
    observations.violation('appends_torn', `${list.bookingId}: ${tail(defects)} beside ${tail(action)}`);
  }
  if (!isPrefix(list.seen, defects)) {
    observations.violation(
      'appends_out_of_order',
      `${list.bookingId}: ${tail(defects)} after ${tail(list.seen)}`,
    );
  }
  for (const item of items(defects.slice(list.seen.length))) {
    if (list.rolledBack.has(item)) {
      observations.violation('appends_rolled_back', `${list.bookingId}: ${item} was rolled back`);
    }
  }
  list.seen = defects;
}

async function checkList({ pool, observations }: AppendContext, list: List): Promise<void> {
  const { rows } = await pool.query<{ visual_defects: string }>(
    'select visual_defects from crop_inspections where id = $1',
    [list.inspectionId],
  );
  const final = rows[0]?.visual_defects ?? '';
  // A commit whose answer was lost may have happened or not; what readers saw of it must have.
  if (!isPrefix(list.seen, final)) {
    observations.violation(
      'appends_out_of_order',
      `${list.bookingId}: ${tail(final)} at the end, after ${tail(list.seen)}`,
    );
  }
}

const items = (list: string): string[] => list.match(/,\d+/g) ?? [];

/** Of whole items: `,1` does not begin `,12`. */
const isPrefix = (beginning: string, list: string): boolean =>
  list === beginning || (list.startsWith(beginning) && (list[beginning.length] ?? ',') === ',');

const tail = (list: string | undefined): string => (list === undefined ? 'nothing' : `…${list.slice(-40)}`);
