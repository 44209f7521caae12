import { afterAll, beforeAll, expect, test } from 'vitest';
import { insertBooking } from '../support/application.ts';
import { createScene, type Scene } from '../support/scene.ts';

let scene: Scene;

beforeAll(async () => {
  scene = await createScene();
});

afterAll(() => scene?.stop());

test('I2: the checkpoint is durable before it is acknowledged, even where commits are asynchronous by default', async () => {
  const { pool, name } = scene.database;
  await pool.query(`alter database ${name} set synchronous_commit = off`);
  // What each transaction that moves the checkpoint will commit with.
  await pool.query(`
    create table commits (setting text);
    create function note_setting() returns trigger language plpgsql as $$
    begin
      insert into commits values (current_setting('synchronous_commit'));
      return null;
    end $$;
    create trigger note_setting after update of commit_lsn on market_sync.checkpoint
      for each row when (old.commit_lsn is distinct from new.commit_lsn) execute function note_setting()`);
  await scene.start();
  await pool.query('truncate commits');
  await insertBooking(pool);
  await scene.settle();
  const { rows } = await pool.query('select distinct setting from commits');
  expect(rows).toEqual([{ setting: 'on' }]);
});
