import { retryDelayMs } from '../src/store/publish.ts';

/** The delay grows no further after so many failures: 1–2 s. A server's return is to be noticed within seconds. */
const GROWING_FAILURES_MAX = 2;

/** How long to wait for a server that is not to be had, after so many failures in a row. */
export const outageDelayMs = (failures: number, random: () => number): number =>
  retryDelayMs(Math.min(failures, GROWING_FAILURES_MAX), random);
