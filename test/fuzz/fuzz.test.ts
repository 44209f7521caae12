import { randomBytes } from 'node:crypto';
import fc from 'fast-check';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { query } from '../../src/postgres.ts';
import { type Operation, readDocument } from './document.ts';
import { type FuzzRequest, fuzzRequests } from './fuzz-request.ts';
import { Memory } from './memory.ts';
import { createPromises, isRepeatable, isSameAnswer } from './promises.ts';
import { type Answer, send } from './wire.ts';
import { allBookings, createWorld, readState, restore, type State, type World } from './world.ts';

const RUNS = Number(process.env.FUZZ_RUNS ?? 10_000);
const SEED = Number(process.env.FUZZ_SEED ?? randomBytes(4).readInt32BE());
const MS_EACH_MAX = 60;
/** Requests between two restores of what they have taken away. */
const ROUND = 25;

let world: World;
beforeAll(async () => {
  world = await createWorld();
});
afterAll(() => world?.stop());

const shown = ({ method, target, headers, body, framing, credential, mutations }: FuzzRequest): string =>
  JSON.stringify({
    method,
    target: target.slice(0, 500),
    headers: headers.map(([name, value]) => `${name}: ${value.slice(0, 200)}`),
    body: body?.toString('latin1').slice(0, 300),
    framing,
    credential: credential.name,
    mutations,
  });

/** What the next requests find, in turn: overrides, a pause with a job that waits, listings taken off the market. */
async function beginRound(round: number, memory: Memory): Promise<void> {
  await restore(world);
  const admin = world.credentials.find(({ name }) => name === 'API_KEY')?.headers ?? [];
  const act = async (path: string, body?: object): Promise<string> => {
    const answer = await fetch(`${world.api.url}${path}`, {
      method: 'POST',
      headers: { ...Object.fromEntries(admin), 'content-type': 'application/json' },
      ...(body === undefined ? {} : { body: JSON.stringify(body) }),
    });
    const text = await answer.text();
    if (!answer.ok) throw new Error(`${path}: ${answer.status} ${text}`);
    return text;
  };
  const reason = { reason: 'round' };
  const [, held, withdrawn] = world.bookings.live;
  for (const id of round % 3 === 2 ? [] : world.bookings.live) {
    await query(world.pool, `select market_sync.set_override($1, 'round', p_grade => 'B')`, [id]);
  }
  if (round % 3 === 1) {
    await act('/pipeline/pause', reason);
    memory.noteJob(await act('/storage-guard/snapshots/backfill'));
  }
  if (round % 3 === 2) {
    await act(`/storage-guard/snapshots/${held}/hold`, reason);
    await act(`/storage-guard/snapshots/${withdrawn}/withdraw`, reason);
  }
}

function describe(
  broken: string,
  { answer, state, recent }: { answer: Answer; state: State; recent: string[] },
): string {
  const body = answer.body.toString('utf8').slice(0, 1_000);
  const audited = JSON.stringify(state.newActions);
  return [broken, `${answer.status} ${body}`, `audited: ${audited}`, 'the last requests:', ...recent].join(
    '\n',
  );
}

/** How often what was answered, by operation. */
class Tally {
  readonly byOperation = new Map<string, Map<number, number>>();

  count({ id }: Operation, status: number): void {
    const statuses = this.byOperation.get(id) ?? new Map<number, number>();
    statuses.set(status, (statuses.get(status) ?? 0) + 1);
    this.byOperation.set(id, statuses);
  }

  /** Operations that never answered with a status in this range. */
  without(operations: readonly Operation[], [from, to]: [number, number]): string[] {
    return operations
      .map(({ id }) => id)
      .filter((id) => ![...(this.byOperation.get(id)?.keys() ?? [])].some((one) => one >= from && one <= to));
  }
}

test(`${RUNS} requests, valid, mutated and hostile, by everybody: answered as documented, and what is refused changes nothing`, {
  timeout: 60_000 + RUNS * MS_EACH_MAX,
}, async () => {
  console.log(`fuzz: ${RUNS} requests, again with FUZZ_SEED=${SEED}`);
  const { document, operations } = await readDocument(world.api.url);
  const promises = createPromises(document, operations);
  const memory = new Memory();
  const tally = new Tally();
  const recent: string[] = [];
  let state: State;
  let rounds = 0;
  let sent = 0;

  /** Sends it, and throws what is not as promised. */
  const exchange = async (request: FuzzRequest): Promise<Answer> => {
    sent += 1;
    recent.push(shown(request));
    recent.splice(0, recent.length - 5);
    const answer = await Promise.race([send(world.api.url, request), world.failed]);
    const before = state;
    state = await readState(world.pool, before);
    const { broken, match } = promises({ request, answer, before, after: state });
    if (broken !== undefined) throw new Error(describe(broken, { answer, state, recent }));
    if (match !== undefined) tally.count(match.operation, answer.status);
    return answer;
  };
  const check = async (generated: FuzzRequest): Promise<void> => {
    if (sent >= rounds * ROUND) {
      await beginRound(rounds, memory);
      state = await readState(world.pool, undefined);
      rounds += 1;
    }
    const request = memory.resolve(generated);
    const answer = await exchange(request);
    memory.note(request, answer);
    if (!request.again || !isRepeatable(request)) return;
    const broken = isSameAnswer(answer, await exchange(request));
    if (broken !== undefined) throw new Error(describe(broken, { answer, state, recent }));
  };
  const requests = fuzzRequests(operations, {
    bookingIds: allBookings(world.bookings),
    credentials: world.credentials,
  });
  await fc.assert(fc.asyncProperty(requests, check), { numRuns: RUNS, seed: SEED });

  expect(({} as Record<string, unknown>).polluted).toBeUndefined();
  await restore(world);
  await world.scene.settle();
  await world.scene.expectConverged(world.bookings.live);
  if (process.env.FUZZ_TALLY !== undefined) console.log(tally.byOperation);
  // Of fewer requests some operation may have got none that could succeed.
  if (RUNS < 5_000) return;
  expect(tally.without(operations, [200, 299])).toEqual([]);
  expect(tally.without(operations, [400, 499])).toEqual([]);
});
