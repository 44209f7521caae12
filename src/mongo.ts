import {
  BSON,
  type Collection,
  MongoBulkWriteError,
  MongoClient,
  MongoError,
  MongoNetworkError,
  MongoOperationTimeoutError,
  MongoServerSelectionError,
  type WithId,
} from 'mongodb';
import type { Listing } from './domain/listing.ts';
import { describeError, EnvironmentError, type ErrorKind, SettingsError } from './errors.ts';

/**
 * The oldest server with everything used here (keys with dots and dollars inside values). MongoDB 6 and later is what
 * is promised; Amazon DocumentDB, which has the same, calls itself 5.0.0.
 */
export const SERVER_VERSION_MIN = 5;

const LISTINGS_COLLECTION = 'market_listings';

/** `_id` of a listing. */
export type ListingId = WithId<Listing>['_id'];

/** The parts of Market Connect that this project touches. */
export interface Market {
  client: MongoClient;
  listings: Collection<WithId<Listing>>;
  server: MarketServer;
  close(): Promise<void>;
}

interface MarketServer {
  /** What the server calls itself, for example `7.0.14`. */
  version: string;
  /** True for the embedded stand-in (D12). */
  standIn: boolean;
  /**
   * False for FerretDB 1.x: there an update reads, compares and only then overwrites, so the older of two that run at
   * the same instant may win. One publisher at a time is safe with it; racing ones are not (measured).
   */
  atomicUpdates: boolean;
}

/**
 * Connects to Market Connect and checks that it is a server that can be written to. `timeoutMs` bounds the choice of a
 * server, a connection attempt, the wait for a free connection, the wait for a majority, and an unanswered request
 * (which the driver repeats once). The driver's own `timeoutMS` is not used: in 7.9 it has no effect.
 *
 * Throws a `SettingsError` for a URL that the driver cannot read, and an `EnvironmentError` for a server that is
 * unreachable, refuses the credentials, is too old or is a secondary. Neither repeats the URL: it may hold a password.
 */
export async function connectMarket(options: {
  url: string;
  database: string;
  timeoutMs: number;
  appName?: string;
}): Promise<Market> {
  const client = createClient(options);
  const address = client.options.srvHost ?? client.options.hosts.join(',');
  try {
    await client.connect();
    const admin = client.db('admin');
    const [hello, build] = [await admin.command({ hello: 1 }), await admin.command({ buildInfo: 1 })];
    const version = String(build.version);
    if (Number.parseInt(version, 10) < SERVER_VERSION_MIN) {
      throw new EnvironmentError(
        `MONGODB_URL: the server at ${address} is version ${version}, which is too old. Upgrade it to MongoDB 6 or later.`,
      );
    }
    if (hello.isWritablePrimary !== true) {
      throw new EnvironmentError(
        `MONGODB_URL: the server at ${address} is not a primary and takes no writes. Name the whole replica set in the URL (…/?replicaSet=NAME), without directConnection.`,
      );
    }
    return {
      client,
      listings: client.db(options.database).collection<WithId<Listing>>(LISTINGS_COLLECTION),
      server: {
        version,
        standIn: build.marketSyncStandIn === true,
        atomicUpdates: build.ferretdbVersion === undefined,
      },
      close: () => client.close(),
    };
  } catch (error) {
    await client.close();
    if (error instanceof EnvironmentError) throw error;
    throw explainRefusal(error, address);
  }
}

/** Whoever looks at a server for itself: not connected yet, nothing is asked or required of it. Throws as `connectMarket` for the URL. */
export function openMarketClient(options: { url: string; database: string; timeoutMs: number }) {
  const client = createClient({ ...options, appName: 'market-sync doctor' });
  return {
    client,
    address: client.options.srvHost ?? client.options.hosts.join(','),
    encrypted: client.options.tls,
    listings: client.db(options.database).collection<WithId<Listing>>(LISTINGS_COLLECTION),
  };
}

function createClient(options: {
  url: string;
  database: string;
  timeoutMs: number;
  appName?: string;
}): MongoClient {
  const { url, timeoutMs } = options;
  try {
    return new MongoClient(url, {
      appName: options.appName ?? 'market-sync',
      // I2: a listing counts as published when no failover can take it back. `journal` says the same to a server alone.
      writeConcern: { w: 'majority', journal: true, wtimeoutMS: timeoutMs },
      readConcern: { level: 'majority' },
      readPreference: 'primary',
      serverSelectionTimeoutMS: timeoutMs,
      connectTimeoutMS: timeoutMs,
      socketTimeoutMS: timeoutMs,
      waitQueueTimeoutMS: timeoutMs,
      maxPoolSize: 10,
      // As JSON does: a key without a value is no key. The driver's default stores null.
      ignoreUndefined: true,
      promoteValues: true,
      promoteLongs: true,
    });
  } catch {
    // The driver's message repeats the URL with its password, so it is not passed on, not even as a cause.
    throw new SettingsError(
      'MONGODB_URL=(not shown): the MongoDB driver cannot read this URL. It must look like mongodb://user:password@host:27017/?replicaSet=rs0, with special characters in user and password percent-encoded.',
    );
  }
}

