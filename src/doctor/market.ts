import { isLoopback } from '../config.ts';
import { LISTING_INDEXES, type openMarketClient, SERVER_VERSION_MIN } from '../mongo.ts';
import { type CheckDefinition, type Finding, failure, listNames, ok, skipped, warning } from './check.ts';
import { judgeTls } from './connection.ts';

export interface MarketContext extends ReturnType<typeof openMarketClient> {
  hello: HelloReply;
  build: { version?: unknown; marketSyncStandIn?: unknown; ferretdbVersion?: unknown };
}

/** The parts of the server's greeting that say what it is. */
export interface HelloReply {
  isWritablePrimary?: unknown;
  setName?: unknown;
  msg?: unknown;
  localTime?: unknown;
  lastWrite?: { lastWriteDate?: unknown; majorityWriteDate?: unknown };
}

type Look = CheckDefinition<MarketContext>['look'];

/** What the server grants a look at documents. */
const LOOK_MS = 1_000;

const NAMESPACE_NOT_FOUND = 26;
const UNAUTHORIZED = 13;

const codeOf = (error: unknown): unknown => (error as { code?: unknown } | undefined)?.code;

/** For the shell of MongoDB, in the collection of the listings. */
const mongosh = ({ listings }: MarketContext, call: string): string =>
  `mongosh "$MONGODB_URL" --eval 'db.getSiblingDB("${listings.dbName}").${listings.collectionName}.${call}'`;

const lookAtServer: Look = ({ build }) => {
  const version = String(build.version);
  if (build.marketSyncStandIn === true) {
    return ok('the in-process stand-in for MongoDB, for trying and testing only');
  }
  if (Number.parseInt(version, 10) < SERVER_VERSION_MIN) {
    return failure(
      `MongoDB ${version} is too old: 6 is the oldest that is supported`,
      'export MONGODB_URL=mongodb://…  # of MongoDB 6 or later',
    );
  }
  if (build.ferretdbVersion !== undefined) {
    return warning(
      `FerretDB ${String(build.ferretdbVersion)}: its updates are not atomic, run one publisher only`,
      'export MONGODB_URL=mongodb://…  # of MongoDB 6 or later',
    );
  }
  return ok(`MongoDB ${version}`);
};

const isMongos = (hello: HelloReply): boolean => hello.msg === 'isdbgrid';

const lookAtRole: Look = ({ hello, address }) => {
  if (hello.isWritablePrimary !== true) {
    return failure(
      `the server at ${address} is no primary and takes no writes: name the whole replica set, without directConnection`,
      "export MONGODB_URL='mongodb://HOST1,HOST2,HOST3/?replicaSet=NAME'",
    );
  }
  if (isMongos(hello)) return ok('a mongos');
  return ok(typeof hello.setName === 'string' ? `primary of ${hello.setName}` : 'a server alone');
};

/** So far may the majority be behind the newest write: writes of the moment are under way. */
const MAJORITY_LAG_MAX_MS = 10_000;

/** Asks the members, which not every login may; nothing is written to find out. */
async function countHealthy(ctx: MarketContext): Promise<{ healthy: number; needed: number } | undefined> {
  try {
    const status = await ctx.client.db('admin').command({ replSetGetStatus: 1 });
    const members = Array.isArray(status.members)
      ? (status.members as { health?: unknown; state?: unknown }[])
      : [];
    // 1: primary, 2: secondary. Arbiters hold no data and confirm nothing.
    const healthy = members.filter(
      ({ health, state }) => health === 1 && (state === 1 || state === 2),
    ).length;
    const needed = Number(status.writeMajorityCount ?? status.majorityVoteCount);
    return Number.isFinite(needed) ? { healthy, needed } : undefined;
  } catch (error) {
    if (codeOf(error) === UNAUTHORIZED) return undefined;
    throw error;
  }
}

const RS_STATUS = `mongosh "$MONGODB_URL" --eval 'rs.status()'`;

const lookAtWriteConcern: Look = async (ctx): Promise<Finding> => {
  const { hello } = ctx;
  if (isMongos(hello)) return skipped('behind a mongos it cannot be told without writing');
  if (typeof hello.setName !== 'string') return ok('a server alone confirms once its journal is written');
  const members = await countHealthy(ctx);
  if (members !== undefined && members.healthy < members.needed) {
    return failure(
      `${members.healthy} members that hold data are well, a majority needs ${members.needed}: no listing is confirmed`,
      RS_STATUS,
    );
  }
  const { lastWriteDate: last, majorityWriteDate: majority } = hello.lastWrite ?? {};
  if (!(last instanceof Date && majority instanceof Date)) {
    return members === undefined
      ? skipped('it cannot be told without writing: the server does not say')
      : ok(`${members.healthy} members are well, a majority needs ${members.needed}`);
  }
  const lagMs = last.getTime() - majority.getTime();
  if (lagMs > MAJORITY_LAG_MAX_MS) {
    return failure(`a majority is ${Math.round(lagMs / 1_000)} s behind the newest write`, RS_STATUS);
  }
  return ok('a majority has confirmed the newest write');
};

interface IndexReply {
  name?: string;
  key: Record<string, unknown>;
  unique?: boolean;
}

