import { userInfo } from 'node:os';
import type { Config } from '../config.ts';
import { SettingsError } from '../errors.ts';
import type { Logger } from '../log.ts';
import {
  createKey,
  type KeyRecord,
  listKeys,
  ROLES,
  type Role,
  revokeKey,
  rotateKey,
} from '../store/api-keys.ts';
import { withRunningDatabase } from './running-database.ts';

/** `market-sync keys create`: prints the new key, the only time it can be seen. */
export async function runKeysCreate(
  config: Config,
  log: Logger,
  options: { name: string; role: string; expiresIn: string | undefined },
): Promise<void> {
  const name = readName(options.name);
  const role = readRole(options.role);
  const expiresInSeconds = options.expiresIn && readDuration('--expires-in', options.expiresIn, 1);
  const key = await withRunningDatabase(config, log, (pool) =>
    createKey(pool, { name, role, expiresInSeconds: expiresInSeconds || undefined, createdBy: findUser() }),
  );
  if (key === undefined) {
    throw new SettingsError(
      `--name ${name}: an active key has this name. Take another one, or give it a new key with: market-sync keys rotate PREFIX`,
    );
  }
  say(`key of ${name}, role ${role}; it is shown this once`);
  process.stdout.write(`${key}\n`);
}

/** `market-sync keys list`: every key without its secret. */
export async function runKeysList(config: Config, log: Logger, { json }: { json: boolean }): Promise<void> {
  const keys = await withRunningDatabase(config, log, listKeys);
  process.stdout.write(json ? `${JSON.stringify(keys)}\n` : describeKeys(keys));
}

/** `market-sync keys revoke`: ends a key. */
export async function runKeysRevoke(config: Config, log: Logger, given: string): Promise<void> {
  const prefix = readPrefix(given);
  const outcome = await withRunningDatabase(config, log, (pool) =>
    revokeKey(pool, { prefix, revokedBy: findUser() }),
  );
  if (outcome === 'unknown') throw unknownKey(prefix);
  process.stdout.write(
    outcome === 'revoked' ? `revoked ${prefix}, in force within 5 s\n` : `${prefix} was revoked already\n`,
  );
}

/** `market-sync keys rotate`: prints a new key of the same name and role; the old one goes on for the overlap. */
export async function runKeysRotate(
  config: Config,
  log: Logger,
  { prefix: given, overlap }: { prefix: string; overlap: string },
): Promise<void> {
  const prefix = readPrefix(given);
  const overlapSeconds = readDuration('--overlap', overlap, 0);
  const rotated = await withRunningDatabase(config, log, (pool) =>
    rotateKey(pool, { prefix, overlapSeconds, createdBy: findUser() }),
  );
  if (rotated.outcome !== 'rotated') throw new SettingsError(`${prefix}: ${NOT_ROTATED[rotated.outcome]}`);
  say(
    `new key of ${rotated.name}, role ${rotated.role}; it is shown this once. ${prefix} ends at ${rotated.oldExpiresAt.toISOString()}`,
  );
  process.stdout.write(`${rotated.key}\n`);
}

const NOT_ROTATED = {
  unknown: 'there is no such key. See: market-sync keys list',
  not_active: 'the key was revoked or has expired. Make a new one: market-sync keys create',
  replaced: 'the key was rotated already. Rotate the newest one of its name: market-sync keys list',
};

/** Beside standard output, which has the key and nothing else: a script can take it as it is. */
const say = (line: string): void => void process.stderr.write(`${line}\n`);

const NAME = /^[\p{L}\p{N}][\p{L}\p{N} ._@-]{0,99}$/u;
/** What callers without a key of the table are called. */
const TAKEN = new Set(['API_KEY', 'local']);

/** Names are what the audit shows: readable, and never that of another way to call. */
function readName(text: string): string {
  const name = text.trim();
  if (NAME.test(name) && !TAKEN.has(name)) return name;
  throw new SettingsError(
    `--name ${name.slice(0, 100)}: must be 1 to 100 letters, digits, spaces and ._@-, beginning with a letter or digit, and not ${[...TAKEN].join(' or ')}.`,
  );
}

function readRole(text: string): Role {
  const role = ROLES.find((known) => known === text);
  if (role !== undefined) return role;
  throw new SettingsError(`--role ${text}: must be ${ROLES.join(', ')}.`);
}

const UNIT_SECONDS: Record<string, number> = { m: 60, h: 3_600, d: 86_400 };
const DURATION_SECONDS_MAX = 10 * 365 * 86_400;

function readDuration(option: string, text: string, least: number): number {
  const [, amount, unit = ''] = /^(\d{1,6})([mhd])$/.exec(text) ?? [];
  const seconds = Number(amount) * (UNIT_SECONDS[unit] ?? Number.NaN);
  if (seconds >= least && seconds <= DURATION_SECONDS_MAX) return seconds;
  throw new SettingsError(
    `${option} ${text}: must be minutes, hours or days (30m, 24h, 90d), from ${least === 0 ? '0m' : '1m'} to ten years.`,
  );
}

/** Also taken: the whole key, of which only the part before the first _ is looked at. */
function readPrefix(text: string): string {
  const prefix = text.split('_')[0] ?? '';
  if (/^ms[a-z2-7]{10}$/.test(prefix)) return prefix;
  throw new SettingsError(
    'PREFIX: must be the part of a key before the first _, as market-sync keys list shows it.',
  );
}

const unknownKey = (prefix: string): SettingsError =>
  new SettingsError(`${prefix}: there is no such key. See: market-sync keys list`);

/** Who makes or ends a key: whoever runs the command, as this machine knows them. */
function findUser(): string {
  try {
    return userInfo().username;
  } catch {
    return `uid ${process.getuid?.() ?? 'unknown'}`; // A container's user need not have a name.
  }
}

function describeKeys(keys: KeyRecord[]): string {
  if (keys.length === 0) return 'no keys\n';
  const time = (at: Date | null, otherwise: string) =>
    at === null ? otherwise : `${at.toISOString().slice(0, 19)}Z`;
  const rows = [
    ['prefix', 'name', 'role', 'state', 'expires', 'last used', 'created', 'by'],
    ...keys.map((key) => [
      key.prefix,
      key.name,
      key.role,
      key.state,
      time(key.expires_at, 'never'),
      time(key.last_used_at, 'never'),
      time(key.created_at, ''),
      key.created_by,
    ]),
  ];
  const widths = (rows[0] ?? []).map((_, column) =>
    Math.max(...rows.map((row) => (row[column] ?? '').length)),
  );
  return rows
    .map(
      (row) =>
        `${row
          .map((cell, column) => cell.padEnd(widths[column] ?? 0))
          .join('  ')
          .trimEnd()}\n`,
    )
    .join('');
}
