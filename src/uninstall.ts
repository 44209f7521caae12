import { setTimeout } from 'node:timers/promises';
import type pg from 'pg';
import { EnvironmentError } from './errors.ts';
import type { Logger } from './log.ts';
import { connect, query, quoteName, quoteText, sessionSettings, sqlStateOf } from './postgres.ts';
import { OWN_QUEUES } from './queue-schema.ts';
import { planRoleRemoval } from './role-removal.ts';
import { ADDED_COLUMNS } from './snapshot-table.ts';
import { sourceIndexPattern } from './source-indexes.ts';
import { NO_TIMEOUT, runStep, type Step } from './step.ts';

interface UninstallContext {
  pool: pg.Pool;
  sourceSchema: string;
  log: Logger;
}

export interface UninstallPlan {
  steps: Step[];
  /** What stays, and why. */
  kept: string[];
}

/**
 * What takes everything away that `migrate` and the pipeline have made, in order; the table of snapshots and its data stay.
 * Reads the catalog only.
 *
 * Throws an `EnvironmentError` when something that is not market-sync's would go with it. A process of market-sync may be at
 * work: it is `uninstall` that refuses then.
 */
export async function planUninstall(ctx: Omit<UninstallContext, 'log'>): Promise<UninstallPlan> {
  const client = await connect(ctx.pool);
  try {
    return await plan(client, ctx.sourceSchema);
  } finally {
    client.release(true);
  }
}

/**
 * Takes it away. When it is ended half-way, running it again takes away the rest. Answers what stays, and why. Throws as
 * `planUninstall`, and while a process of market-sync is connected.
 */
export async function uninstall({ pool, sourceSchema, log }: UninstallContext): Promise<{ kept: string[] }> {
  const client = await connect(pool);
  try {
    await requireIdle(client);
    const { steps, kept } = await plan(client, sourceSchema);
    for (const step of steps) {
      try {
        await runStep({ client, log }, step);
        log.info({ step: step.title }, 'taken away');
      } catch (error) {
        // A role may be needed where this login cannot look, or be another's to drop.
        const state = sqlStateOf(error) ?? '';
        if (!step.title.startsWith('role ') || !['2BP01', '42501', '55006'].includes(state)) throw error;
        kept.push(`${step.title}: ${(error as Error).message}`);
      }
    }
    return { kept };
  } finally {
    client.release(true);
  }
}

async function plan(client: pg.ClientBase, sourceSchema: string): Promise<UninstallPlan> {
  await requireNoDependents(client);
  const queue = await planQueueRemoval(client);
  const roles = await planRoleRemoval(client, { pgbossStays: queue.kept.length > 0 });
  const steps = [
    ...(await planTriggers(client)),
    ...(await planPublication(client)),
    ...(await planIndexes(client)),
    ...(await planSlot(client)),
    ...queue.steps,
    ...roles.revokes,
    ...(await planSchema(client)),
    // After the views of market_sync that show them.
    ...(await planSnapshotColumns(client, sourceSchema)),
    ...roles.drops,
  ];
  const session: Step = {
    title: 'the session',
    locks: 'no table.',
    statements: [sessionSettings(sourceSchema)],
  };
  return { steps: steps.length === 0 ? [] : [session, ...steps], kept: [...queue.kept, ...roles.kept] };
}

/** How long the connections of a process that has just ended may take to be gone. */
const END_WAIT_MS = 3_000;

/** A pipeline at work would make its slot anew, and fail at everything else. */
async function requireIdle(client: pg.ClientBase): Promise<void> {
  const deadline = performance.now() + END_WAIT_MS;
  let sessions = await findSessions(client);
  while (sessions.length > 0 && performance.now() < deadline) {
    await setTimeout(100);
    sessions = await findSessions(client);
  }
  if (sessions.length === 0) return;
  throw new EnvironmentError(
    `DATABASE_URL: market-sync is at work on this database (${sessions.map(({ pid, name }) => `${name}, process ${pid}`).join('; ')}). ` +
      'Stop every "market-sync start", "pipeline" and "api" first, then again: market-sync uninstall',
  );
}