/** Undefined when there is no collection yet. */
async function listIndexes({ listings }: MarketContext): Promise<IndexReply[] | undefined> {
  try {
    return (await listings.listIndexes().toArray()) as IndexReply[];
  } catch (error) {
    if (codeOf(error) === NAMESPACE_NOT_FOUND) return undefined;
    throw error;
  }
}

const NO_COLLECTION = 'no collection yet: the first start makes it';

const isOn = (index: IndexReply, key: object): boolean => JSON.stringify(index.key) === JSON.stringify(key);

const lookAtIndexes: Look = async (ctx) => {
  const present = await listIndexes(ctx);
  if (present === undefined) return ok(NO_COLLECTION);
  const loose = present.find((index) => isOn(index, { booking_id: 1 }) && index.unique !== true);
  if (loose !== undefined) {
    return failure(
      `the index ${loose.name} on booking_id is not unique. Drop it, the next start makes a unique one:`,
      mongosh(ctx, `dropIndex("${loose.name}")`),
    );
  }
  const missing = LISTING_INDEXES.filter(({ key }) => !present.some((index) => isOn(index, key)));
  if (missing.length === 0) return ok('unique on booking_id, and those that buyers query by');
  const calls = missing.map(({ key, unique }) =>
    mongosh(ctx, `createIndex(${JSON.stringify(key)}${unique ? ', {unique: true}' : ''})`),
  );
  return warning(
    `missing, and made by the next start: ${listNames(missing.map(({ name }) => name))}`,
    calls.join('\n'),
  );
};

const UNGUARDED_SHOWN_MAX = 1_000;

const lookAtGuards: Look = async ({ listings }) => {
  // Missing or null: what the index on epoch finds at once, however many others there are.
  const found = await listings
    .find({ epoch: null as never }, { maxTimeMS: LOOK_MS })
    .project({ _id: 1 })
    .limit(UNGUARDED_SHOWN_MAX + 1)
    .toArray();
  if (found.length === 0) return ok('every document has its epoch');
  const count = found.length > UNGUARDED_SHOWN_MAX ? `more than ${UNGUARDED_SHOWN_MAX}` : `${found.length}`;
  return warning(
    `${count} documents without epoch and revision, of an older system: once migrated, a backfill and the first start adopt them by booking_id, and an audit those that come later`,
    'market-sync backfill\nmarket-sync audit --repair',
  );
};

const SHOWN_MAX = 5;

const lookAtDuplicates: Look = async (ctx) => {
  const present = await listIndexes(ctx);
  if (present === undefined) return ok(NO_COLLECTION);
  if (present.some((index) => isOn(index, { booking_id: 1 }) && index.unique === true)) {
    return ok('the unique index on booking_id keeps them out');
  }
  const groups = await ctx.listings
    .aggregate<{ _id: unknown }>(
      [
        { $group: { _id: '$booking_id', documents: { $sum: 1 } } },
        { $match: { documents: { $gt: 1 } } },
        { $limit: SHOWN_MAX + 1 },
      ],
      { maxTimeMS: LOOK_MS },
    )
    .toArray();
  if (groups.length === 0) return ok('one document a booking');
  return failure(
    `${groups.length > SHOWN_MAX ? `more than ${SHOWN_MAX}` : groups.length} bookings have several documents, so booking_id cannot be unique. Find them, and delete all but one of each:`,
    mongosh(
      ctx,
      'aggregate([{$group: {_id: "$booking_id", ids: {$push: "$_id"}, n: {$sum: 1}}}, {$match: {n: {$gt: 1}}}])',
    ),
  );
};

const lookAtTls: Look = ({ address, encrypted }) =>
  judgeTls({
    local: address.split(',').every((host) => isLoopback(host.replace(/:\d+$/, '').replace(/^\[|\]$/g, ''))),
    encrypted,
    setting: 'MONGODB_URL',
    parameter: '?tls=true',
  });

export const MARKET_CHECKS: readonly CheckDefinition<MarketContext>[] = [
  {
    name: 'mongodb_server',
    means: 'Failure below version 5 (DocumentDB calls itself so), warning for FerretDB. Names the stand-in.',
    stops: true,
    look: lookAtServer,
  },
  { name: 'mongodb_role', means: 'Failure on a secondary.', stops: true, look: lookAtRole },
  {
    name: 'mongodb_write_concern',
    means:
      'Failure when too few members are well for a majority, or it is 10 s behind. Nothing is written; skipped where it cannot be told.',
    look: lookAtWriteConcern,
  },
  {
    name: 'listing_indexes',
    means: 'Failure when the index on `booking_id` is not unique, warning for those that are missing.',
    stops: true,
    look: lookAtIndexes,
  },
  {
    name: 'listing_guards',
    means: 'Warning of documents without epoch and revision, which an older system wrote.',
    look: lookAtGuards,
  },
  {
    name: 'listing_duplicates',
    means:
      'Failure when several documents have one `booking_id`; skipped when a second does not suffice to tell.',
    stops: true,
    look: lookAtDuplicates,
  },
  {
    name: 'mongodb_tls',
    means: 'Warning when the connection leaves this machine unencrypted.',
    look: lookAtTls,
  },
];
