import { afterAll, beforeAll, beforeEach, expect, test } from 'vitest';
import { auditEntrySchema } from '../../src/api/audit-resource.ts';
import { snapshotSchema } from '../../src/api/snapshot-resource.ts';
import { query } from '../../src/postgres.ts';
import { publishBatch } from '../../src/store/publish.ts';
import {
  createTestApi,
  expectProblem,
  insertBooking,
  insertSnapshot,
  setBookingStatus,
  type TestApi,
} from './setup.ts';

let api: TestApi;
beforeAll(async () => {
  api = await createTestApi();
});
afterAll(() => api.drop());
beforeEach(() =>
  query(
    api.database.pool,
    'truncate market_sync.manual_action, market_sync.manual_state, market_sync.override',
  ),
);

const UNKNOWN = '00000000-0000-4000-8000-000000000009';

const call = (method: string, path: string, body?: object, headers: Record<string, string> = {}) =>
  api.app.request(`/storage-guard/snapshots/${path}`, {
    method,
    headers: { ...headers, ...(body === undefined ? {} : { 'content-type': 'application/json' }) },
    ...(body === undefined ? {} : { body: JSON.stringify(body) }),
  });

interface Answer {
  message: string;
  snapshot: ReturnType<typeof snapshotSchema.parse>;
  override: Record<string, unknown>;
}

async function answerOf(response: Promise<Response> | Response): Promise<Answer> {
  const settled = await response;
  const body = (await settled.json()) as Answer;
  expect([settled.status, body]).toEqual([200, expect.objectContaining({ success: true })]);
  if (body.snapshot !== undefined) snapshotSchema.parse(body.snapshot);
  return body;
}

const audited = () =>
  query<{ action: string; actor: string; via: string; reason: string | null; booking_ids: string[] | null }>(
    api.database.pool,
    'select action, actor, via, reason, booking_ids from market_sync.audit_log order by id',
  );

const publishAll = () => publishBatch(api.ctx.publish, { limit: 1_000 });
const statusInMarket = async (bookingId: string): Promise<unknown> =>
  (await api.market.market.listings.findOne({ booking_id: bookingId }))?.status;

test('a listing that is held leaves the market, says why, and comes back when it is released', async () => {
  const { bookingId } = await insertSnapshot(api.database.pool);
  await publishAll();
  const held = await answerOf(call('POST', `${bookingId}/hold`, { reason: ' the weight is disputed ' }));
  expect(held.message).toBe('the listing is held');
  expect(held.snapshot).toMatchObject({
    status: 'held',
    revision: 2,
    manual_state: { state: 'held', reason: 'the weight is disputed', actor: 'local' },
  });
  await publishAll();
  expect(await statusInMarket(bookingId)).toBe('held');
  const released = await answerOf(call('POST', `${bookingId}/release`, {}));
  expect(released.snapshot).toMatchObject({ status: 'ready_to_publish', revision: 3, manual_state: null });
  await publishAll();
  expect(await statusInMarket(bookingId)).toBe('published');
  expect(await audited()).toEqual([
    {
      action: 'hold',
      actor: 'local',
      via: 'http',
      reason: 'the weight is disputed',
      booking_ids: [bookingId],
    },
    { action: 'release', actor: 'local', via: 'http', reason: null, booking_ids: [bookingId] },
  ]);
});

test('a listing that is withdrawn by hand is a tombstone, and a release without a body brings it back', async () => {
  const { bookingId } = await insertSnapshot(api.database.pool);
  const gone = await answerOf(call('POST', `${bookingId}/withdraw`, { reason: 'sold elsewhere' }));
  expect(gone.snapshot).toMatchObject({ status: 'withdrawn', manual_state: { state: 'withdrawn' } });
  await publishAll();
  expect(await statusInMarket(bookingId)).toBe('withdrawn');
  expect((await answerOf(call('POST', `${bookingId}/release`))).snapshot.status).toBe('ready_to_publish');
});

