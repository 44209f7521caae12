import { afterAll, beforeAll, expect, test } from 'vitest';
import { pausePipeline, resumePipeline } from '../../src/store/manual-actions.ts';
import { requestResync } from '../../src/store/resync.ts';
import { insertBooking, setQuantity } from '../support/application.ts';
import { until } from '../support/pipeline.ts';
import { createScene, type Scene } from '../support/scene.ts';

let scene: Scene;

beforeAll(async () => {
  scene = await createScene();
  await scene.start();
});

afterAll(() => scene?.stop());

const checkpointLsn = async (): Promise<string> =>
  (
    await scene.database.pool.query<{ lsn: string }>(
      'select commit_lsn::text as lsn from market_sync.checkpoint',
    )
  ).rows[0]?.lsn ?? '';

const flushed = async (): Promise<string> =>
  (await scene.database.pool.query<{ lsn: string }>('select pg_current_wal_flush_lsn()::text as lsn')).rows[0]
    ?.lsn ?? '';

test('I2: while the pipeline is paused changes wait in the slot, no listing changes, and all of it arrives when it is resumed', async () => {
  const { pool } = scene.database;
  const bookingId = await insertBooking(pool, { quantityKg: 1 });
  await scene.settle();
  await pausePipeline(pool, 'maintenance');
  const [confirmed, checkpoint] = [await scene.confirmedLsn(), await checkpointLsn()];
  await setQuantity(pool, bookingId, 2);
  const resyncId = await requestResync(pool, 'asked while paused');
  const marker = await flushed();
  // The walsender has sent it, so the consumer has it, or has it in the next moment.
  await until('the change was sent', async () => {
    const { rows } = await pool.query<{ sent: boolean }>(
      `select bool_or(sent_lsn >= $1::pg_lsn) as sent from pg_stat_replication r
       join pg_replication_slots s on s.active_pid = r.pid where s.slot_name = $2`,
      [marker, scene.config.slotName],
    );
    return rows[0]?.sent === true;
  });
  // A second change and a look by every loop: the pause is obeyed where claims are made, not by luck.
  await setQuantity(pool, bookingId, 3);
  await until('the consumer has tried its batch', async () => {
    const { rows } = await pool.query<{ renewed: boolean }>(
      `select updated_at > clock_timestamp() - interval '3 seconds' as renewed from market_sync.checkpoint`,
    );
    return rows[0]?.renewed === true;
  });
  expect((await scene.listing(bookingId))?.quantity_kg).toBe(1);
  expect(await checkpointLsn()).toBe(checkpoint);
  expect(await scene.confirmedLsn()).toBe(confirmed);
  const resumedAt = performance.now();
  await resumePipeline(pool);
  await until('the listing says what the booking says', async () => {
    return (await scene.listing(bookingId))?.quantity_kg === 3;
  });
  expect(performance.now() - resumedAt).toBeLessThan(5_000);
  await until('the resync is done', async () => {
    const { rows } = await pool.query(
      'select from market_sync.resync where id = $1 and finished_at is not null',
      [resyncId],
    );
    return rows.length === 1;
  });
  await scene.settle();
  await scene.expectConverged([bookingId]);
});
