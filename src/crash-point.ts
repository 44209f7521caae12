import { SettingsError } from './errors.ts';
import { ConnectionLostError } from './postgres.ts';

interface CrashPointFacts {
  /** What a crash here puts in danger. */
  endangers: string;
  /** The server whose connection breaks when the crash is an error. */
  loses: 'postgres' | 'mongodb';
  /** A request follows at once; its reply can be lost on the way back, after the server has done it. */
  request?: true;
}

/** The places where a crash hurts. test/crash has a case for each, with every action that makes sense there. */
export const CRASH_POINTS = {
  'consumer.acquired': { endangers: 'the place is taken and nobody works', loses: 'postgres' },
  'consumer.history_cut': {
    endangers: 'a history was judged cut, and the slot that proves it still stands',
    loses: 'postgres',
  },
  'consumer.slot_created': {
    endangers: 'a fresh slot beside a checkpoint of the old history',
    loses: 'postgres',
    request: true,
  },
  'consumer.received': { endangers: 'a transaction is known in memory only', loses: 'postgres' },
  'consumer.before_reconcile': {
    endangers: 'keys are out of the dirty set and in no snapshot',
    loses: 'postgres',
    request: true,
  },
  'consumer.between_chunks': {
    endangers: 'some bookings of a fan-out are recomputed, the checkpoint covers none',
    loses: 'postgres',
  },
  'consumer.reconciled': { endangers: 'the checkpoint is ahead of the slot', loses: 'postgres' },
  'consumer.confirmed': {
    endangers: 'the slot has let go of what the checkpoint must hold',
    loses: 'postgres',
  },
  'publisher.before_claim': {
    endangers: 'the notification that something is to publish is used up',
    loses: 'postgres',
    request: true,
  },
  'publisher.claimed': { endangers: 'snapshots are claimed by nobody who works', loses: 'postgres' },
  'market.before_write': {
    endangers: 'nobody knows whether MongoDB has the write',
    loses: 'mongodb',
    request: true,
  },
  'market.between_rounds': {
    endangers: 'of a batch some listings are inserted, others still to be updated',
    loses: 'mongodb',
    request: true,
  },
  'publisher.written': {
    endangers: 'MongoDB has the listing, the snapshot does not say so',
    loses: 'postgres',
    request: true,
  },
  'publisher.marked': {
    endangers: 'the outbox is one batch shorter, the publisher does not know',
    loses: 'postgres',
  },
  'publisher.before_failure': {
    endangers: 'a failure that must count, or count once',
    loses: 'postgres',
    request: true,
  },
  'refresh.between_chunks': { endangers: 'some due snapshots are refreshed, others not', loses: 'postgres' },
  'cleanup.claimed': {
    endangers: 'expired snapshots are claimed by nobody who works',
    loses: 'postgres',
    request: true,
  },
  'cleanup.listings_deleted': {
    endangers: 'listings are gone, their snapshots are not',
    loses: 'postgres',
    request: true,
  },
  'cleanup.snapshots_deleted': { endangers: 'a chunk is gone, the job goes on', loses: 'postgres' },
  'resync.between_chunks': {
    endangers: 'the cursor and the chunk it stands for',
    loses: 'postgres',
    request: true,
  },
  'resync.before_ghosts': {
    endangers: 'everything is recomputed, ghosts still show',
    loses: 'mongodb',
    request: true,
  },
  'resync.ghosts_removed': {
    endangers: 'a resync that is done and does not know',
    loses: 'postgres',
    request: true,
  },
  'task.between_chunks': {
    endangers: "a long manual action's cursor and the chunk it stands for",
    loses: 'postgres',
    request: true,
  },
  'migrate.between_migrations': {
    endangers: 'a database between two versions',
    loses: 'postgres',
    request: true,
  },
  'queue.job_started': { endangers: 'a job is active and nobody works on it', loses: 'postgres' },
  'api.before_publish': {
    endangers: 'a manual publish whose caller waits',
    loses: 'postgres',
    request: true,
  },
  'api.published': { endangers: 'a manual publish that is done, its caller not told', loses: 'postgres' },
  'api.before_reconcile': {
    endangers: 'a manual reconcile whose caller waits',
    loses: 'postgres',
    request: true,
  },
} as const satisfies Record<string, CrashPointFacts>;

