/**
 * The consumer's place as the SQL functions of migration 005 keep it, in plain words. test/model/lease-conformance.test.ts
 * holds both against each other.
 */
export interface Lease {
  generation: number;
  holder: string | undefined;
  leaseUntilMs: number | undefined;
  updatedAtMs: number;
}

/** A holder that was killed leaves an inactive slot behind; one without a sign of life for so long is dead. */
export const SILENCE_MS = 2_000;

interface Moment {
  nowMs: number;
  leaseMs: number;
}

/** Takes the place; undefined while another consumer shows signs of life. */
export function acquire(
  lease: Lease,
  { holder, nowMs, leaseMs, slotActive }: Moment & { holder: string; slotActive: boolean },
): number | undefined {
  const free =
    lease.holder === undefined ||
    lease.leaseUntilMs === undefined ||
    lease.leaseUntilMs < nowMs ||
    (lease.updatedAtMs < nowMs - SILENCE_MS && !slotActive);
  if (!free) return undefined;
  lease.generation += 1;
  lease.holder = holder;
  lease.leaseUntilMs = nowMs + leaseMs;
  lease.updatedAtMs = nowMs;
  return lease.generation;
}

/** A sign of life, or a batch written; false when another consumer has taken over. */
export function renew(
  lease: Lease,
  { generation, nowMs, leaseMs }: Moment & { generation: number },
): boolean {
  if (lease.generation !== generation) return false;
  lease.leaseUntilMs = nowMs + leaseMs;
  lease.updatedAtMs = nowMs;
  return true;
}

/** Gives the place back. */
export function release(lease: Lease, { generation, nowMs }: { generation: number; nowMs: number }): void {
  if (lease.generation !== generation) return;
  lease.holder = undefined;
  lease.leaseUntilMs = undefined;
  lease.updatedAtMs = nowMs;
}
