/** What a run has seen so far. Zeros are the promise: `isClean` says which. */
export interface Tally {
  seed: number;
  kills: number;
  postmaster_kills: number;
  /** Source rows that committed statements of the application wrote. */
  operations: number;
  /** Times the slot sent WAL again that it had sent before. */
  redelivered: number;
  /** Listings that the watchers read. */
  reads: number;
  /** Snapshots or listings that ought to be there at the end. */
  missing: number;
  /** Listings of nobody's, or several of one booking. */
  extra: number;
  /** Fields that are not what the oracle says, or not what the snapshot says. */
  different: number;
  /** Times a listing was seen at a lower version than before (I3). */
  regressed: number;
  /** Listings that are on offer though their booking has ended (I4). */
  resurrected: number;
  /** Times everything was paused for a moment. */
  pauses: number;
  /** Manual actions that the API has confirmed. */
  manual_actions: number;
  /** Manual actions that have not exactly one audit row, or were refused and have one (I8). */
  unaudited: number;
  settle_ms: number;
  /** Commits of the application, and its statements that failed for a reason of ours (I5). */
  commits: number;
  application_errors: number;
  /** Appends, and listings that showed one half, out of order, or though it was rolled back. */
  appends: number;
  appends_torn: number;
  appends_out_of_order: number;
  appends_rolled_back: number;
  /** Times the slot was confirmed beyond the checkpoint (I2). */
  confirmed_early: number;
  /** Answers of the API that nothing excuses. */
  api_errors: number;
  /** Bookings set aside though nothing is wrong with them (I7). */
  parked: number;
  /** Processes that ended by themselves once they ran. */
  crashed: number;
  slots_dropped: number;
  /** Times everything was recomputed though no change can have been lost. */
  needless_resyncs: number;
  resyncs: number;
  takeovers: number;
}

export const createTally = (seed: number): Tally => ({
  seed,
  kills: 0,
  postmaster_kills: 0,
  operations: 0,
  redelivered: 0,
  reads: 0,
  missing: 0,
  extra: 0,
  different: 0,
  regressed: 0,
  resurrected: 0,
  pauses: 0,
  manual_actions: 0,
  unaudited: 0,
  settle_ms: 0,
  commits: 0,
  application_errors: 0,
  appends: 0,
  appends_torn: 0,
  appends_out_of_order: 0,
  appends_rolled_back: 0,
  confirmed_early: 0,
  api_errors: 0,
  parked: 0,
  crashed: 0,
  slots_dropped: 0,
  needless_resyncs: 0,
  resyncs: 0,
  takeovers: 0,
});

const VIOLATIONS = [
  'missing',
  'extra',
  'different',
  'regressed',
  'resurrected',
  'unaudited',
  'application_errors',
  'appends_torn',
  'appends_out_of_order',
  'appends_rolled_back',
  'confirmed_early',
  'api_errors',
  'parked',
  'crashed',
  'needless_resyncs',
] as const satisfies readonly (keyof Tally)[];

/** The promises that were broken; none for a clean run. */
export const violationsOf = (tally: Tally): (keyof Tally)[] => VIOLATIONS.filter((name) => tally[name] > 0);
