import { afterAll, beforeAll, expect, test } from 'vitest';
import { createPool, query } from '../../src/postgres.ts';
import { testLog, until } from '../support/pipeline.ts';
import { type Standby, startStandby } from '../support/standby.ts';
import { examineDatabase, findCheck, type Patient, SLOT, splitRemedy, startPatient } from './patient.ts';

// A real standby, set up as most are before anybody thinks of logical slots.

let primary: Patient;
let standby: Standby;
beforeAll(async () => {
  primary = await startPatient({ installed: false });
  standby = await startStandby(primary.cluster, {
    name: 'second',
    parameters: { hot_standby_feedback: 'off', max_prepared_transactions: '5' },
  });
});
afterAll(async () => {
  await standby?.stop();
  await primary?.stop();
});

const look = async (url: string) => findCheck(await examineDatabase(url), 'failover_standbys');

/** Resolves with the finding once it says this: settings and feedback take their moment. */
async function lookUntil(url: string, says: RegExp): Promise<Awaited<ReturnType<typeof look>>> {
  let check = await look(url);
  await until(`the doctor says ${says}`, async () => {
    check = await look(url);
    return says.test(check.found);
  }).catch((error: Error) => {
    throw new Error(`${error.message}; it says: ${check.found}`);
  });
  return check;
}

test('what keeps a standby from taking the failover slot along is found on either server, and each remedy mends it', async () => {
  expect((await lookUntil(primary.url, /no failover slot/)).status).toBe('skipped');
  await primary.run([`select pg_create_logical_replication_slot('${SLOT}', 'pgoutput', false, false, true)`]);

  const silent = await lookUntil(primary.url, /^second sends no hot_standby_feedback/);
  const own = await lookUntil(standby.url(), /^sync_replication_slots is off, hot_standby_feedback is off:/);
  expect([silent.status, own.status]).toEqual(['warning', 'warning']);
  const pool = createPool({
    url: standby.url(),
    applicationName: 'test',
    sourceSchema: 'public',
    log: testLog(),
  });
  for (const statement of splitRemedy(own.remedy ?? '')) await query(pool, statement);
  await pool.end();
  expect(await lookUntil(standby.url(), /takes failover slots along/)).toMatchObject({ status: 'ok' });

  const unnamed = await lookUntil(primary.url, /^synchronized_standby_slots does not name second/);
  expect(unnamed.status).toBe('warning');
  await primary.run(splitRemedy(unnamed.remedy ?? ''));
  expect(await lookUntil(primary.url, /^second: nothing is streamed before/)).toMatchObject({ status: 'ok' });
});
