import { setTimeout } from 'node:timers/promises';
import type pg from 'pg';
import { query } from './postgres.ts';
import { SOURCE_COLUMNS } from './source.ts';

/** Waits after a part of a migration that took so long, for as long as the application's sake asks for. */
export type Rest = (tookMs: number) => Promise<void>;

/** The application's rows a second that make a rest one time longer than what it follows, up to a share of a twentieth. */
const WRITES_PER_REST = 250;
const REST_MAX = 19;
const REST_MS_MAX = 2_000;

/** Rows written, by statistics that anybody may see and that are a second behind. */
const WRITES = `
  select coalesce(sum(pg_stat_get_tuples_inserted(c.oid) + pg_stat_get_tuples_updated(c.oid) + pg_stat_get_tuples_deleted(c.oid)), 0)::float8 as rows
  from pg_class c join pg_namespace n on n.oid = c.relnamespace
  where n.nspname = $1 and c.relname = any ($2::text[])`;

/**
 * Rests beside an application that writes. Each part changes the catalog, so that every session of the application reads what it
 * keeps of it anew: all at once that shows in its slowest statements. Where nobody writes, there is none.
 */
export async function createRest(client: pg.ClientBase, sourceSchema: string): Promise<Rest> {
  const count = async (): Promise<number> =>
    (await query<{ rows: number }>(client, WRITES, [sourceSchema, Object.keys(SOURCE_COLUMNS)]))[0]?.rows ??
    0;
  const [startedAt, before] = [performance.now(), await count()];
  return async (tookMs) => {
    const writes = (await count()) - before;
    if (writes <= 0) return;
    const perSecond = writes / ((performance.now() - startedAt) / 1_000);
    await setTimeout(Math.min(tookMs * Math.min(1 + perSecond / WRITES_PER_REST, REST_MAX), REST_MS_MAX));
  };
}
