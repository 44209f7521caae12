import { query } from '../postgres.ts';
import { type CheckDefinition, type Finding, listNames, ok, skipped, statements, warning } from './check.ts';
import type { PostgresContext } from './postgres-context.ts';

type Look = CheckDefinition<PostgresContext>['look'];

export const FAILOVER_SLOTS_FROM = 170_000;

/** Settings of PostgreSQL as they are in force; a name that this version does not know is left out. */
const SETTINGS = `
  select name, setting from pg_settings
  where name in ('sync_replication_slots', 'hot_standby_feedback', 'primary_slot_name', 'primary_conninfo', 'synchronized_standby_slots')`;

async function readSettings({ db }: PostgresContext): Promise<Map<string, string>> {
  const rows = await query<{ name: string; setting: string }>(db, SETTINGS);
  return new Map(rows.map(({ name, setting }) => [name, setting]));
}

/** What streams WAL and is no logical slot's, with the physical slot that it does so by. */
const STANDBYS = `
  select coalesce(nullif(r.application_name, ''), r.pid::text) as name, s.slot_name::text as slot, quote_ident(s.slot_name) as quoted,
    coalesce(s.xmin, r.backend_xmin) is not null as feedback
  from pg_stat_replication r
  left join pg_replication_slots s on s.active_pid = r.pid
  where r.state = 'streaming' and s.slot_type is distinct from 'logical' order by 1`;

interface Standby {
  name: string;
  slot: string | null;
  quoted: string | null;
  feedback: boolean;
}

const SETTING_NAMES = /[^\s,]+/g;

/** Only where the slot is to be taken along: a failover slot that nobody can take is what this is about. */
async function lookFromPrimary(ctx: PostgresContext): Promise<Finding> {
  const { db, slotName } = ctx;
  const slots = await query(
    db,
    `select from pg_replication_slots s where slot_name = $1 and (to_jsonb(s) ->> 'failover')::boolean`,
    [slotName],
  );
  if (slots.length === 0) return skipped('see failover_slot: there is no failover slot');
  const standbys = await query<Standby>(db, STANDBYS);
  if (standbys.length === 0) return ok('no standby streams from this server');
  const without = standbys.filter(({ slot }) => slot === null);
  if (without.length > 0) {
    const name = (without[0]?.name ?? 'standby').toLowerCase().replaceAll(/[^a-z0-9_]/g, '_');
    return warning(
      `${listNames(without.map((standby) => standby.name))} streams without a physical slot of its own, and cannot take ${slotName} along. Here, then on the standby:`,
      statements([
        `select pg_create_physical_replication_slot('${name}')`,
        `alter system set primary_slot_name = '${name}'`,
        'select pg_reload_conf()',
      ]),
    );
  }
  const silent = standbys.filter(({ feedback }) => !feedback);
  if (silent.length > 0) {
    return warning(
      `${listNames(silent.map((standby) => standby.name))} sends no hot_standby_feedback, without which it takes no slot along. On the standby:`,
      statements(['alter system set hot_standby_feedback = on', 'select pg_reload_conf()']),
    );
  }
  const setting = (await readSettings(ctx)).get('synchronized_standby_slots') ?? '';
  const waitedFor: string[] = setting.match(SETTING_NAMES) ?? [];
  const others = standbys.filter(({ slot }) => slot !== null && !waitedFor.includes(slot));
  if (others.length > 0) {
    const all = [...new Set([...waitedFor, ...others.map(({ slot }) => slot)])];
    return warning(
      `synchronized_standby_slots does not name ${listNames(others.map(({ slot }) => slot ?? ''))}: after a failover buyers may have seen what the standby never had, and everything is recomputed. Of those that may take over:`,
      statements([
        `alter system set synchronized_standby_slots = '${all.join(', ')}'`,
        'select pg_reload_conf()',
      ]),
    );
  }
  return ok(`${listNames(standbys.map(({ slot }) => slot ?? ''))}: nothing is streamed before they have it`);
}

async function lookFromStandby(ctx: PostgresContext): Promise<Finding> {
  const settings = await readSettings(ctx);
  const remedies: string[] = [];
  for (const name of ['sync_replication_slots', 'hot_standby_feedback']) {
    if (settings.get(name) !== 'on') remedies.push(`alter system set ${name} = on`);
  }
  const found = remedies.map((remedy) => `${remedy.split(' ')[3]} is off`);
  if ((settings.get('primary_slot_name') ?? '') === '') {
    found.push('primary_slot_name is not set');
    remedies.push(`alter system set primary_slot_name = '…'`);
  }
  // Hidden from those who may not see passwords.
  const conninfo = settings.get('primary_conninfo');
  if (conninfo !== undefined && !/\bdbname\s*=/.test(conninfo)) {
    found.push('primary_conninfo names no database to read slots by');
    remedies.push(`alter system set primary_conninfo = '… dbname=postgres'`);
  }
  if (found.length === 0) return ok('this standby takes failover slots along');
  return warning(
    `${listNames(found)}: this standby does not take the slot along, and when it takes over everything is recomputed. Here:`,
    statements([...remedies, 'select pg_reload_conf()']),
  );
}

const lookAtStandbys: Look = (ctx) => {
  if (ctx.facts.version < FAILOVER_SLOTS_FROM) return skipped('PostgreSQL before 17 has no failover slots');
  return ctx.facts.standby ? lookFromStandby(ctx) : lookFromPrimary(ctx);
};

export const STANDBY_CHECKS: readonly CheckDefinition<PostgresContext>[] = [
  {
    name: 'failover_standbys',
    means:
      'Warning (17) when a standby cannot take the failover slot along: no physical slot, no `hot_standby_feedback`, not in `synchronized_standby_slots`; asked of a standby, its own settings.',
    look: lookAtStandbys,
  },
];
