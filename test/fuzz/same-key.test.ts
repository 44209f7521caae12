import { randomUUID } from 'node:crypto';
import fc from 'fast-check';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { query } from '../../src/postgres.ts';
import { settle } from '../support/pipeline.ts';
import { type Operation, readDocument } from './document.ts';
import { validValues } from './valid-value.ts';
import { createWorld, readState, restore, type World } from './world.ts';

// Every operation of the document that changes something, sent 100 times at once with one Idempotency-Key.

const CALLS = 100;

let world: World;
let operations: Operation[];
beforeAll(async () => {
  world = await createWorld();
  operations = (await readDocument(world.api.url)).operations.filter(({ method }) => method !== 'GET');
});
afterAll(() => world?.stop());

interface Call {
  operation: Operation;
  path: string;
  body: object | undefined;
}

interface Sent {
  status: number;
  replayed: boolean;
  code: string | undefined;
  text: string;
}

async function call({ operation, path, body }: Call, key: string): Promise<Sent> {
  const admin = world.credentials.find(({ name }) => name === 'admin as bearer')?.headers ?? [];
  const response = await fetch(`${world.api.url}${path}`, {
    method: operation.method,
    headers: {
      ...Object.fromEntries(admin),
      'content-type': 'application/json',
      'idempotency-key': key,
    },
    ...(body === undefined ? {} : { body: JSON.stringify(body) }),
  });
  const text = await response.text();
  return {
    status: response.status,
    replayed: response.headers.get('idempotency-replayed') === 'true',
    code: response.ok ? undefined : (JSON.parse(text) as { code: string }).code,
    text,
  };
}

/** What must be so for the operation to succeed; nothing for those that are not named. */
const PREPARED: Record<string, (bookingId: string) => Promise<unknown>> = {
  releaseSnapshot: (id) => query(world.pool, `select market_sync.hold(array[$1::uuid], 'test')`, [id]),
  endOverride: (id) => query(world.pool, `select market_sync.set_override($1, 'test', p_grade => 'B')`, [id]),
  resumePipeline: () => query(world.pool, `select market_sync.pause('test')`),
  syncAll: (id) => query(world.pool, claim, [id]),
  cancelJob: () => query(world.pool, `select market_sync.pause('test')`),
};

/** What is unpublished while nobody publishes it: another publisher has it in work. */
const claim = `update market_sync.snapshot_state
  set published_epoch = 0, published_revision = 0, claimed_by = 'another', lease_until = clock_timestamp() + interval '1 hour'
  where booking_id = $1`;
const giveBack = `with given as (
    update market_sync.snapshot_state set claimed_by = null, lease_until = null where claimed_by = 'another' returning booking_id)
  select pg_notify('market_sync_publish', '') from given`;

/** A call of the operation that succeeds. */
async function prepare(operation: Operation): Promise<Call> {
  await query(world.pool, giveBack);
  await restore(world);
  await settle(world.scene.database, {});
  const { live, unpublishable } = world.bookings;
  const bookingId = (operation.id === 'retryParked' ? unpublishable : live[1]) ?? '';
  await PREPARED[operation.id]?.(bookingId);
  const jobId = operation.id === 'cancelJob' ? await openJob() : '';
  const body = operation.body && (fc.sample(validValues(operation.body), 1)[0] as object);
  return {
    operation,
    path: operation.path.replace('{booking_id}', bookingId).replace('{job_id}', jobId),
    body: body && { ...body, reason: 'one', ...(operation.id === 'setOverride' ? { grade: 'C' } : {}) },
  };
}

async function openJob(): Promise<string> {
  const backfill = operations.find(({ id }) => id === 'backfill');
  if (backfill === undefined) throw new Error('there is no backfill');
  const { text } = await call({ operation: backfill, path: backfill.path, body: undefined }, randomUUID());
  return (JSON.parse(text) as { job: { id: string } }).job.id;
}

test('every operation sent 100 times at once with one Idempotency-Key is done and audited once, and all hear of it', async () => {
  expect(operations.length).toBeGreaterThan(10);
  for (const operation of operations) {
    const prepared = await prepare(operation);
    const key = `${operation.id}-${randomUUID()}`;
    const before = await readState(world.pool, undefined);
    const sent = await Promise.all(Array.from({ length: CALLS }, () => call(prepared, key)));
    const after = await readState(world.pool, before);
    const done = sent.filter(({ status }) => status < 300);
    const first = done.filter(({ replayed }) => !replayed);
    const texts = new Set(done.map(({ text }) => text));
    const others = new Set(sent.filter(({ status }) => status >= 300).map(({ code }) => code));
    expect(
      { first: first.length, texts: texts.size, others: [...others], audited: after.newActions.length },
      `${operation.id}: ${sent[0]?.status} ${sent[0]?.text}`,
    ).toEqual({
      first: 1,
      texts: 1,
      others: others.size === 0 ? [] : ['idempotency_in_work'],
      audited: 1,
    });
    expect(after.newActions[0]).toMatchObject({ idempotency_key: key, actor: 'admin one', via: 'http' });
    expect(after.tasks - before.tasks).toBeLessThanOrEqual(1);
    expect(after.revisions - before.revisions).toBeLessThanOrEqual(1);

    // Once it is done: the same answer to the same call, and none to another one.
    expect(await call(prepared, key)).toMatchObject({ replayed: true, text: first[0]?.text });
    const other = {
      ...prepared,
      body: prepared.body === undefined ? {} : { ...prepared.body, reason: 'two' },
    };
    expect(await call(other, key)).toMatchObject({ status: 422, code: 'idempotency_mismatch' });
    const afterwards = await readState(world.pool, after);
    expect(afterwards).toMatchObject({ fingerprint: after.fingerprint, audited: after.audited });
  }
});
