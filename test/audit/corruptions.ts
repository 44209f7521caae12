import { randomUUID } from 'node:crypto';
import { type Collection, ObjectId } from 'mongodb';
import type pg from 'pg';
import type { Market } from '../../src/mongo.ts';
import type { FindingKind } from '../../src/store/drift-run.ts';

/** One way to make something wrong, and what an audit must say of it. */
export interface Corruption {
  name: string;
  /** Of each booking that it is done to; `strays` are of documents that no booking's id leads to. */
  expected: FindingKind;
  strays?: true;
  /** Which bookings it can be done to; live ones unless named. */
  of?: 'ended' | 'gone';
  /** Does it to these bookings. What stands under another id than the booking's is answered. */
  corrupt: (servers: Servers, bookingIds: string[]) => Promise<string[] | undefined>;
}

interface Servers {
  pool: pg.Pool;
  market: Market;
}

type Change = Record<string, unknown> | Record<string, unknown>[];

const listings = (market: Market) => market.listings as unknown as Collection<Document>;
interface Document {
  [field: string]: unknown;
  _id: unknown;
}

/** An edit of the documents themselves. */
const edit = (name: string, expected: FindingKind, change: Change): Corruption => ({
  name,
  expected,
  corrupt: async ({ market }, ids) => {
    await listings(market).updateMany({ booking_id: { $in: ids } }, change as never);
    return undefined;
  },
});

/** An edit that depends on what the document says. */
const rewrite = (
  name: string,
  expected: FindingKind,
  make: (document: Document) => Record<string, unknown>,
): Corruption => ({
  name,
  expected,
  corrupt: async ({ market }, ids) => {
    for (const document of await listings(market)
      .find({ booking_id: { $in: ids } })
      .toArray()) {
      const { _id, ...made }: Document = { ...document, ...make(document) };
      if (_id === document._id) {
        await listings(market).replaceOne({ _id: document._id } as never, made as never);
      } else {
        await listings(market).deleteOne({ _id: document._id } as never);
        await listings(market).insertOne({ _id, ...made } as never);
      }
    }
    return undefined;
  },
});

/** An edit of the snapshots' rows. */
const sql = (name: string, expected: FindingKind, text: string, of?: Corruption['of']): Corruption => ({
  name,
  expected,
  ...(of === undefined ? {} : { of }),
  corrupt: async ({ pool }, ids) => {
    await pool.query(text, [ids]);
    return undefined;
  },
});

const snapshots = 'update market_inventory_snapshots set';
const states = 'update market_sync.snapshot_state set';
const chosen = 'where booking_id = any ($1)';

const add = (
  name: string,
  expected: FindingKind,
  make: (document: Document, id: string) => Record<string, unknown>,
  strays?: true,
): Corruption => ({
  name,
  expected,
  ...(strays === undefined ? {} : { strays }),
  corrupt: async ({ market }, ids) => {
    const subjects: string[] = [];
    for (const document of await listings(market)
      .find({ booking_id: { $in: ids } })
      .toArray()) {
      const added: Document = { ...document, _id: new ObjectId(), ...make(document, randomUUID()) };
      await listings(market).insertOne(added as never);
      subjects.push(strays ? String(added._id) : String(added.booking_id));
    }
    return subjects;
  },
});

