import { describeError } from '../errors.ts';
import type { Logger } from '../log.ts';

/** Whether a part of the system works, and in a word why. Shown without a key: no addresses, no messages of others. */
export interface Health {
  ok: boolean;
  detail: string;
}

/** Asks a part whether it works. Never throws, and answers in bounded time. */
export type Probe<Answer extends Health = Health> = () => Promise<Answer>;

/**
 * A probe from a check that may fail or hang; `otherwise` makes the answer then. Those who ask while a check is under
 * way share it, so that a part that does not answer holds one check, however many ask.
 */
export function createProbe<Answer extends Health>(
  check: () => Promise<Answer>,
  { otherwise, timeoutMs, log }: { otherwise: (detail: string) => Answer; timeoutMs: number; log: Logger },
): Probe<Answer> {
  let underWay: Promise<Answer> | undefined;
  const ask = (): Promise<Answer> => {
    underWay ??= check()
      .catch((error: unknown) => {
        log.debug({ error: describeError(error) }, 'health check failed');
        return otherwise('cannot be reached');
      })
      .finally(() => {
        underWay = undefined;
      });
    return underWay;
  };
  return async () => {
    let timer: NodeJS.Timeout | undefined;
    const late = new Promise<Answer>((resolve) => {
      timer = setTimeout(() => resolve(otherwise(`does not answer within ${timeoutMs} ms`)), timeoutMs);
    });
    const answer = await Promise.race([ask(), late]);
    clearTimeout(timer);
    return answer;
  };
}
