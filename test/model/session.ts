import type { Batch } from '../../pipeline/dirty.ts';
import { KEY_KINDS } from '../../src/domain/change.ts';
import { FencedError } from '../../src/errors.ts';
import type { Lsn } from '../../src/lsn.ts';
import { ConnectionLostError } from '../../src/postgres.ts';
import { findStart } from './find-start.ts';
import { Inbox } from './inbox.ts';
import type { Machine } from './machine.ts';
import type { Stream } from './slot.ts';
import { keyBits, keyNames } from './wal.ts';

const FENCED = new FencedError('fenced');
const MADE_ANEW = new ConnectionLostError('the slot was made anew');
const ENDED = new ConnectionLostError('the stream ended');

/** WAL that an idle checkpoint is worth, in bytes. */
const IDLE_CHECKPOINT_BYTES = 500n;

const STATUS_INTERVAL_MS = 5_000;

/**
 * A consumer from taking the place to losing it: the steps of `pipeline/session.ts`, with anything in between. What it decides by is the pipeline's own: `DirtySet`, `judgeContinuity`.
 */
export class ModelSession {
  readonly #machine: Machine;
  readonly generation: number;
  readonly #onEnd: (failure: unknown) => void;
  readonly #incarnation: number;
  #inbox: Inbox;
  #confirmed: Lsn = 0n;
  /** A batch is in work. */
  #working = false;
  #active = false;
  #renewedAtMs: number;
  #idleSinceMs: number;
  #failure: unknown;
  #stopping = false;
  #ended = false;

  constructor(machine: Machine, generation: number, onEnd: (failure: unknown) => void) {
    this.#machine = machine;
    this.generation = generation;
    this.#onEnd = onEnd;
    this.#incarnation = machine.server.incarnation;
    this.#renewedAtMs = machine.sim.nowMs;
    this.#idleSinceMs = machine.sim.nowMs;
    this.#inbox = this.#createInbox(0n);
    this.#every(machine.settings.leaseMs / 3, () => this.#renew());
    this.#terminateHolder();
  }

  /** It streams, and relies on it. */
  get active(): boolean {
    return this.#active && this.#inbox.stream?.open === true;
  }

  /** SIGTERM. */
  stop(): void {
    this.#stopping = true;
    this.#look();
  }

  /** PostgreSQL has ended the connections. */
  connectionEnded(): void {
    this.#fail(ENDED);
  }

  /** The process is gone, and the kernel has closed everything. */
  abandon(): void {
    this.#ended = true;
    this.#inbox.close();
  }

  /** The socket may have something. */
  wake(): void {
    this.#inbox.wake();
  }

  // Taking the place: end the stream that was, judge, stream, look again.

  #terminateHolder(): void {
    const { rules, server } = this.#machine;
    this.#call(
      () => (rules.terminatesHolder ? server.terminateHolder() : undefined),
      () =>
        findStart(
          this.#machine,
          { generation: this.generation, call: (statement, then) => this.#call(statement, then) },
          { start: (lsn) => this.#startStream(lsn), fenced: () => this.#end(FENCED) },
        ),
    );
  }