test('what is held or withdrawn cannot be published: 400 with the reason, and nothing is audited', async () => {
  const { bookingId } = await insertSnapshot(api.database.pool);
  await answerOf(call('POST', `${bookingId}/hold`, { reason: 'mould?' }));
  const held = await expectProblem(await call('POST', `${bookingId}/publish`), 'not_publishable');
  expect(held.detail).toBe('The listing is held (mould?). Release it first.');
  await answerOf(call('POST', `${bookingId}/withdraw`, { reason: 'mould' }));
  const withdrawn = await expectProblem(await call('POST', `${bookingId}/publish`), 'not_publishable');
  expect(withdrawn.detail).toContain('withdrawn by hand (mould)');
  expect((await audited()).map((row) => row.action)).toEqual(['hold', 'withdraw']);
});

test('what the state of things forbids is 409, an unknown booking 404, a malformed body 400: nothing is audited', async () => {
  const { pool } = api.database;
  const { bookingId } = await insertSnapshot(pool);
  await expectProblem(await call('POST', `${bookingId}/release`), 'conflict');
  const ended = await insertSnapshot(pool);
  await setBookingStatus(pool, ended.bookingId, 'completed');
  await expectProblem(await call('POST', `${ended.bookingId}/hold`, { reason: 'x' }), 'conflict');
  for (const action of ['hold', 'withdraw', 'release']) {
    await expectProblem(await call('POST', `${UNKNOWN}/${action}`, { reason: 'x' }), 'not_found');
    await expectProblem(await call('POST', `${bookingId}/${action}`, { reason: '  ' }), 'malformed_request');
    await expectProblem(
      await call('POST', `${bookingId}/${action}`, { reason: 'x'.repeat(501) }),
      'malformed_request',
    );
    await expectProblem(
      await call('POST', `${bookingId}/${action}`, { reason: 'x', also: 1 }),
      'malformed_request',
    );
  }
  await expectProblem(await call('POST', `${bookingId}/hold`), 'malformed_request');
  expect(await audited()).toEqual([]);
});

test('publish, reconcile, sync-all and retry write one audit row each, and none when they are refused', async () => {
  const { pool } = api.database;
  const { bookingId } = await insertSnapshot(pool);
  await answerOf(call('POST', `${bookingId}/publish`));
  await answerOf(call('POST', `${bookingId}/reconcile`));
  await insertSnapshot(pool);
  await answerOf(call('POST', 'sync-all'));
  await query(
    pool,
    `update market_sync.snapshot_state set parked_at = now(), last_error = 'x', failed_stage = 'publish',
       first_failed_at = now(), last_failed_at = now() where booking_id = $1`,
    [bookingId],
  );
  const retry = (id: string) => api.app.request(`/pipeline/parked/${id}/retry`, { method: 'POST' });
  expect((await retry(bookingId)).status).toBe(200);
  expect((await audited()).map((row) => [row.action, row.booking_ids])).toEqual([
    ['publish_now', [bookingId]],
    ['reconcile', [bookingId]],
    ['sync_all', null],
    ['retry_parked', [bookingId]],
  ]);
  await query(pool, 'truncate market_sync.manual_action');
  await expectProblem(await retry(bookingId), 'not_parked');
  await expectProblem(await call('POST', `${UNKNOWN}/publish`), 'not_found');
  await expectProblem(await call('POST', `${UNKNOWN}/reconcile`), 'not_found');
  await setBookingStatus(pool, bookingId, 'cancelled');
  await expectProblem(await call('POST', `${bookingId}/publish`), 'not_publishable');
  expect(await audited()).toEqual([]);
});

test('a reconcile that parks the booking is audited, though it is answered 422', async () => {
  const { pool } = api.database;
  const { bookingId } = await insertBooking(pool);
  await query(
    pool,
    `create function refuse_reconcile() returns trigger language plpgsql as
     $$ begin raise exception 'no such quantity' using errcode = '22003'; end $$;
     create trigger refuse_reconcile before insert on market_inventory_snapshots
       for each row execute function refuse_reconcile()`,
  );
  try {
    await expectProblem(await call('POST', `${bookingId}/reconcile`), 'not_processable');
  } finally {
    await query(pool, 'drop trigger refuse_reconcile on market_inventory_snapshots');
  }
  expect((await audited()).map((row) => row.action)).toEqual(['reconcile']);
});