export type CrashPoint = keyof typeof CRASH_POINTS;

/**
 * `kill`: SIGKILL. `hang`: SIGSTOP, the whole process stands still as in a pause of its machine. `error`: a connection
 * breaks here. `reply_lost`: whoever started the process loses the reply to the next request.
 */
export const CRASH_ACTIONS = ['kill', 'error', 'hang', 'reply_lost'] as const;
type CrashAction = (typeof CRASH_ACTIONS)[number];

interface CrashOrder {
  point: CrashPoint;
  action: CrashAction;
  /** The passage at which it crashes, once. */
  nth: number;
}

/** What TEST_CRASH_POINT says: crash so, or wait for orders by message. */
export type CrashSetting = CrashOrder | 'on';

/** As the driver reports it: by the code of NetworkTimeout. */
class MarketLostError extends Error {
  override name = 'MarketLostError';
  readonly code = 89;
}

/** Reads TEST_CRASH_POINT: `on`, or `point:action`, or `point:action:nth`. Throws a `SettingsError`. */
export function parseCrashSetting(text: string): CrashSetting {
  if (text === 'on') return 'on';
  const [point = '', action = '', nth = '1', ...rest] = text.split(':');
  const known =
    isCrashPoint(point) && isCrashAction(action) && rest.length === 0 && /^[1-9]\d{0,5}$/.test(nth);
  if (known && (action !== 'reply_lost' || hasRequest(point))) return { point, action, nth: Number(nth) };
  throw new SettingsError(
    `TEST_CRASH_POINT=${text}: must be "on" or POINT:ACTION[:NTH] with a point and an action of src/crash-point.ts; reply_lost only where a request follows.`,
  );
}

const isCrashPoint = (text: string): text is CrashPoint => Object.hasOwn(CRASH_POINTS, text);
const isCrashAction = (text: string): text is CrashAction => CRASH_ACTIONS.some((action) => action === text);

/** True where the reply to a request can be lost. */
export const hasRequest = (point: CrashPoint): boolean => 'request' in CRASH_POINTS[point];

let armed: CrashOrder | undefined;
let proceed = (): void => undefined;

/** Arms the crash that was asked for; further ones may be asked for by message: `{arm: 'point:action'}`. */
export function armCrashPoints(setting: CrashSetting): void {
  armed = setting === 'on' ? undefined : setting;
  process.on('message', (message: { arm?: string; proceed?: true }) => {
    if (message.proceed === true) proceed();
    if (message.arm === undefined) return;
    const order = parseCrashSetting(message.arm);
    armed = order === 'on' ? undefined : order;
    tell({ armed: message.arm });
  });
  // Without its test nobody would end it.
  process.on('disconnect', () => process.exit(1));
  process.channel?.unref();
}

/** Marks a place where a crash hurts. Does nothing unless a test has asked for a crash here. */
export function crashPoint(point: CrashPoint): Promise<void> | undefined {
  if (armed === undefined || armed.point !== point) return undefined;
  armed.nth -= 1;
  if (armed.nth > 0) return undefined;
  const { action } = armed;
  armed = undefined;
  return crash(point, action);
}

function crash(point: CrashPoint, action: CrashAction): Promise<void> | undefined {
  const reached = Promise.withResolvers<void>();
  proceed = reached.resolve;
  tell({ crashing: point });
  switch (action) {
    case 'kill':
      process.kill(process.pid, 'SIGKILL');
      return undefined;
    case 'hang':
      process.kill(process.pid, 'SIGSTOP');
      return undefined;
    case 'error':
      throw CRASH_POINTS[point].loses === 'mongodb'
        ? new MarketLostError(`crash point ${point}`)
        : new ConnectionLostError(`crash point ${point}`);
    case 'reply_lost':
      return reached.promise;
  }
}

const tell = (message: Record<string, string>): void => void process.send?.(message);