function explainRefusal(error: unknown, address: string): EnvironmentError {
  const found = describeError(error);
  if (codeOf(error) === CODE.AuthenticationFailed || codeOf(error) === CODE.Unauthorized) {
    return new EnvironmentError(
      `MONGODB_URL: the server at ${address} refuses the credentials (${found}). Check user, password and authSource in the URL.`,
      { cause: error },
    );
  }
  return new EnvironmentError(
    `MONGODB_URL: no usable MongoDB server at ${address} (${found}). Start it, or mend the URL.`,
    { cause: error },
  );
}

export const LISTING_INDEXES = [
  { name: 'booking_id_1', key: { booking_id: 1 }, unique: true },
  { name: 'status_1', key: { status: 1 }, unique: false },
  { name: 'crop_type_1', key: { crop_type: 1 }, unique: false },
  { name: 'location_id_1', key: { location_id: 1 }, unique: false },
  { name: 'is_certified_1', key: { is_certified: 1 }, unique: false },
  // The pipeline's own: a new history asks for the highest epoch and for what is below it, whatever the size.
  { name: 'epoch_1', key: { epoch: 1 }, unique: false },
] as const;

/**
 * Creates the indexes that are missing: `booking_id` unique (what makes an insert an insert-if-absent), and what buyers
 * query by. An index of the owner's on the same key counts, whatever its name.
 *
 * Throws an `EnvironmentError` when several documents of one booking stand in the way, when an index on `booking_id`
 * is there but not unique, or when the user may not create indexes.
 */
export async function ensureListingIndexes(market: Market): Promise<void> {
  const present = await listIndexes(market);
  for (const { name, key, unique } of LISTING_INDEXES) {
    const existing = present.find((index) => JSON.stringify(index.key) === JSON.stringify(key));
    if (existing !== undefined && unique && existing.unique !== true) {
      throw new EnvironmentError(
        `MONGODB_URL: the index ${existing.name} of ${LISTINGS_COLLECTION} on booking_id is not unique. Drop it; a unique one is created at the next start.`,
      );
    }
    // Asking for several indexes of which some exist panics FerretDB 1.24: one at a time, and only what is missing.
    if (existing === undefined) await createIndex(market, { name, key, unique });
  }
}

async function listIndexes(market: Market): Promise<{ name: string; key: unknown; unique?: boolean }[]> {
  try {
    return await market.listings.listIndexes().toArray();
  } catch (error) {
    if (codeOf(error) === CODE.NamespaceNotFound) return [];
    throw error;
  }
}

async function createIndex(
  market: Market,
  index: { name: string; key: Record<string, 1>; unique: boolean },
): Promise<void> {
  const { name, key, unique } = index;
  try {
    await market.listings.createIndex(key, unique ? { name, unique } : { name });
  } catch (error) {
    if (codeOf(error) === CODE.Unauthorized) {
      throw new EnvironmentError(
        `MONGODB_URL: the user may not create the index ${name} on ${LISTINGS_COLLECTION}. Grant it readWrite on the database ${market.listings.dbName}.`,
        { cause: error },
      );
    }
    // FerretDB reports duplicates as an internal error, so the documents are asked, not the code.
    const bookings = unique ? await findDuplicates(market) : [];
    if (bookings.length > 0) {
      throw new EnvironmentError(
        `MONGODB_URL: ${LISTINGS_COLLECTION} holds several documents of one booking (booking_id ${bookings.join(', ')}), so booking_id cannot be unique. See which one of each stays, and delete the others: market-sync dedupe`,
        { cause: error },
      );
    }
    throw error;
  }
}

async function findDuplicates(market: Market): Promise<string[]> {
  const SHOWN_MAX = 5;
  const groups = await market.listings
    .aggregate<{ _id: unknown }>([
      { $group: { _id: '$booking_id', documents: { $sum: 1 } } },
      { $match: { documents: { $gt: 1 } } },
      { $limit: SHOWN_MAX },
    ])
    .toArray();
  return groups.map((group) => String(group._id));
}

