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
        () => server.slot && { confirmedLsn: server.slot.confirmedLsn, lost: server.slot.lost },
        (slot) => {
          const verdict = rules.judge(checkpoint, slot, server.system);
          sim.note(() => `${name} finds: ${verdict.state}`);
          if (verdict.state === 'continue') start(verdict.startLsn);
          else begin(verdict.state === 'cut');
        },
      ),
  );
}
