import type pg from 'pg';
import { crashPoint } from '../src/crash-point.ts';
import { MESSAGE_PREFIX, parseCaptureMessage } from '../src/domain/change.ts';
import { describeError, FencedError } from '../src/errors.ts';
import { formatLsn, type Lsn } from '../src/lsn.ts';
import { ConnectionLostError, connect, query } from '../src/postgres.ts';
import { sleep } from '../src/sleep.ts';
import { countGrownTables } from '../src/store/live-work.ts';
import { LOCK_TIMEOUT_MS } from '../src/table-locks.ts';
import { acquireConsumer, countMalformed, releaseConsumer, renewConsumer } from '../src/store/checkpoint.ts';
import { findCaptureFault, noticeSourceChange } from './capture-check.ts';
import type { BatchReport, ConsumeContext, ConsumerState } from './consume.ts';
import type { Change } from './decode.ts';
import { type Batch, DirtySet } from './dirty.ts';
import { type Replication, startReplication } from './replication.ts';
import { identifyServer } from './replication-server.ts';
import { prepareSlot, requireSameSlot, terminateSlotHolder, throwSlotChanged } from './slot.ts';
import { Wakeup } from './wakeup.ts';
import { writeBatch } from './write-batch.ts';

/** How often a standby looks whether the place is free. */
const STANDBY_POLL_MS = 1_000;
/** While idle the checkpoint follows the WAL of other databases and tables this often, so as not to feed itself with WAL. */
const IDLE_CHECKPOINT_MS = 10_000;
/** WAL of its own that an idle checkpoint makes, in bytes; less than this is not worth one. */
const IDLE_CHECKPOINT_BYTES = 16_384n;

/** Renewals of a consumer that does not stream yet: well within the two seconds after which others take its place. */
const PREPARING_RENEWAL_MS = 700;
/** How often publication, triggers, source tables and the size of our own are looked at. */
const CHECK_INTERVAL_MS = 5_000;

/** From taking the place to losing it, or the connection. Never used twice: what it received is not what is confirmed. */
export class ConsumerSession {
  readonly #ctx: ConsumeContext;
  readonly #signal: AbortSignal;
  readonly #report: (state: ConsumerState) => void;
  readonly #wakeup = new Wakeup();
  #generation = 0;
  #dirty = new DirtySet(0n);
  #replication: Replication | undefined;
  #confirmed: Lsn = 0n;
  #paused = false;
  #malformed = 0;
  #renewedAtMs = performance.now();
  #failure: unknown;
  #workingSinceMs: number | undefined;

  constructor(ctx: ConsumeContext, signal: AbortSignal, report: (state: ConsumerState) => void) {
    this.#ctx = ctx;
    this.#signal = signal;
    this.#report = report;
  }

