import { afterAll, beforeAll, expect, test } from 'vitest';
import { query } from '../../src/postgres.ts';
import { workAudit } from '../../src/store/drift-audit.ts';
import { requestAudit, takeAudit } from '../../src/store/drift-run.ts';
import { auditContext } from '../audit/stage.ts';
import { parseExposition } from '../ops/exposition.ts';
import { createTestApi, expectProblem, insertSnapshot, type TestApi } from './setup.ts';

let api: TestApi;
beforeAll(async () => {
  api = await createTestApi();
});
afterAll(() => api.drop());

async function ask(body: object, headers: Record<string, string> = {}): Promise<Response> {
  return api.app.request('/pipeline/audits', {
    method: 'POST',
    headers: { 'content-type': 'application/json', ...headers },
    body: JSON.stringify(body),
  });
}

async function read(path: string): Promise<Record<string, unknown>> {
  const answer = await api.app.request(path);
  expect(answer.status).toBe(200);
  return (await answer.json()) as Record<string, unknown>;
}

/** What a pipeline does with the audit that is open. */
const work = () => workAudit(auditContext({ pool: api.database.pool, market: api.market.market }), undefined);

/** `name` or `name kind` → value. */
async function readMetrics(): Promise<Map<string, number>> {
  const families = parseExposition(await (await api.app.request('/metrics')).text());
  return new Map(
    [...families.values()].flatMap(({ samples }) =>
      samples.map(({ name, labels, value }) => [[name, labels.kind].filter(Boolean).join(' '), value]),
    ),
  );
}

test('before the first audit there is none to look at, and the metrics say only for how long', async () => {
  expect(await read('/pipeline/audits')).toEqual({ success: true, audits: [] });
  await expectProblem(await api.app.request('/pipeline/audits/1'), 'not_found');
  const metrics = await readMetrics();
  expect(metrics.get('market_sync_audit_running')).toBe(0);
  expect(metrics.get('market_sync_audit_age_seconds')).toBeGreaterThan(0);
  for (const name of ['finished_timestamp_seconds', 'bookings', 'found listing_missing']) {
    expect(metrics.has(`market_sync_audit_${name}`), name).toBe(false);
  }
});

test('an audit is asked for, looked at while it waits, and says what it found and mended when it has ended', async () => {
  const { pool } = api.database;
  const { bookingId } = await insertSnapshot(pool);
  await query(
    pool,
    `update market_inventory_snapshots set published_at = now(), market_listing_id = 'aaaaaaaaaaaaaaaaaaaaaaaa', status = 'published'`,
  );
  await query(
    pool,
    'update market_sync.snapshot_state set published_epoch = epoch, published_revision = revision',
  );

  const answer = await ask({ reason: 'a listing was deleted by hand' });
  expect(answer.status).toBe(202);
  const { audit } = (await answer.json()) as { audit: { id: number } };
  expect(answer.headers.get('location')).toBe(`/pipeline/audits/${audit.id}`);
  expect(audit).toMatchObject({
    state: 'queued',
    repair: 'safe',
    reason: 'a listing was deleted by hand',
    requested_by: 'local',
    total: null,
    compared: 0,
    kinds: [],
  });
  // One is open at a time, and serves all who ask.
  const again = (await (await ask({ reason: 'me, too', repair: 'off' })).json()) as { audit: unknown };
  expect(again.audit).toEqual(audit);

  await work();
  const mended = [{ kind: 'listing_missing', found: 1, repaired: 1 }];
  const { audit: done } = await read(`/pipeline/audits/${audit.id}`);
  expect(done).toMatchObject({
    id: audit.id,
    state: 'done',
    total: 1,
    compared: 1,
    listings: 0,
    found: 1,
    repaired: 1,
    kinds: mended,
  });
  expect(await read('/pipeline/audits?limit=1')).toEqual({ success: true, audits: [done] });
  expect(await api.market.market.listings.countDocuments({ booking_id: bookingId })).toBe(1);

  const metrics = await readMetrics();
  expect(Object.fromEntries(metrics)).toMatchObject({
    market_sync_audit_running: 0,
    market_sync_audit_bookings: 1,
    'market_sync_audit_found listing_missing': 1,
    'market_sync_audit_repaired listing_missing': 1,
    'market_sync_audit_found listing_stray': 0,
  });
  const finishedAt = Date.parse(String((done as { finished_at: string }).finished_at)) / 1_000;
  expect(metrics.get('market_sync_audit_finished_timestamp_seconds')).toBeCloseTo(finishedAt, 2);
  expect(metrics.get('market_sync_audit_duration_seconds')).toBeGreaterThan(0);

  await ask({ reason: 'once more', repair: 'off' });
  await work();
  expect((await readMetrics()).get('market_sync_audit_found listing_missing')).toBe(0);
  const audited = await query(
    pool,
    `select reason, details ->> 'repair' as repair from market_sync.audit_log where action = 'audit' order by id`,
  );
  expect(audited).toEqual([
    { reason: 'a listing was deleted by hand', repair: 'safe' },
    { reason: 'me, too', repair: 'off' },
    { reason: 'once more', repair: 'off' },
  ]);
});

test('I8: asked for twice with one Idempotency-Key it is one audit and one row of the audit log', async () => {
  const headers = { 'idempotency-key': 'audit-once' };
  const first = await ask({ reason: 'only once', repair: 'off' }, headers);
  const second = await ask({ reason: 'only once', repair: 'off' }, headers);
  expect(second.headers.get('idempotency-replayed')).toBe('true');
  expect(await second.json()).toEqual(await first.json());
  const rows = await query(
    api.database.pool,
    `select from market_sync.audit_log where reason = 'only once' and action = 'audit'`,
  );
  expect(rows).toHaveLength(1);
});

test("an audit that a command was killed over is the pipeline's to end once somebody asks for one", async () => {
  const { pool } = api.database;
  await work();
  const asked = { reason: 'a command', requestedBy: 'somebody', repair: 'off', worker: 'command' } as const;
  const left = await takeAudit(pool, await requestAudit(pool, asked));
  expect(await work()).toBeUndefined();
  const { audit } = (await (await ask({ reason: 'is anything wrong?' })).json()) as { audit: object };
  expect(audit).toMatchObject({ id: left.id, state: 'running', requested_by: 'somebody' });
  expect(await work()).toMatchObject({ id: left.id, state: 'done' });
});

test.each([{ repair: 'most', reason: 'x' }, { repair: 'off' }, { reason: 'x', kind: 'all' }])(
  '%j is refused, and nothing is asked for',
  async (body) => {
    const count = async () => (await read('/pipeline/audits?limit=100')).audits as unknown[];
    const before = await count();
    await expectProblem(await ask(body), 'malformed_request');
    expect(await count()).toEqual(before);
  },
);

test.each([
  '/pipeline/audits?limit=0',
  '/pipeline/audits?limit=101',
  '/pipeline/audits/zero',
  '/pipeline/audits/0',
])('%s is refused', async (path) => {
  await expectProblem(await api.app.request(path), 'malformed_request');
});