export const CORRUPTIONS: Corruption[] = [
  edit('a number as a text', 'listing_differs', { $set: { quantity_kg: '1000' } }),
  edit('another number', 'listing_differs', { $set: { quantity_kg: -1 } }),
  edit('a field edited deep inside', 'listing_differs', { $set: { 'metadata.sensor_health': 'bad' } }),
  edit('a field added deep inside', 'listing_differs', { $set: { 'metadata.extra': 1 } }),
  edit('a reading edited', 'listing_differs', { $set: { 'sensors.temperature.value': '4' } }),
  edit('a reading taken away', 'listing_differs', { $unset: { 'sensors.co2': '' } }),
  edit('a field missing', 'listing_differs', { $unset: { grade: '' } }),
  edit('a field null', 'listing_differs', { $set: { crop_type: null } }),
  edit('a time as a date', 'listing_differs', { $set: { start_date: new Date() } }),
  edit('an object as an array', 'listing_differs', { $set: { sensor_summary: [] } }),
  edit('off the market', 'listing_differs', { $set: { status: 'withdrawn' } }),
  edit('a guard as texts', 'listing_differs', { $set: { epoch: '1', revision: '1' } }),
  edit('no guard', 'listing_differs', { $unset: { epoch: '', revision: '' } }),
  edit('a revision with a fraction', 'listing_ahead', { $inc: { revision: 0.5 } }),
  rewrite('an array turned round', 'listing_differs', ({ pest_events: events }) => ({
    pest_events: (events as unknown[]).toReversed(),
  })),
  edit('an older revision', 'listing_stale', { $inc: { revision: -1 } }),
  edit('an older epoch', 'listing_stale', { $inc: { epoch: -1 } }),
  edit('a newer revision', 'listing_ahead', { $inc: { revision: 5 } }),
  edit('an absurd revision', 'listing_ahead', { $set: { revision: 2 ** 52 } }),
  edit('a newer epoch', 'listing_ahead', { $inc: { epoch: 40 } }),
  edit('an absurd epoch', 'listing_ahead', { $set: { epoch: 2 ** 45 } }),
  {
    name: 'deleted',
    expected: 'listing_missing',
    corrupt: async ({ market }, ids) => {
      await listings(market).deleteMany({ booking_id: { $in: ids } });
      return undefined;
    },
  },
  rewrite('put back under another _id', 'listing_id', () => ({ _id: new ObjectId() })),
  rewrite('put back under an _id of another type', 'listing_id', ({ booking_id }) => ({
    _id: `id of ${booking_id}`,
  })),
  add('a second one', 'listing_duplicate', () => ({})),
  add('one of no booking', 'listing_orphan', (_, id) => ({ booking_id: id })),
  add('a legacy one of no booking', 'listing_orphan', (_, id) => ({
    booking_id: id,
    epoch: null,
    revision: null,
  })),
  add('a booking_id that is an ObjectId', 'listing_stray', () => ({ booking_id: new ObjectId() }), true),
  add('a booking_id in capitals', 'listing_stray', (_, id) => ({ booking_id: id.toUpperCase() }), true),
  add('a booking_id that is a number', 'listing_stray', () => ({ booking_id: Math.random() }), true),

  sql('a column', 'snapshot_differs', `${snapshots} crop_type = 'Gold' ${chosen}`),
  sql('json', 'snapshot_differs', `${snapshots} sensors = sensors || '{"co2": {"value": 1}}' ${chosen}`),
  sql('json null', 'snapshot_differs', `${snapshots} certificates = null ${chosen}`),
  sql('an empty list', 'snapshot_differs', `${snapshots} pest_events = '[]' ${chosen}`),
  sql('metadata', 'snapshot_differs', `${snapshots} metadata = metadata || '{"extra": true}' ${chosen}`),
  sql(
    'the time of change',
    'snapshot_differs',
    `${snapshots} updated_at = now() - interval '1 day' ${chosen}`,
  ),
  sql('quality', 'snapshot_differs', `${snapshots} quality_score = 1 ${chosen}`),
  sql(
    'content with its hashes',
    'snapshot_differs',
    `${snapshots} grade = 'Z', own_hash = 7, parts_hash = 8 ${chosen}`,
  ),
  sql('a column that buyers do not see', 'snapshot_differs', `${snapshots} inspection_id = null ${chosen}`),
  sql('status', 'snapshot_differs', `${snapshots} status = 'completed' ${chosen}`),
  sql('an end', 'snapshot_differs', `${snapshots} ended_at = now() ${chosen}`),
  sql('a hash', 'snapshot_hash', `${snapshots} own_hash = 1 ${chosen}`),
  sql('no hash', 'snapshot_hash', `${snapshots} parts_hash = null ${chosen}`),
  sql('a revision', 'state_differs', `${snapshots} revision = revision + 3 ${chosen}`),
  sql('an epoch', 'state_differs', `${snapshots} epoch = 77 ${chosen}`),
  sql('the id of the listing', 'listing_id', `${snapshots} market_listing_id = 'nonsense' ${chosen}`),
  sql('when it was published', 'listing_differs', `${snapshots} published_at = '2020-01-01' ${chosen}`),
  sql('snapshots deleted', 'snapshot_missing', `delete from market_inventory_snapshots ${chosen}`),
  sql('states deleted', 'state_missing', `delete from market_sync.snapshot_state ${chosen}`),
  sql('marked as published far ahead', 'state_differs', `${states} published_revision = 99 ${chosen}`),
  sql('never refreshed', 'state_differs', `${states} next_refresh_at = null ${chosen}`),
  sql('an ended one edited', 'snapshot_differs', `${snapshots} quantity_kg = 1 ${chosen}`, 'ended'),
  sql(
    'an ended one back on the market',
    'snapshot_differs',
    `${snapshots} status = 'published' ${chosen}`,
    'ended',
  ),
  sql(
    'one of a deleted booking back on the market',
    'snapshot_differs',
    `${snapshots} status = 'published' ${chosen}`,
    'gone',
  ),
  {
    name: 'a state of nothing',
    expected: 'state_orphan',
    corrupt: async ({ pool }, ids) => {
      const orphans = ids.map(() => randomUUID());
      await pool.query(
        'insert into market_sync.snapshot_state (booking_id, epoch, revision, published_epoch, published_revision) select id, 1, 5, 1, 5 from unnest($1::uuid[]) id',
        [orphans],
      );
      return orphans;
    },
  },
  // Nothing on the change stream says so, as when a trigger was disabled for a moment.
  sql(
    'what it is made from changed unseen',
    'snapshot_differs',
    `insert into market_sync.override (booking_id, grade, reason, actor) select id, 'Q', 'unseen', 'nobody' from unnest($1::uuid[]) id`,
  ),
];
