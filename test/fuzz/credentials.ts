import { createHmac } from 'node:crypto';
import type pg from 'pg';
import { query } from '../../src/postgres.ts';
import { createKey, ROLES, type Role, revokeKey } from '../../src/store/api-keys.ts';

/** A way to say who calls. */
export interface Credential {
  name: string;
  headers: readonly (readonly [name: string, value: string])[];
  /** `none`: there is no key; `refused`: there is one that proves nothing. */
  proves: Role | 'none' | 'refused';
  /** What the audit calls them. */
  actor: string;
}

const bearer = (key: string): [string, string] => ['authorization', `Bearer ${key}`];

/** Keys of every role, keys that were ones, and what only looks like one. */
export async function makeCredentials(
  pool: pg.Pool,
  { settingKey }: { settingKey: string },
): Promise<Credential[]> {
  const credentials: Credential[] = [{ name: 'no key', headers: [], proves: 'none', actor: '' }];
  const keys = new Map<Role, string>();
  for (const role of ROLES) {
    const key = await makeKey(pool, { name: `${role} one`, role });
    keys.set(role, key);
    const proven = { proves: role, actor: `${role} one` };
    credentials.push({ name: `${role} as bearer`, headers: [bearer(key)], ...proven });
    credentials.push({ name: `${role} in X-API-Key`, headers: [['x-api-key', key]], ...proven });
    credentials.push({ name: `${role} twice`, headers: [bearer(key), ['X-API-Key', key]], ...proven });
  }
  const setting = { proves: 'admin', actor: 'API_KEY' } as const;
  credentials.push({ name: 'API_KEY', headers: [['AUTHORIZATION', `bearer   ${settingKey}`]], ...setting });
  const [reader = '', , admin = ''] = ROLES.map((role) => keys.get(role));
  const refused: [string, Credential['headers']][] = [
    ['revoked', [bearer(await makeRevoked(pool))]],
    ['expired', [bearer(await makeExpired(pool))]],
    ['prefix of an admin, secret of another', [bearer(`${admin.split('_')[0]}_${'A'.repeat(43)}`)]],
    ['admin, one letter more', [bearer(`${admin}A`)]],
    ['admin, upper case', [bearer(admin.toUpperCase())]],
    ['admin without its prefix', [bearer(admin.slice(admin.indexOf('_') + 1))]],
    ['prefix alone', [bearer(admin.split('_')[0] ?? '')]],
    ['two different keys', [bearer(reader), ['x-api-key', admin]]],
    ['admin as Basic', [['authorization', `Basic ${admin}`]]],
    ['admin without a scheme', [['authorization', admin]]],
    ['empty', [['authorization', '']]],
    ['empty X-API-Key', [['x-api-key', '']]],
    ['Bearer alone', [['authorization', 'Bearer ']]],
    ['a list', [bearer(`${reader}, Bearer ${admin}`)]],
    ['NUL escaped', [bearer(`${admin}%00`)]],
    ['long', [bearer('x'.repeat(8_000))]],
    ['token without signature', [bearer(token('none'))]],
    ['token with a signature', [bearer(token('HS256'))]],
    ['token of nothing', [bearer('..')]],
    ['proto', [bearer('__proto__')]],
  ];
  for (const [name, headers] of refused) {
    credentials.push({ name, headers, proves: 'refused', actor: '' });
  }
  return credentials;
}

/** Those that may call what needs this role. */
export const validCredentials = (credentials: readonly Credential[], role: Role | undefined): Credential[] =>
  credentials.filter(({ proves }) => mayCall(proves, role));

/** Those of somebody who is known and may not; for what anybody known may, nobody at all. */
export function lesserCredentials(credentials: readonly Credential[], role: Role | undefined): Credential[] {
  const unknown = ['none', 'refused'];
  const lesser = credentials.filter(({ proves }) => !unknown.includes(proves) && !mayCall(proves, role));
  return lesser.length > 0 ? lesser : credentials.filter(({ proves }) => proves === 'none');
}

/** Whether the proof suffices for what needs this role. */
export function mayCall(proves: Credential['proves'], needed: Role | undefined): boolean {
  if (needed === undefined) return true;
  return proves !== 'none' && proves !== 'refused' && ROLES.indexOf(proves) >= ROLES.indexOf(needed);
}

async function makeKey(pool: pg.Pool, { name, role }: { name: string; role: Role }): Promise<string> {
  const key = await createKey(pool, { name, role, expiresInSeconds: undefined, createdBy: 'fuzz' });
  if (key === undefined) throw new Error(`there is a key ${name} already`);
  return key;
}

async function makeRevoked(pool: pg.Pool): Promise<string> {
  const key = await makeKey(pool, { name: 'revoked', role: 'admin' });
  await revokeKey(pool, { prefix: key.split('_')[0] ?? '', revokedBy: 'fuzz' });
  return key;
}

async function makeExpired(pool: pg.Pool): Promise<string> {
  const key = await makeKey(pool, { name: 'expired', role: 'admin' });
  const ago = `update market_sync.api_key set expires_at = clock_timestamp() - interval '1 second' where name = 'expired'`;
  await query(pool, ago);
  return key;
}

function token(alg: 'none' | 'HS256'): string {
  const part = (value: object): string => Buffer.from(JSON.stringify(value)).toString('base64url');
  const signed = `${part({ alg, typ: 'JWT' })}.${part({ sub: 'x', roles: ['admin'], exp: 32503680000 })}`;
  const signature = alg === 'none' ? '' : createHmac('sha256', 'secret').update(signed).digest('base64url');
  return `${signed}.${signature}`;
}
