import { formatLsn, type Lsn } from '../src/lsn.ts';
import type { Checkpoint } from '../src/store/checkpoint.ts';
import type { SystemIdentity } from './replication-server.ts';
import type { Slot } from './slot.ts';

/** What the slot and the checkpoint say of each other. */
export type Continuity =
  | { state: 'continue'; startLsn: Lsn }
  /** Nothing has been captured yet: begin here, and compute everything once. */
  | { state: 'begin' }
  /** Changes may have been lost or undone: begin anew, compute and publish everything again. */
  | { state: 'cut'; reason: string };

/** Compares slot, checkpoint and server (D6). Pure. */
export function judgeContinuity(
  checkpoint: Pick<Checkpoint, 'commitLsn' | 'systemIdentifier' | 'timeline'>,
  slot: Pick<Slot, 'confirmedLsn' | 'lost' | 'synced'> | undefined,
  system: SystemIdentity,
): Continuity {
  const { commitLsn } = checkpoint;
  if (commitLsn === undefined) return { state: 'begin' };
  const reason = findCut({ ...checkpoint, commitLsn }, slot, system);
  if (reason !== undefined) return { state: 'cut', reason };
  // A slot behind is normal: after a crash of PostgreSQL it falls back and redelivers. What lies before the checkpoint
  // is in the snapshots, so the stream may begin there.
  return { state: 'continue', startLsn: commitLsn };
}

/** Why changes may have been lost or undone; undefined when none can have been. */
function findCut(
  checkpoint: { commitLsn: Lsn; systemIdentifier: string | undefined; timeline: number | undefined },
  slot: Pick<Slot, 'confirmedLsn' | 'lost' | 'synced'> | undefined,
  system: SystemIdentity,
): string | undefined {
  const { commitLsn, systemIdentifier, timeline } = checkpoint;
  if (systemIdentifier !== system.systemIdentifier)
    return 'the checkpoint belongs to another PostgreSQL cluster';
  if (timeline !== system.timeline) {
    const { parent } = system;
    // Only from one timeline to the next: who can say what became of the slot on those in between?
    if (parent === undefined || parent.timeline !== timeline) {
      return `the checkpoint belongs to timeline ${timeline}, the server is on ${system.timeline}, which does not come right from there`;
    }
    if (parent.leftAtLsn < commitLsn) {
      return `the server left timeline ${timeline} at ${formatLsn(parent.leftAtLsn)}, before the checkpoint (${formatLsn(commitLsn)})`;
    }
  }
  if (slot === undefined) return 'the replication slot is gone';
  if (slot.lost) return 'the replication slot is lost: WAL it needed was removed';
  // PostgreSQL vouches for the slots that a standby was given (17 and later). Any other on a new timeline came with a copy
  // of files, or was made by hand, at whatever position.
  if (timeline !== system.timeline && !slot.synced) {
    return `the checkpoint belongs to timeline ${timeline}, the server is on ${system.timeline}, and the replication slot did not come along from there`;
  }
  if (slot.confirmedLsn <= commitLsn) return undefined;
  return `the replication slot (${formatLsn(slot.confirmedLsn)}) is ahead of the checkpoint (${formatLsn(commitLsn)})`;
}
