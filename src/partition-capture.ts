import { type Database, query, quoteText } from './postgres.ts';
import type { Step } from './step.ts';

/**
 * What puts capture triggers on the partitions of sensor_readings that lack them: those of the parent do not fire for what is
 * written straight to a partition. Each in a transaction of its own, so that none waits for another's writers.
 */
export async function planPartitionCapture(db: Database, sourceSchema: string): Promise<Step[]> {
  const rows = await query<{ partition: string }>(
    db,
    `with recursive tree as (
       select i.inhrelid from pg_inherits i
       where i.inhparent = format('%I.sensor_readings', $1::text)::regclass and not i.inhdetachpending
       union all
       select i.inhrelid from tree join pg_inherits i on i.inhparent = tree.inhrelid and not i.inhdetachpending
     )
     select format('%I.%I', n.nspname, c.relname) as partition
     from tree join pg_class c on c.oid = tree.inhrelid and c.relkind = 'r' and c.relispartition
     join pg_namespace n on n.oid = c.relnamespace
     where 4 > (select count(*) from pg_trigger t join pg_proc p on p.oid = t.tgfoid and p.proname = 'capture_sensor_readings'
       where t.tgrelid = c.oid and t.tgenabled = 'A' and p.pronamespace = to_regnamespace('market_sync'))
     order by 1`,
    [sourceSchema],
  );
  return rows.map(({ partition }) => ({
    title: `capture of what is written straight to the partition ${partition}: four triggers, as on sensor_readings itself`,
    locks:
      `SHARE ROW EXCLUSIVE on ${partition}: readers notice nothing, its writers wait for an instant. Given up when not to be ` +
      'had within 0.4 s, and tried again.',
    statements: [`select market_sync.capture_partition(${quoteText(partition)})`],
    transaction: { tables: [{ name: partition, mode: 'share row exclusive' as const }] },
  }));
}