test('an override speaks in the snapshot, with an ETag; ending it lets the source speak again', async () => {
  const { bookingId } = await insertSnapshot(api.database.pool);
  await expectProblem(await call('GET', `${bookingId}/override`), 'not_found');
  const put = await call('PUT', `${bookingId}/override`, {
    grade: 'B',
    quality_score: 12.345,
    special_notes: 'smells',
    reason: 'seen by me',
    expires_at: '2999-01-01T00:00:00+02:00',
  });
  const tag = put.headers.get('etag');
  const { override, snapshot } = await answerOf(put);
  expect(override).toMatchObject({
    grade: 'B',
    quality_score: 12.35,
    freshness: null,
    special_notes: 'smells',
    reason: 'seen by me',
    actor: 'local',
    expires_at: '2998-12-31T22:00:00.000Z',
  });
  expect(snapshot).toMatchObject({
    grade: 'B',
    quality_score: 12.35,
    freshness: 'fresh',
    metadata: { special_notes: 'smells' },
    override: ['grade', 'quality_score', 'special_notes'],
  });
  const got = await call('GET', `${bookingId}/override`);
  expect(got.headers.get('etag')).toBe(tag);
  expect(await got.json()).toEqual({ success: true, override });
  const ended = await answerOf(call('DELETE', `${bookingId}/override`));
  expect(ended.snapshot).toMatchObject({ grade: null, quality_score: 87.5, override: [] });
  await expectProblem(await call('DELETE', `${bookingId}/override`), 'not_found');
  expect((await audited()).map((row) => row.action)).toEqual(['set_override', 'end_override']);
});

test('If-Match: of two who read one override, the second to write is told so instead of overwriting the first', async () => {
  const { bookingId } = await insertSnapshot(api.database.pool);
  const path = `${bookingId}/override`;
  const put = (grade: string, headers: Record<string, string>) =>
    call('PUT', path, { grade, reason: 'x' }, headers);
  await expectProblem(await put('A', { 'if-match': '*' }), 'version_mismatch');
  const first = await put('A', { 'if-none-match': '*' });
  expect(first.status).toBe(200);
  await expectProblem(await put('B', { 'if-none-match': '*' }), 'version_mismatch');
  const tag = { 'if-match': first.headers.get('etag') ?? '' };
  const answers = await Promise.all([put('B', tag), put('C', tag)]);
  expect(answers.map((answer) => answer.status).toSorted()).toEqual([200, 412]);
  await expectProblem(await call('DELETE', path, undefined, tag), 'version_mismatch');
  const winner = answers.find((answer) => answer.status === 200);
  expect(
    (await call('DELETE', path, undefined, { 'if-match': winner?.headers.get('etag') ?? '' })).status,
  ).toBe(200);
  expect((await audited()).length).toBe(3);
});

test.each([
  ['nothing is overridden', { reason: 'x' }, 'bad_argument'],
  ['it has ended already', { grade: 'A', reason: 'x', expires_at: '2020-01-01T00:00:00Z' }, 'bad_argument'],
  ['the score is out of range', { quality_score: 101, reason: 'x' }, 'malformed_request'],
  ['the grade is too long', { grade: 'x'.repeat(17), reason: 'x' }, 'malformed_request'],
  [
    'its end has five digits in UTC',
    { grade: 'A', reason: 'x', expires_at: '9999-12-31T23:59:59-23:59' },
    'malformed_request',
  ],
  ['no time of day', { grade: 'A', reason: 'x', expires_at: 'tomorrow' }, 'malformed_request'],
] as const)('an override is refused when %s, and nothing is written', async (_, body, code) => {
  const { bookingId } = await insertSnapshot(api.database.pool);
  await expectProblem(await call('PUT', `${bookingId}/override`, body), code);
  await expectProblem(await call('GET', `${bookingId}/override`), 'not_found');
  expect(await audited()).toEqual([]);
});