async function findSessions(client: pg.ClientBase): Promise<{ pid: number; name: string }[]> {
  return query(
    client,
    `select pid, application_name as name from pg_stat_activity
     where datname = current_database() and application_name like 'market-sync%' and pid <> pg_backend_pid()
     union all
     select active_pid, 'the consumer on slot ' || slot_name from pg_replication_slots
     where active and database = current_database() and slot_name = any ($1::text[])`,
    [await findSlotNames(client)],
  );
}

async function isThere(client: pg.ClientBase, relation: string): Promise<boolean> {
  const [row] = await query<{ found: boolean }>(client, 'select to_regclass($1) is not null as found', [
    relation,
  ]);
  return row?.found === true;
}

async function findSlotNames(client: pg.ClientBase): Promise<string[]> {
  if (!(await isThere(client, 'market_sync.checkpoint'))) return [];
  const rows = await query<{ slot_name: string }>(
    client,
    'select slot_name from market_sync.checkpoint where slot_name is not null',
  );
  return rows.map((row) => row.slot_name);
}

/** A view that somebody has made over ours would go with the schema. */
async function requireNoDependents(client: pg.ClientBase): Promise<void> {
  const rows = await query<{ name: string }>(
    client,
    `select distinct rule.ev_class::regclass::text as name
     from pg_depend d
     join pg_rewrite rule on d.classid = 'pg_rewrite'::regclass and rule.oid = d.objid
     join pg_class dependent on dependent.oid = rule.ev_class
     left join pg_class c on d.refclassid = 'pg_class'::regclass and c.oid = d.refobjid
     left join pg_proc p on d.refclassid = 'pg_proc'::regclass and p.oid = d.refobjid
     where coalesce(c.relnamespace, p.pronamespace) = to_regnamespace('market_sync')
       and dependent.relnamespace <> to_regnamespace('market_sync')`,
  );
  if (rows.length === 0) return;
  const names = rows.map(({ name }) => name).join(', ');
  throw new EnvironmentError(
    `DATABASE_URL: ${names} would be dropped with the schema market_sync, which it stands on, and is not market-sync's. ` +
      `Drop it first (drop view ${names}), then again: market-sync uninstall`,
  );
}

/** On whatever table they are, a partition that was detached included. */
async function planTriggers(client: pg.ClientBase): Promise<Step[]> {
  const rows = await query<{ table: string; names: string[] }>(
    client,
    `select format('%I.%I', n.nspname, c.relname) as "table", array_agg(quote_ident(t.tgname) order by t.tgname) as names
     from pg_trigger t
     join pg_proc p on p.oid = t.tgfoid and p.pronamespace = to_regnamespace('market_sync')
     join pg_class c on c.oid = t.tgrelid and c.relnamespace <> p.pronamespace
     join pg_namespace n on n.oid = c.relnamespace
     where not t.tgisinternal group by 1 order by 1`,
  );
  return rows.map(({ table, names }) => ({
    title: `triggers of ${table}`,
    locks:
      `ACCESS EXCLUSIVE on ${table}: readers and writers wait for an instant. Given up when not to be had within 0.4 s, and ` +
      'tried again a second later.',
    statements: names.map((name) => `drop trigger ${name} on ${table}`),
    transaction: { tables: [{ name: table, mode: 'access exclusive' as const }] },
  }));
}

async function planPublication(client: pg.ClientBase): Promise<Step[]> {
  const found = await query(client, `select from pg_publication where pubname = 'market_sync'`);
  if (found.length === 0) return [];
  return [
    {
      title: 'the publication',
      locks: 'nothing that readers or writers notice.',
      statements: ['drop publication market_sync'],
      transaction: { tables: [] },
    },
  ];
}

