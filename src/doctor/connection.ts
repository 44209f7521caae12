import { isLoopback } from '../config.ts';
import { describeError } from '../errors.ts';
import { query, sqlStateOf } from '../postgres.ts';
import { type CheckDefinition, type Finding, failure, ok, skipped, warning } from './check.ts';
import type { PostgresContext } from './postgres-context.ts';

type Look = CheckDefinition<PostgresContext>['look'];

/** Undefined for a socket, and for what is no URL. */
function hostOf(url: string): string | undefined {
  const host = URL.canParse(url) ? new URL(url).hostname.replace(/^\[|\]$/g, '') : '';
  return host === '' || host.startsWith('%2F') ? undefined : host;
}

/** True when nobody on the way to this server can listen. */
export function isLocal(url: string): boolean {
  const host = hostOf(url);
  return host === undefined || isLoopback(host);
}

/** Whether what goes over the network can be read by others. */
export function judgeTls(input: {
  local: boolean;
  encrypted: boolean;
  setting: string;
  parameter: string;
}): Finding {
  if (input.encrypted) return ok('the connection is encrypted');
  if (input.local) return ok('not encrypted, and does not leave this machine');
  return warning(
    `${input.setting} connects without TLS: passwords and data can be read on the way`,
    `export ${input.setting}='…${input.parameter}'`,
  );
}

const lookAtTls: Look = async ({ db, url }) => {
  const rows = await query<{ ssl: boolean }>(db, 'select ssl from pg_stat_ssl where pid = pg_backend_pid()');
  return judgeTls({
    local: isLocal(url),
    encrypted: rows[0]?.ssl === true,
    setting: 'DATABASE_URL',
    parameter: '?sslmode=verify-full',
  });
};

const DIRECT = "export DATABASE_URL=postgresql://…  # the server's own address and port, past pgbouncer";

/**
 * A server announces its process id when it lets a connection in; a pooler announces one of its own. Two connections
 * that are answered by one process, or one by several, are shared out transaction by transaction.
 */
export function judgeBackends(backends: readonly { announced: number; answering: number[] }[]): Finding {
  const processes = backends.map(({ answering }) => new Set(answering));
  const changing = processes.some((ids) => ids.size > 1);
  const shared = new Set(processes.flatMap((ids) => [...ids])).size < processes.length;
  if (changing || shared) {
    return failure(
      'a pooler (pgbouncer?) hands out connections transaction by transaction: locks, LISTEN and settings of a session get lost',
      DIRECT,
    );
  }
  if (backends.some(({ announced, answering }) => !answering.includes(announced))) {
    return warning(
      'a pooler (pgbouncer?) stands in between, session by session as it seems: transaction pooling would not work',
      DIRECT,
    );
  }
  return ok('no pooler in between');
}

const NOT_ALLOWED = '42501';
const NOT_IN_HBA = '28000';

/** Too many connections or senders, or a server that is about to start: another moment's answer may be another. */
const NOT_NOW = ['53300', '57P03'];

const lookAtReplication: Look = async ({ url, replication, facts }) => {
  try {
    await replication.identify(url);
    return ok('a replication connection is let in');
  } catch (error) {
    const found = describeError(error);
    if (sqlStateOf(error) === NOT_ALLOWED) return skipped(`see login_replication (${found})`);
    if (sqlStateOf(error) === NOT_IN_HBA) {
      return failure(
        `pg_hba.conf does not let a replication connection in (${found}). Reload PostgreSQL afterwards`,
        `echo 'host ${facts.database} ${facts.login} samenet scram-sha-256' >> pg_hba.conf`,
      );
    }
    if (NOT_NOW.includes(sqlStateOf(error) ?? '')) {
      return warning(
        `no replication connection is to be had now (${found})`,
        `psql "$DATABASE_URL" -c 'select * from pg_stat_replication'`,
      );
    }
    return failure(
      `no replication connection: is a pooler (pgbouncer?) in between, which does not pass them on? (${found})`,
      DIRECT,
    );
  }
};

export const CONNECTION_CHECKS: readonly CheckDefinition<PostgresContext>[] = [
  {
    name: 'direct_connection',
    means:
      'Failure when a pooler shares connections out transaction by transaction; warning when one stands in between at all.',
    stops: true,
    look: async ({ reader }) => judgeBackends(await reader.findBackends()),
  },
  {
    name: 'replication_connection',
    means:
      'Failure when the server (`pg_hba.conf`) or a pooler in front of it refuses a replication connection.',
    stops: true,
    look: lookAtReplication,
  },
  {
    name: 'postgres_tls',
    means: 'Warning when the connection leaves this machine unencrypted.',
    look: lookAtTls,
  },
];
