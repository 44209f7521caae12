import { execFile } from 'node:child_process';
import { realpath, stat } from 'node:fs/promises';
import { dirname } from 'node:path';
import { promisify } from 'node:util';
import { EnvironmentError } from '../errors.ts';

const run = promisify(execFile);

/** The operating system's user that a server runs as. */
export type Account = Readonly<{ name: string; uid: number; gid: number }>;

export const runsAsRoot = (): boolean => process.getuid?.() === 0;

/**
 * The account a new server runs as: `undefined` (the one this program runs as), or, because PostgreSQL refuses to run
 * as root, the user `postgres`, created when missing. Where users cannot be created it is `nobody`.
 *
 * Throws an `EnvironmentError` when this program is root and there is no other user at all.
 */
export async function findServerAccount(): Promise<Account | undefined> {
  if (!runsAsRoot()) return undefined;
  const existing = await lookUpAccount('postgres');
  if (existing !== undefined) return existing;
  try {
    await run('useradd', [
      '--system',
      '--user-group',
      '--no-create-home',
      '--shell',
      '/bin/false',
      'postgres',
    ]);
  } catch {
    // No useradd, or a read-only /etc: `nobody` serves as well, it only must not be root.
  }
  const account = (await lookUpAccount('postgres')) ?? (await lookUpAccount('nobody'));
  if (account === undefined) {
    throw new EnvironmentError(
      'PostgreSQL refuses to run as root, and this machine has neither a user postgres nor useradd nor nobody. ' +
        'Create a user postgres, run as an ordinary user, or set DATABASE_URL.',
    );
  }
  return account;
}

/** The account that owns `path`, or `undefined` when that is who this program runs as, or root. */
export async function findOwner(path: string): Promise<Account | undefined> {
  const { uid, gid } = await stat(path);
  if (uid === 0 || uid === process.getuid?.()) return undefined;
  return { name: `uid ${uid}`, uid, gid };
}

/** `id` asks whatever the machine's user database is, which reading /etc/passwd would not. */
async function lookUpAccount(name: string): Promise<Account | undefined> {
  try {
    const [uid, gid] = await Promise.all([run('id', ['-u', name]), run('id', ['-g', name])]);
    return { name, uid: Number(uid.stdout), gid: Number(gid.stdout) };
  } catch {
    return undefined;
  }
}

/**
 * Whether `account` may enter `directory` and every directory on the way to it (symbolic links resolved). Judged by
 * mode bits, without supplementary groups: a server is started with none.
 */
export async function mayEnter(account: Account, directory: string): Promise<boolean> {
  for (let current = await realpath(directory); ; current = dirname(current)) {
    if (!(await allows(account, { path: current, bit: ENTER }))) return false;
    if (current === dirname(current)) return true;
  }
}

/** Whether `account` may read a file, by the same judgement. */
export async function mayRead(account: Account, file: string): Promise<boolean> {
  const path = await realpath(file);
  return (await allows(account, { path, bit: READ })) && (await mayEnter(account, dirname(path)));
}

const READ = 4;
const ENTER = 1;

async function allows(account: Account, wanted: { path: string; bit: number }): Promise<boolean> {
  const { mode, uid, gid } = await stat(wanted.path);
  const shift = uid === account.uid ? 6 : gid === account.gid ? 3 : 0;
  return ((mode >> shift) & wanted.bit) === wanted.bit;
}
