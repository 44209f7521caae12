import { join } from 'node:path';
import { DatabaseSync } from 'node:sqlite';
import { EnvironmentError } from '../errors.ts';

export type InstanceLock = Readonly<{ release(): void }>;

const SQLITE_BUSY = 5;

/**
 * Lets one process at a time use `dataDir`. SQLite is here for its file lock: it is the operating system's own
 * (fcntl), so it ends with the process however that ends, and Node offers no other. The file holds nothing but the
 * holder's process id, for the message to the one that comes second, and stays when the lock is gone.
 *
 * Throws an `EnvironmentError` naming DATA_DIR and the process when another one holds it.
 */
export function lockDataDirectory(dataDir: string): InstanceLock {
  const file = join(dataDir, 'lock');
  let database: DatabaseSync | undefined;
  try {
    database = new DatabaseSync(file, { timeout: 0 });
    database.exec(`begin immediate; pragma user_version = ${process.pid}; commit; begin immediate`);
    const held = database;
    return { release: () => held.close() };
  } catch (cause) {
    const busy = (cause as { errcode?: number }).errcode === SQLITE_BUSY;
    const holder = busy ? readHolder(file) : undefined;
    database?.close();
    throw new EnvironmentError(
      busy
        ? `DATA_DIR=${dataDir} is in use by ${holder}. Stop that one first, or set another DATA_DIR.`
        : `${file} cannot be locked. Start as the user who made DATA_DIR, or set another one.`,
      { cause },
    );
  }
}

function readHolder(file: string): string {
  const WAIT_MS = 1_000; // The holder locks readers out for the moment in which it writes its number.
  try {
    const database = new DatabaseSync(file, { readOnly: true, timeout: WAIT_MS });
    const holder = database.prepare('pragma user_version').get()?.user_version;
    database.close();
    return `process ${holder}`;
  } catch {
    return 'another process';
  }
}
