import { type Check, type Finding, failure, skipped } from './check.ts';
import type { Limits, ReplicationProbe } from './postgres-context.ts';

/** What a check that is no fault may take, so that one does not hold up the report. */
export const CHECK_MS = 1_500;

/** Of a server that is slow to let anybody in. */
export const CONNECT_MS = 5_000;

/** Where a server is; or, where none is known, why not, and what to do. */
export type Target = { url: string } | { missing: string; remedy: string; needed: boolean };

export interface ExamineInput {
  postgres: Target;
  mongodb: Target;
  mongodbDatabase: string;
  mongodbTimeoutMs: number;
  sourceSchema: string;
  slotName: string;
  replication: ReplicationProbe;
  limits?: Partial<Limits>;
  /** Milliseconds since 1970, of this machine. */
  now: () => number;
  /** Ends it: what is under way is cut, and the report says so. */
  signal?: AbortSignal;
}

/** A server's part of the report, and how far its clock is ahead of this machine's, where it said so. */
export interface Part {
  checks: Check[];
  aheadMs?: number;
}

/** One that must be there is a failure, another is left out. */
export const judgeMissing = (target: Exclude<Target, { url: string }>): Finding =>
  target.needed ? failure(target.missing, target.remedy) : skipped(target.missing);
