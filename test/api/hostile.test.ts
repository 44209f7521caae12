import { randomBytes } from 'node:crypto';
import { Agent } from 'node:http';
import fc from 'fast-check';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { PROBLEM_TYPE, problemSchema } from '../../src/api/problem.ts';
import { type RunningApi, startApi } from '../../src/api/server.ts';
import { query } from '../../src/postgres.ts';
import { createKey, ROLES } from '../../src/store/api-keys.ts';
import { type AnswersDocument, createAnswerCheck } from './answer-schema.ts';
import {
  type Answer,
  type HostileRequest,
  hostileRequests,
  type Operation,
  sendHostile,
} from './hostile-request.ts';
import { createTestApi, insertBooking, insertSnapshot, setBookingStatus, type TestApi } from './setup.ts';

const KEY = 'correct-horse-battery';
const RUNS = Number(process.env.HOSTILE_RUNS ?? 1_500);
const SEED = Number(process.env.HOSTILE_SEED ?? randomBytes(4).readInt32BE());

let api: TestApi;
let server: RunningApi;
/** One of an admin by setting, and one of each role. */
const keys = [KEY];
beforeAll(async () => {
  api = await createTestApi({ apiKey: KEY });
  for (const role of ROLES) {
    const made = { name: role, role, expiresInSeconds: undefined, createdBy: 'test' } as const;
    keys.push((await createKey(api.database.pool, made)) ?? '');
  }
  server = await startApi(api.ctx, { host: '127.0.0.1', port: 0 });
});
afterAll(async () => {
  await server.stop();
  await api.drop();
});

type OpenApi = AnswersDocument & {
  paths: Record<string, Record<string, { parameters?: { in?: string; name?: string }[] }>>;
};

/** Everything a call could have changed, in PostgreSQL and in the market. */
async function fingerprint(): Promise<string> {
  const tables = [
    'storage_bookings',
    'market_inventory_snapshots',
    'market_sync.snapshot_state',
    'market_sync.checkpoint',
    'market_sync.resync',
    'market_sync.settings',
    'market_sync.override',
    'market_sync.manual_state',
    'market_sync.manual_action',
    'market_sync.task',
  ];
  const parts = tables.map(
    (table) => `(select md5(coalesce(string_agg(t::text, '|' order by t::text), '')) from ${table} t)`,
  );
  const [[row], listings] = await Promise.all([
    query<{ state: string }>(api.database.pool, `select concat_ws(' ', ${parts.join(', ')}) as state`),
    api.market.market.listings.find({}).sort({ booking_id: 1 }).toArray(),
  ]);
  return `${row?.state} ${JSON.stringify(listings)}`;
}

test(`row 34: ${RUNS} hostile requests: never 5xx, every error a problem, and what is refused changes nothing`, async () => {
  console.log(`hostile requests: ${RUNS}, replay with HOSTILE_SEED=${SEED}`);
  const { pool } = api.database;
  const live = await insertSnapshot(pool);
  const withdrawn = await insertSnapshot(pool);
  await setBookingStatus(pool, withdrawn.bookingId, 'cancelled');
  const bare = await insertBooking(pool);
  const bookingIds = [live, withdrawn, bare].map((booked) => booked.bookingId);
  const document = (await (await fetch(`${server.url}/openapi.json`)).json()) as OpenApi;
  const operations: Operation[] = Object.entries(document.paths).flatMap(([path, methods]) =>
    Object.entries(methods).map(([method, { parameters = [] }]) => ({
      path,
      method,
      query: parameters.filter(({ in: place }) => place === 'query').map(({ name = '' }) => name),
    })),
  );
  const checkAnswer = createAnswerCheck(document);
  const differs = (
    { method, target }: HostileRequest,
    { status, headers, body }: Answer,
  ): string | undefined =>
    // Of another address than it looks like, of the server below, or without the body that it describes.
    /\.|%2e|\\|#/i.test(target) || status === 431 || method === 'HEAD'
      ? undefined
      : checkAnswer({
          method,
          target,
          status,
          contentType: headers['content-type'],
          body: body.toString('utf8'),
        });
  const statuses = new Map<number, number>();
  const agent = new Agent({ keepAlive: true, maxSockets: 1 });
  let before = await fingerprint();

  const check = async (request: HostileRequest): Promise<void> => {
    const answer = await sendHostile(server.url, agent, request);
    statuses.set(answer.status, (statuses.get(answer.status) ?? 0) + 1);
    expectWellFormed(request, answer);
    expect(differs(request, answer)).toBeUndefined();
    // A safe one that changed something is found at the next that is not.
    if (['GET', 'HEAD', 'OPTIONS'].includes(request.method)) return;
    const after = await fingerprint();
    if (answer.status >= 400) expect(after).toBe(before);
    before = after;
  };
  await fc.assert(fc.asyncProperty(hostileRequests(operations, { bookingIds, keys }), check), {
    numRuns: RUNS,
    seed: SEED,
    examples: oneForEachStatus(live.bookingId).map((request) => [request]),
  });

  expect(await fingerprint()).toBe(before);
  agent.destroy();
  expect(({} as Record<string, unknown>).polluted).toBeUndefined();
  // What was sent was neither all refused nor refused for one reason.
  for (const status of [200, 400, 401, 403, 404, 405, 413, 415])
    expect([...statuses.keys()]).toContain(status);
});

/** Requests that are answered 200, 400, 401, 403, 404, 405, 413 and 415: chance alone leaves one out in some runs. */
function oneForEachStatus(bookingId: string): HostileRequest[] {
  const own: [string, string] = ['authorization', `Bearer ${KEY}`];
  const reader: [string, string] = ['authorization', `Bearer ${keys[1 + ROLES.indexOf('reader')]}`];
  const json: [string, string] = ['content-type', 'application/json'];
  const snapshot = `/storage-guard/snapshots/${bookingId}`;
  const hold = { method: 'POST', target: `${snapshot}/hold` };
  const reason = Buffer.from('{"reason":"checked"}');
  return [
    { method: 'GET', target: snapshot, headers: [own], body: undefined },
    { ...hold, headers: [own, json], body: Buffer.from('{') },
    { ...hold, headers: [json], body: reason },
    { ...hold, headers: [reader, json], body: reason },
    { method: 'GET', target: `${snapshot}/nothing`, headers: [own], body: undefined },
    { method: 'DELETE', target: snapshot, headers: [own], body: undefined },
    { ...hold, headers: [own, json], body: Buffer.from(`{"reason":"${'x'.repeat(70_000)}"}`) },
    { ...hold, headers: [own, ['content-type', 'text/plain']], body: reason },
  ];
}

/** readyz says 503 where no pipeline runs, as here. */
const isReadiness = (target: string): boolean => /^\/readyz(\?|$)/.test(target);

function expectWellFormed(request: HostileRequest, answer: Answer): void {
  if (answer.status === 503 && isReadiness(request.target)) return;
  expect(answer.status).toBeLessThan(500);
  if (answer.status < 400) return;
  expect([400, 401, 403, 404, 405, 409, 412, 413, 415, 422, 431]).toContain(answer.status);
  expect(answer.headers['content-type']).toBe(PROBLEM_TYPE);
  if (answer.status === 405) expect(answer.headers.allow).toMatch(/OPTIONS/);
  if (request.method === 'HEAD') return;
  const problem = problemSchema.parse(JSON.parse(answer.body.toString('utf8')));
  expect(problem.status).toBe(answer.status);
}