  #startStream(startLsn: Lsn): void {
    const { server, rules, watch } = this.#machine;
    this.#inbox = this.#createInbox(startLsn);
    this.#confirmed = startLsn;
    const open = (stream: Stream): void => {
      this.#inbox.open(stream);
      stream.notifyEnd(() => this.#machine.later(0, () => this.#fail(ENDED)));
      this.#call(
        () => server.slot?.confirmedLsn,
        (confirmed) => {
          if (rules.checksSlotAgain && (confirmed === undefined || confirmed > startLsn)) {
            this.#end(MADE_ANEW);
            return;
          }
          this.#active = true;
          this.#machine.worked();
          watch.active(stream);
          this.#every(STATUS_INTERVAL_MS, () => this.#sendStatus());
          this.#look();
        },
      );
    };
    this.#call(
      () => server.startReplication(startLsn, this.generation),
      open,
      (stream) => stream.end({ cut: true }),
    );
  }

  #createInbox(startLsn: Lsn): Inbox {
    return new Inbox(this.#machine, startLsn, {
      arrived: () => this.#look(),
      asked: () => this.#sendStatus(),
    });
  }

  // Working: one batch after the other.

  /** Looks for work, or for a reason to end, unless a batch is in work. */
  #look(): void {
    if (!this.#active || this.#working || this.#ended || this.#endIfNeeded()) return;
    const { sim, settings } = this.#machine;
    const { dirty } = this.#inbox;
    if (dirty.hasWork) {
      this.#work(settings.batchKeysMax);
      return;
    }
    if (!dirty.idle || dirty.received - this.#confirmed <= IDLE_CHECKPOINT_BYTES) return;
    if (sim.nowMs < this.#idleSinceMs + settings.idleCheckpointMs) return;
    this.#idleSinceMs = sim.nowMs;
    this.#work(1);
  }

  #work(weightMax: number): void {
    this.#working = true;
    const { sim } = this.#machine;
    // Not at once: first whatever was read is dealt with.
    this.#machine.later(sim.random.next(), () => {
      if (this.#ended) return;
      const batch = this.#inbox.take(weightMax);
      let keys = 0;
      for (const kind of KEY_KINDS) for (const id of batch.keys[kind]) keys |= keyBits.get(id) as number;
      sim.note(
        () => `${this.#machine.name} takes ${keyNames(keys) || 'no key'}, covering ${batch.coversLsn}`,
      );
      this.#write(batch, keys, 0);
    });
  }

  #write(batch: Batch, keys: number, waits: number): void {
    if (this.#endIfNeeded()) return;
    const { server, settings } = this.#machine;
    this.#call(
      () =>
        server.reconcileBatch({
          generation: this.generation,
          coversLsn: batch.coversLsn,
          xids: batch.xids,
          keys,
          bookingsMax: settings.batchKeysMax * 2,
          resync: batch.resyncReason !== undefined,
        }),
      (outcome) => {
        if (outcome === 'done') this.#written(batch);
        else if (outcome === 'too_many') this.#writeChunks(batch, keys);
        else this.#machine.later(Math.min(2 ** waits, 50), () => this.#write(batch, keys, waits + 1));
      },
    );
  }

  /** Key by key, then the checkpoint alone. */
  #writeChunks(batch: Batch, keys: number): void {
    const [first, rest] = [keys & -keys, keys & (keys - 1)];
    if (first === 0) this.#write(batch, 0, 0);
    else if (!this.#endIfNeeded()) {
      this.#call(
        () => this.#machine.server.reconcileKeys(first),
        () => this.#writeChunks(batch, rest),
      );
    }
  }

  #written(batch: Batch): void {
    this.#confirmed = this.#machine.rules.confirms(batch, this.#inbox.dirty);
    this.#working = false;
    this.#sendStatus();
    this.#inbox.resumeIfRoom();
    this.#look();
  }

  // Signs of life.

  /** Arrives later, or never. */
  #sendStatus(): void {
    const [{ stream }, lsn] = [this.#inbox, this.#confirmed];
    if (stream === undefined) return;
    const { sim, server } = this.#machine;
    sim.after(sim.latencyMs(), () => server.confirm(stream, lsn));
  }

  #renew(): void {
    const { server, sim, settings } = this.#machine;
    this.#machine.call(
      () => server.renew(this.generation),
      (held) => {
        if (held) this.#renewedAtMs = sim.nowMs;
        else this.#fail(FENCED);
      },
      (error) => {
        if (sim.nowMs - this.#renewedAtMs > settings.leaseMs) this.#fail(error);
      },
    );
  }

  #every(periodMs: number, run: () => void): void {
    this.#machine.later(periodMs, () => {
      if (this.#ended) return;
      run();
      this.#look();
      this.#every(periodMs, run);
    });
  }

  // Ending.

  /** A statement on the session's own connection. Its failure ends the session. */
  #call<T>(statement: () => T, then: (answer: T) => void, orphaned?: (answer: T) => void): void {
    const onServer = (): T => {
      if (this.#machine.server.incarnation !== this.#incarnation) throw ENDED;
      return statement();
    };
    this.#machine.call(
      onServer,
      (answer) => {
        if (this.#ended) orphaned?.(answer);
        else then(answer);
      },
      (error) => this.#end(error),
      orphaned,
    );
  }

  /** The first failure ends the session, at the next place where it is looked at. */
  #fail(failure: unknown): void {
    this.#failure ??= failure;
    this.#look();
  }

  #endIfNeeded(): boolean {
    const needed = this.#failure !== undefined || this.#stopping;
    if (needed) this.#end(this.#failure);
    return needed;
  }

  #end(failure: unknown): void {
    if (this.#ended) return;
    this.#ended = true;
    this.#active = false;
    const { server, sim } = this.#machine;
    // Goodbye is said and read to the end: the last confirmation arrives.
    const inbox = this.#inbox;
    sim.after(sim.latencyMs() + 50, () => inbox.close());
    const done = (): void => this.#onEnd(failure);
    this.#machine.call(() => server.release(this.generation), done, done);
  }
}