test('while the pipeline is paused publishing is 409, and what is done by hand says when it arrives', async () => {
  const { bookingId } = await insertSnapshot(api.database.pool);
  const post = (path: string, body?: object) =>
    api.app.request(`/pipeline/${path}`, {
      method: 'POST',
      ...(body === undefined
        ? {}
        : { headers: { 'content-type': 'application/json' }, body: JSON.stringify(body) }),
    });
  await expectProblem(await post('resume'), 'conflict');
  await expectProblem(await post('pause', {}), 'malformed_request');
  const paused = (await (await post('pause', { reason: 'migrating' })).json()) as { paused_at: string };
  expect(Date.parse(paused.paused_at)).toBeGreaterThan(Date.now() - 60_000);
  const status = (await (await api.app.request('/pipeline/status')).json()) as { status: { paused: object } };
  expect(status.status.paused).toMatchObject({ by: 'local', reason: 'migrating' });
  await expectProblem(await call('POST', `${bookingId}/publish`), 'paused');
  await expectProblem(await call('POST', 'sync-all'), 'paused');
  const held = await answerOf(call('POST', `${bookingId}/hold`, { reason: 'x' }));
  expect(held.message).toBe(
    'the listing is held; the pipeline is paused, so it reaches MongoDB when that is resumed',
  );
  expect((await post('resume')).status).toBe(200);
  expect((await post('resync', { reason: 'to be sure' })).status).toBe(200);
  expect((await audited()).map((row) => row.action)).toEqual(['pause', 'hold', 'resume', 'resync']);
  await query(api.database.pool, 'delete from market_sync.resync');
});

test('the history of a booking has its revisions and, page by page, what was done by hand', async () => {
  const { pool } = api.database;
  const { bookingId } = await insertSnapshot(pool);
  for (let n = 0; n < 2; n += 1) {
    await answerOf(call('POST', `${bookingId}/hold`, { reason: `hold ${n}` }));
    await answerOf(call('POST', `${bookingId}/release`, { reason: `release ${n}` }));
  }
  await answerOf(call('POST', `${(await insertSnapshot(pool)).bookingId}/hold`, { reason: 'another one' }));
  const page = async (search: string) =>
    (await (await call('GET', `${bookingId}/history${search}`)).json()) as {
      revisions: { revision: number; status: string; cause: string }[];
      actions: { action: string; reason: string }[];
      next_cursor: string | null;
    };
  const first = await page('?limit=3');
  expect(first.revisions.map(({ revision, status, cause }) => [revision, status, cause])).toEqual([
    [5, 'ready_to_publish', 'manual'],
    [4, 'held', 'manual'],
    [3, 'ready_to_publish', 'manual'],
    [2, 'held', 'manual'],
    [1, 'ready_to_publish', 'new'],
  ]);
  expect(first.actions.map((action) => action.reason)).toEqual(['release 1', 'hold 1', 'release 0']);
  for (const action of first.actions) auditEntrySchema.parse(action);
  const second = await page(`?limit=3&cursor=${first.next_cursor}`);
  expect(second).toMatchObject({ revisions: [], actions: [{ reason: 'hold 0' }], next_cursor: null });
  await expectProblem(await call('GET', `${bookingId}/history?cursor=eyJ`), 'malformed_request');
  await expectProblem(await call('GET', `${UNKNOWN}/history`), 'not_found');
  const all = await api.app.request('/pipeline/audit-log?limit=2');
  expect(await all.json()).toMatchObject({
    actions: [{ reason: 'another one' }, { reason: 'release 1' }],
    next_cursor: expect.any(String),
  });
});

test('what is held is listed, the latest first, page by page, apart from what is withdrawn', async () => {
  const { pool } = api.database;
  const ids: string[] = [];
  for (let n = 0; n < 3; n += 1) {
    const { bookingId } = await insertSnapshot(pool);
    await answerOf(call('POST', `${bookingId}/${n === 1 ? 'withdraw' : 'hold'}`, { reason: `reason ${n}` }));
    ids.push(bookingId);
  }
  const page = async (search: string) =>
    (await (await api.app.request(`/pipeline/held${search}`)).json()) as {
      held: { booking_id: string }[];
      next_cursor: string | null;
    };
  const first = await page('?limit=1');
  expect(first.held).toEqual([
    {
      booking_id: ids[2],
      crop_type: 'Tomato',
      state: 'held',
      reason: 'reason 2',
      actor: 'local',
      since: expect.stringMatching(/Z$/),
    },
  ]);
  const second = await page(`?limit=1&cursor=${first.next_cursor}`);
  expect([second.held.map((entry) => entry.booking_id), second.next_cursor]).toEqual([[ids[0]], null]);
  expect((await page('?state=withdrawn')).held).toMatchObject([{ booking_id: ids[1] }]);
});
