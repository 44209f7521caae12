import { randomBytes } from 'node:crypto';
import { chmod, lstat, mkdir, readlink, realpath, rename, stat, symlink } from 'node:fs/promises';
import { dirname, join, resolve } from 'node:path';
import { EnvironmentError } from '../errors.ts';
import type { Logger } from '../log.ts';
import { type Account, findOwner, findServerAccount, mayEnter, runsAsRoot } from './account.ts';
import { isCluster } from './server.ts';

/** Where the embedded cluster's files are or are to be made, and who its server runs as. */
export type ClusterPlace = Readonly<{ account: Account | undefined; dataDir: string; exists: boolean }>;

/** Makes DATA_DIR when it is missing, as one that the server's user may pass through. Gives its real path. */
export async function makeDataDirectory(dataDir: string): Promise<string> {
  try {
    await makeDirectories(dataDir);
    return await realpath(dataDir);
  } catch (cause) {
    const message = `DATA_DIR=${dataDir} cannot be made or entered. Set DATA_DIR to another one.`;
    throw new EnvironmentError(message, { cause });
  }
}

/** Under root those it makes, and only those, let every user pass: umask 077 would shut PostgreSQL's own user out. */
async function makeDirectories(path: string): Promise<void> {
  const PASS_THROUGH = 0o711;
  const firstMade = await mkdir(path, { recursive: true });
  if (firstMade === undefined || !runsAsRoot()) return;
  for (let made = resolve(path); made.length >= firstMade.length; made = dirname(made)) {
    await chmod(made, PASS_THROUGH);
  }
}

/**
 * Decides where the cluster of `home` (DATA_DIR, a real path) is: in `<home>/postgresql`, or, when the server's user
 * cannot get there (the checkout is in root's own home), in a directory under `sharedHome` that
 * `<home>/postgresql` then links to. What is there but is no cluster is moved aside, never deleted.
 *
 * Throws an `EnvironmentError` when a cluster is there that its owner cannot reach, or that is another user's.
 */
export async function placeCluster(input: {
  home: string;
  sharedHome: string;
  log: Logger;
}): Promise<ClusterPlace> {
  const wanted = join(input.home, 'postgresql');
  const entry = await lstat(wanted).catch(() => undefined);
  const target = entry?.isSymbolicLink() ? resolve(input.home, await readlink(wanted)) : wanted;
  await refuseStrangers(target);
  if (await isCluster(target)) return existingCluster(target);
  if (entry !== undefined) await moveAside(target, input.log);
  const account = await findServerAccount();
  if (account?.name === 'nobody') {
    input.log.warn({}, 'no user postgres and no useradd: the embedded postgresql runs as nobody');
  }
  if (target === wanted && (account === undefined || (await mayEnter(account, input.home)))) {
    return { account, dataDir: wanted, exists: false };
  }
  const dataDir =
    target === wanted
      ? join(input.sharedHome, `data-${randomBytes(6).toString('hex')}`, 'postgresql')
      : target;
  await makeElsewhere(dirname(dataDir));
  if (target === wanted) await symlink(dataDir, wanted);
  input.log.info(
    { from: wanted, to: dataDir, user: account?.name },
    'postgresql data kept where its user may enter',
  );
  return { account, dataDir: join(await realpath(dirname(dataDir)), 'postgresql'), exists: false };
}

/** PostgreSQL accepts a data directory of its own user only, and whoever is not root cannot even look into it. */
async function refuseStrangers(target: string): Promise<void> {
  const found = await stat(target).catch(() => undefined);
  if (found === undefined || runsAsRoot() || found.uid === process.getuid?.()) return;
  throw new EnvironmentError(
    `${target} belongs to another user (uid ${found.uid}). Start as that user or as root, or set another DATA_DIR.`,
  );
}

async function existingCluster(target: string): Promise<ClusterPlace> {
  const dataDir = await realpath(target);
  // A cluster that an ordinary user made stays that user's when root starts it.
  const account = (await findOwner(dataDir)) ?? (await findServerAccount());
  if (account !== undefined && !(await mayEnter(account, dirname(dataDir)))) {
    throw new EnvironmentError(
      `PostgreSQL cannot run as root, and the owner of ${dataDir} (${account.name}) may not enter the directories above it. ` +
        'Let others enter them (chmod o+x), or set another DATA_DIR.',
    );
  }
  return { account, dataDir, exists: true };
}

async function moveAside(target: string, log: Logger): Promise<void> {
  const aside = `${target}.incomplete-${randomBytes(4).toString('hex')}`;
  try {
    await rename(target, aside);
    log.warn({ moved_to: aside }, 'incomplete postgresql data directory moved aside');
  } catch (error) {
    // The link of a place that is no longer there: it is made again.
    if ((error as NodeJS.ErrnoException).code !== 'ENOENT') throw error;
  }
}

async function makeElsewhere(directory: string): Promise<void> {
  try {
    await makeDirectories(directory);
  } catch (cause) {
    throw new EnvironmentError(
      `PostgreSQL cannot run as root, its own user may not enter DATA_DIR, and ${directory} cannot be made. ` +
        'Set DATA_DIR to a directory that every user may enter, run as an ordinary user, or set DATABASE_URL.',
      { cause },
    );
  }
}
