import type { Logger } from '../../src/log.ts';

/** A log that keeps what was written. */
export interface LogRecorder {
  log: Logger;
  count(message: string): number;
  /** The fields of the last line with this message. */
  last(message: string): Record<string, unknown> | undefined;
}

export function recordLog(): LogRecorder {
  const lines: { message: string; fields: Record<string, unknown> }[] = [];
  const write = (fields: Record<string, unknown>, message: string): void => {
    lines.push({ message, fields });
  };
  return {
    log: { debug: write, info: write, warn: write, error: write } as unknown as Logger,
    count: (message) => lines.filter((line) => line.message === message).length,
    last: (message) => lines.findLast((line) => line.message === message)?.fields,
  };
}
