import type { Lsn } from '../../src/lsn.ts';
import type { Machine } from './machine.ts';

interface Caller {
  generation: number;
  call: <T>(statement: () => T, then: (answer: T) => void) => void;
}

/**
 * Where the stream begins: the steps of `prepareSlot`, judged by the pipeline's own `judgeContinuity`. A history that was
 * cut begins anew.
 */
export function findStart(
  { name, server, rules, sim }: Machine,
  { generation, call }: Caller,
  { start, fenced }: { start: (lsn: Lsn) => void; fenced: () => void },
): void {
  const begin = (cut: boolean): void =>
    call(
      () => server.renew(generation),
      (held) => {
        if (!held) {
          fenced();
          return;
        }
        call(
          () => server.recreateSlot(),
          (lsn) =>
            call(
              () => server.beginHistory({ generation, lsn, cut }),
              () => start(lsn),
            ),
        );
      },
    );
  call(
    () => ({ ...server.checkpoint }),
    (checkpoint) =>
      call(
        () => {
          const { slot, system } = server;
          if (slot === undefined) return { slot, system };
          const { confirmedLsn, lost, synced } = slot;
          return { slot: { confirmedLsn, lost, synced }, system };
        },
        ({ slot, system }) => {
          const verdict = rules.judge(checkpoint, slot, system);
          sim.note(() => `${name} finds: ${verdict.state}`);
          if (verdict.state !== 'continue') begin(verdict.state === 'cut');
          else if (checkpoint.timeline === system.timeline) start(verdict.startLsn);
          else
            call(
              () => server.followTimeline(generation),
              () => start(verdict.startLsn),
            );
        },
      ),
  );
}