/** MongoDB's codes that this project tells apart (src/mongo/base/error_codes.yml). */
const CODE = {
  Unauthorized: 13,
  AuthenticationFailed: 18,
  NamespaceNotFound: 26,
  DuplicateKey: 11000,
} as const;

const RETRYABLE_LABELS = [
  'RetryableWriteError',
  'TransientTransactionError',
  'RetryableError',
  'SystemOverloadedError',
];

const RETRYABLE_CODES = new Set<unknown>([
  6, // HostUnreachable
  7, // HostNotFound
  24, // LockTimeout
  50, // MaxTimeMSExpired
  64, // WriteConcernTimeout: written, but no majority has confirmed it yet
  89, // NetworkTimeout
  91, // ShutdownInProgress
  112, // WriteConflict
  133, // FailedToSatisfyReadPreference
  134, // ReadConcernMajorityNotAvailableYet
  189, // PrimarySteppedDown
  202, // NetworkInterfaceExceededTimeLimit
  262, // ExceededTimeLimit
  9001, // SocketException
  10107, // NotWritablePrimary
  11600, // InterruptedAtShutdown
  11602, // InterruptedDueToReplStateChange
  13435, // NotPrimaryNoSecondaryOk
  13436, // NotPrimaryOrSecondary
  14031, // OutOfDiskSpace
]);

/** Unauthorized, AuthenticationFailed: true of every operation, even where the server says it of one. */
const ACCESS_CODES = new Set<unknown>([13, 18]);

/** The server refused this one operation of a bulk, with a code that nobody here knows. */
class OperationRefusedError extends Error {
  override name = 'OperationRefusedError';
}

/**
 * What the server says of one operation of a bulk is that operation's own trouble, whatever the code: as an outage it
 * would hold up every other listing, again and again.
 */
export function toOperationError(error: { code?: unknown; errmsg?: string | undefined }): unknown {
  if (classifyMarketError(error) !== 'fatal' || ACCESS_CODES.has(error.code)) return error;
  return new OperationRefusedError(`MongoDB refused the listing (${error.code}: ${error.errmsg})`, {
    cause: error,
  });
}

/** What makes one document impossible to store, whoever tries and when. */
const POISON_CODES = new Set<unknown>([
  2, // BadValue
  9, // FailedToParse
  14, // TypeMismatch
  15, // Overflow: nested too deep
  22, // InvalidBSON
  28, // PathNotViable
  52, // DollarPrefixedFieldName
  56, // EmptyFieldName
  57, // DottedFieldName
  121, // DocumentValidationFailure
  171, // CannotIndexParallelArrays
  10334, // BSONObjectTooLarge
  11000, // DuplicateKey: on `_id`; one on booking_id is resolved before anybody classifies it
  17280, // KeyTooLong
  17419, // the document resulting from an update is too large
  17420, // a document to insert is too large
  'ERR_OUT_OF_RANGE', // bson's buffer: larger than any document may be
]);

/**
 * What to do after an error of the driver or the server, by class, label and code only. Takes the single errors of a
 * bulk write (`WriteError`, `WriteConcernError`) too. Unknown is fatal.
 */
export function classifyMarketError(error: unknown): ErrorKind {
  const origin = unwrapBulkError(error);
  if (origin instanceof MongoError && RETRYABLE_LABELS.some((label) => origin.hasErrorLabel(label))) {
    return 'retryable';
  }
  if (
    origin instanceof MongoNetworkError ||
    origin instanceof MongoServerSelectionError ||
    origin instanceof MongoOperationTimeoutError ||
    // Every connection of the pool was busy for too long; the driver does not export this class.
    (origin instanceof MongoError && origin.name === 'MongoWaitQueueTimeoutError')
  ) {
    return 'retryable';
  }
  if (origin instanceof BSON.BSONError || origin instanceof OperationRefusedError) return 'poison';
  const code = codeOf(origin);
  if (RETRYABLE_CODES.has(code)) return 'retryable';
  if (POISON_CODES.has(code)) return 'poison';
  return 'fatal';
}

/** The driver wraps whatever stopped a bulk write in a `MongoBulkWriteError` that has neither its class nor its code. */
function unwrapBulkError(error: unknown): unknown {
  if (!(error instanceof MongoBulkWriteError)) return error;
  const origin: unknown = error.errorResponse;
  return origin instanceof Error ? origin : error;
}

/** E11000: a document with this key is there already. */
export const isDuplicateKey = (error: unknown): boolean => codeOf(error) === CODE.DuplicateKey;

const codeOf = (error: unknown): unknown =>
  typeof error === 'object' && error !== null && 'code' in error ? error.code : undefined;
