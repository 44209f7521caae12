/**
 * Three kinds of error decide what a loop does next (README, "Errors"):
 *
 * - `retryable`: the same work again, later; nothing is wrong with the work.
 * - `poison`: this one booking cannot be processed; park it and go on with the others.
 * - `fatal`: stop, acknowledge nothing, exit with a non-zero code.
 *
 * Whatever is not recognised is fatal: a loop that goes on after an error nobody understood is how data is lost.
 */
export type ErrorKind = 'retryable' | 'poison' | 'fatal';

/** A setting that is missing, malformed or out of bounds. The program exits with code 2 before it opens a socket. */
export class SettingsError extends Error {
  override name = 'SettingsError';
}

/**
 * Something around the program is not as it must be: a server unreachable or too old, a privilege missing, a port in
 * use. The message names the setting, what was found and what to do. The program exits with code 3.
 */
export class EnvironmentError extends Error {
  override name = 'EnvironmentError';
}

/** Another consumer took over (I6): what this one holds is void, and nothing it does may be written or acknowledged. */
export class FencedError extends Error {
  override name = 'FencedError';
}

/** Some libraries emit plain objects as errors. */
const messageOf = (error: unknown): string =>
  typeof error === 'object' && error !== null && 'message' in error ? String(error.message) : String(error);

/** The error's message followed by those of its causes, for a log line or an operator. */
export function describeError(error: unknown): string {
  const parts: string[] = [];
  let current: unknown = error;
  for (let depth = 0; depth < 5 && current !== undefined && current !== null; depth += 1) {
    if (current instanceof AggregateError && current.message === '') {
      parts.push(current.errors.map(messageOf).join('; '));
    } else {
      parts.push(messageOf(current));
    }
    current = current instanceof Error ? current.cause : undefined;
  }
  return parts.filter((part) => part !== '').join(': ');
}