  async run(): Promise<void> {
    const generation = await this.#acquire();
    if (generation === undefined) return;
    this.#generation = generation;
    this.#renewedAtMs = performance.now();
    await crashPoint('consumer.acquired');
    const control = await connect(this.#ctx.pool);
    // Until it streams, a signature in the checkpoint is the only sign of life, and two seconds without cost the place.
    const preparing = setInterval(() => void this.#renewLease(), PREPARING_RENEWAL_MS);
    const timers = [
      preparing,
      setInterval(() => void this.#renewLease(), (this.#ctx.leaseSeconds * 1000) / 3),
      setInterval(() => void this.#check(), this.#ctx.checkIntervalMs ?? CHECK_INTERVAL_MS),
    ];
    // PostgreSQL ends this session when it shuts down, and would then wait for the walsender's client: let go at once.
    const onEnd = (): void =>
      this.#fail(new ConnectionLostError('PostgreSQL ended the session of the consumer'));
    control.on('end', onEnd);
    const onAbort = (): void => this.#wakeup.notify();
    this.#signal.addEventListener('abort', onAbort);
    try {
      // As recompute() has it: what leads to it locks tables, too.
      await query(control, `set lock_timeout = ${LOCK_TIMEOUT_MS}`);
      await terminateSlotHolder(control, { slotName: this.#ctx.slotName, generation });
      await noticeSourceChange(this.#ctx, { generation });
      const server = await identifyServer(this.#ctx.databaseUrl);
      const startLsn = await prepareSlot(this.#ctx, {
        control,
        generation,
        system: server,
        signal: this.#signal,
      });
      this.#dirty = new DirtySet(startLsn);
      this.#confirmed = startLsn;
      this.#replication = await startReplication({
        url: this.#ctx.databaseUrl,
        slotName: this.#ctx.slotName,
        startLsn,
        silenceMaxMs: server.silenceMaxMs,
        onChange: (change) => this.#receive(change),
        onKeepalive: ({ walEnd, replyRequested }) => {
          this.#dirty.keepalive(walEnd);
          if (replyRequested) void this.#sendStatus();
        },
      }).catch(throwSlotChanged);
      this.#replication.ended.catch((error: unknown) => this.#fail(error));
      await requireSameSlot(control, { slotName: this.#ctx.slotName, startLsn });
      // By a timer, not only when asked: while reading is paused nobody hears the server ask.
      const { statusIntervalMs } = server;
      timers.push(setInterval(() => void this.#sendStatus({ replyRequested: true }), statusIntervalMs));
      clearInterval(preparing);
      this.#report('active');
      this.#ctx.log.info(
        { slot_name: this.#ctx.slotName, start_lsn: formatLsn(startLsn) },
        'consumer active',
      );
      await this.#work(control);
    } finally {
      for (const timer of timers) clearInterval(timer);
      this.#signal.removeEventListener('abort', onAbort);
      control.off('end', onEnd);
      await this.#replication?.stop();
      control.release(true);
      await releaseConsumer(this.#ctx.pool, generation).catch(() => undefined);
    }
  }

  /** Waits as a standby until the place is free. Undefined when stopped meanwhile. */
  async #acquire(): Promise<number | undefined> {
    const { pool, holder, slotName, leaseSeconds } = this.#ctx;
    for (let waiting = false; !this.#signal.aborted; waiting = true) {
      const generation = await acquireConsumer(pool, { holder, slotName, leaseSeconds });
      if (generation !== undefined) {
        this.#ctx.onFenced?.();
        this.#report('starting');
        return generation;
      }
      if (!waiting) {
        this.#report('standby');
        this.#ctx.log.info({ state: 'standby', holder }, 'another consumer is active, standing by');
      }
      await sleep(STANDBY_POLL_MS, this.#signal);
    }
    return undefined;
  }

  #receive(change: Change): void {
    const dirty = this.#dirty;
    switch (change.kind) {
      case 'begin':
        dirty.begin({ ...change, receivedAtMs: performance.now() });
        break;
      case 'booking':
        dirty.addBookings(change.bookingIds);
        break;
      case 'truncate':
        dirty.addEverything('storage_bookings was truncated');
        break;
      case 'message': {
        if (change.prefix !== MESSAGE_PREFIX) break;
        // One that is not transactional survives a rollback: not ours.
        const message = change.transactional ? parseCaptureMessage(change.content) : undefined;
        if (message === undefined) this.#malformed += 1;
        else dirty.addMessage(message);
        break;
      }
      case 'commit':
        void crashPoint('consumer.received');
        dirty.commit(change.endLsn);
        this.#wakeup.notify();
        break;
      case 'other':
        break;
    }
    if (!this.#paused && dirty.isFull(this.#ctx.pendingKeysMax)) {
      this.#paused = true;
      this.#replication?.pause();
      this.#wakeup.notify();
    }
  }

  /** One batch after the other (D4): while one is in work, later changes merge into the next. */
  async #work(control: pg.ClientBase): Promise<void> {
    let idleCheckpointAt = Date.now();
    while (!this.#signal.aborted) {
      this.#throwFailure();
      if (this.#malformed > 0) await this.#recordMalformed();
      if (this.#dirty.hasWork) {
        await this.#reconcile(control, this.#dirty.take(this.#ctx.batchKeysMax));
        this.#resumeReading();
        continue;
      }
      const ahead = this.#dirty.received - this.#confirmed;
      const waitMs = idleCheckpointAt + IDLE_CHECKPOINT_MS - Date.now();
      if (this.#dirty.idle && ahead > IDLE_CHECKPOINT_BYTES && waitMs <= 0) {
        idleCheckpointAt = Date.now();
        await this.#reconcile(control, this.#dirty.take(1));
        continue;
      }
      await this.#wakeup.wait(Math.max(waitMs, 1_000));
    }
    this.#throwFailure();
  }

  async #reconcile(control: pg.ClientBase, batch: Batch): Promise<void> {
    const startedAt = performance.now();
    this.#workingSinceMs = batch.oldestCommitMs;
    const report = await writeBatch(this.#ctx, {
      control,
      generation: this.#generation,
      batch,
      signal: this.#signal,
      stopIfNeeded: () => {
        this.#throwFailure();
        this.#signal.throwIfAborted();
      },
    });
    this.#workingSinceMs = undefined;
    await crashPoint('consumer.reconciled');
    this.#confirmed = batch.coversLsn;
    await this.#sendStatus();
    await crashPoint('consumer.confirmed');
    if (batch.keyCount === 0) return;
    const summary: BatchReport = {
      keys: batch.keyCount,
      ...report,
      lagMs: batch.oldestCommitMs === undefined ? undefined : Date.now() - batch.oldestCommitMs,
      durationMs: performance.now() - startedAt,
    };
    this.#ctx.onBatch?.(summary);
    this.#ctx.log.debug(
      {
        keys: summary.keys,
        bookings: summary.bookings,
        changed: summary.changed,
        lag_ms: summary.lagMs,
        duration_ms: Math.round(summary.durationMs * 10) / 10,
        commit_lsn: formatLsn(batch.coversLsn),
      },
      'batch reconciled',
    );
  }

  #resumeReading(): void {
    if (this.#paused && !this.#dirty.isFull(this.#ctx.pendingKeysMax / 2)) {
      this.#paused = false;
      this.#replication?.resume();
    }
  }

  async #recordMalformed(): Promise<void> {
    const count = this.#malformed;
    this.#malformed = 0;
    this.#ctx.log.warn({ count }, 'messages that nobody can parse were skipped');
    await countMalformed(this.#ctx.pool, count);
  }

  /** Confirms what is durable, and nothing else (I2). Also a sign of life. */
  async #sendStatus(options = { replyRequested: false }): Promise<void> {
    await this.#replication?.confirm(this.#confirmed, options).catch((error: unknown) => this.#fail(error));
  }

  async #renewLease(): Promise<void> {
    try {
      const held = await renewConsumer(this.#ctx.pool, {
        generation: this.#generation,
        leaseSeconds: this.#ctx.leaseSeconds,
        workingSinceMs: this.#workingSinceMs ?? this.#dirty.oldestCommitMs,
      });
      if (held) this.#renewedAtMs = performance.now();
      else this.#fail(new FencedError('another consumer has taken over'));
    } catch (error) {
      // One renewal may fail; a lease that has run out is somebody else's to take.
      if (performance.now() - this.#renewedAtMs > this.#ctx.leaseSeconds * 1000) this.#fail(error);
    }
  }

  async #check(): Promise<void> {
    const fault = await findCaptureFault(this.#ctx, { generation: this.#generation });
    if (fault !== undefined) this.#fail(fault);
    // Planned for the empty tables of a first day, new bookings take many times as long to recompute, until autovacuum comes.
    await countGrownTables(this.#ctx.pool).catch((error: unknown) =>
      this.#ctx.log.debug({ error: describeError(error) }, 'grown tables are counted later'),
    );
  }

  /** The first failure ends the session, at the next place where it is looked at. */
  #fail(error: unknown): void {
    this.#failure ??= error;
    this.#wakeup.notify();
  }

  #throwFailure(): void {
    if (this.#failure !== undefined) throw this.#failure;
  }
}
