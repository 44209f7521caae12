import { randomBytes } from 'node:crypto';
import { chown, readFile, rename, stat, writeFile } from 'node:fs/promises';
import { dirname } from 'node:path';
import { z } from 'zod';
import { EnvironmentError } from '../errors.ts';
import { runsAsRoot } from './account.ts';

const schema = z.object({ password: z.string().min(16), port: z.number().int().min(1).max(65535) });

/** What stays the same from run to run: the superuser's password, and the port that connection strings name. */
export type Credentials = Readonly<z.infer<typeof schema>>;

export const createPassword = (): string => randomBytes(18).toString('base64url');

/** Reads what `saveCredentials` wrote; `undefined` when there is no such file. */
export async function readCredentials(file: string): Promise<Credentials | undefined> {
  let text: string;
  try {
    text = await readFile(file, 'utf8');
  } catch (cause) {
    if ((cause as NodeJS.ErrnoException).code === 'ENOENT') return undefined;
    throw new EnvironmentError(`${file} cannot be read. Start as the user who made DATA_DIR.`, { cause });
  }
  try {
    return schema.parse(JSON.parse(text));
  } catch (cause) {
    throw new EnvironmentError(
      `${file} is damaged. Restore it, or remove DATA_DIR to start with an empty one.`,
      {
        cause,
      },
    );
  }
}

/** Writes the file whole or not at all, for its owner only (0600), who stays the owner of its directory under root. */
export async function saveCredentials(file: string, credentials: Credentials): Promise<void> {
  const partial = `${file}.new`;
  await writeFile(partial, `${JSON.stringify(credentials)}\n`, { mode: 0o600 });
  if (runsAsRoot()) {
    const { uid, gid } = await stat(dirname(file));
    await chown(partial, uid, gid);
  }
  await rename(partial, file);
}