async function planIndexes(client: pg.ClientBase): Promise<Step[]> {
  const rows = await query<{ index: string; table: string; partitioned: boolean; parts: string[] }>(
    client,
    `select format('%I.%I', n.nspname, c.relname) as index, format('%I.%I', n.nspname, t.relname) as "table",
       c.relkind = 'I' as partitioned,
       array(select format('%I.%I', pn.nspname, pc.relname)
             from pg_partition_tree(t.oid) part join pg_class pc on pc.oid = part.relid
             join pg_namespace pn on pn.oid = pc.relnamespace order by part.level, 1) as parts
     from pg_class c
     join pg_namespace n on n.oid = c.relnamespace
     join pg_index i on i.indexrelid = c.oid
     join pg_class t on t.oid = i.indrelid
     where c.relname ~ $1 and c.relkind in ('i', 'I') and not c.relispartition
       and n.nspname not in ('market_sync', 'pgboss') and n.nspname not like 'pg\\_%'
     order by 1`,
    [sourceIndexPattern()],
  );
  return rows.map(({ index, table, partitioned, parts }) =>
    partitioned
      ? {
          title: `index ${index} on ${table} and its partitions`,
          locks: `ACCESS EXCLUSIVE on ${parts.join(', ')}: readers and writers wait for an instant. Given up when not to be had within 0.4 s in all, and tried again.`,
          statements: [`drop index ${index}`],
          transaction: { tables: parts.map((name) => ({ name, mode: 'access exclusive' as const })) },
        }
      : {
          title: `index ${index} on ${table}`,
          locks:
            'SHARE UPDATE EXCLUSIVE, which neither readers nor writers notice. Waits for the transactions that use it.',
          statements: [NO_TIMEOUT, `drop index concurrently ${index}`],
        },
  );
}

async function planSlot(client: pg.ClientBase): Promise<Step[]> {
  const rows = await query<{ slot_name: string }>(
    client,
    `select slot_name from pg_replication_slots
     where slot_name = any ($1::text[]) and database = current_database() and plugin = 'pgoutput'`,
    [await findSlotNames(client)],
  );
  return rows.map(({ slot_name }) => ({
    title: `the replication slot ${slot_name}: PostgreSQL stops keeping WAL for it`,
    locks: 'nothing.',
    statements: [`select pg_drop_replication_slot(${quoteText(slot_name)})`],
  }));
}

/** What other services know of the table stays; what only the pipeline needed goes. */
async function planSnapshotColumns(client: pg.ClientBase, sourceSchema: string): Promise<Step[]> {
  const table = `${quoteName(sourceSchema)}.market_inventory_snapshots`;
  const rows = await query<{ column: string }>(
    client,
    `select attname as column from pg_attribute
     where attrelid = to_regclass($1) and attname = any ($2::text[]) and not attisdropped order by attnum`,
    [table, ADDED_COLUMNS],
  );
  if (rows.length === 0) return [];
  return [
    {
      title:
        'the columns that the pipeline has added to the snapshots; the table, its other columns, indexes and rows stay',
      locks:
        'ACCESS EXCLUSIVE on market_inventory_snapshots: its readers wait for an instant, nothing is rewritten.',
      statements: [
        `alter table ${table} ${rows.map(({ column }) => `drop column ${column}`).join(', ')}`,
        `comment on table ${table} is null`,
      ],
      transaction: { tables: [{ name: table, mode: 'access exclusive' }] },
    },
  ];
}

async function planQueueRemoval(client: pg.ClientBase): Promise<UninstallPlan> {
  if (!(await isThere(client, 'pgboss.queue'))) return { steps: [], kept: [] };
  const rows = await query<{ name: string }>(
    client,
    `select name from pgboss.queue where name not like '\\_\\_pgboss\\_\\_%' order by 1`,
  );
  const others = rows.map(({ name }) => name).filter((name) => !(OWN_QUEUES as string[]).includes(name));
  if (others.length > 0 || rows.length === 0) {
    const why =
      others.length > 0 ? `others keep jobs there, too (${others.join(', ')})` : 'it has no queue of ours';
    return { steps: [], kept: [`schema pgboss: ${why}`] };
  }
  return {
    steps: [
      {
        title: "pg-boss's tables, in which nobody else keeps jobs",
        locks: "no table of the application; pg-boss's own.",
        statements: ['drop schema pgboss cascade'],
        transaction: { tables: [] },
      },
    ],
    kept: [],
  };
}

async function planSchema(client: pg.ClientBase): Promise<Step[]> {
  const found = await query(client, `select from pg_namespace where nspname = 'market_sync'`);
  if (found.length === 0) return [];
  return [
    {
      title: 'everything else, the audit log of manual actions included',
      locks: 'no table of the application; those of market-sync.',
      statements: ['drop schema market_sync cascade'],
      transaction: { tables: [] },
    },
  ];
}
