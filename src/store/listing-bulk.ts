import { type AnyBulkWriteOperation, MongoBulkWriteError, type WithId } from 'mongodb';
import { crashPoint } from '../crash-point.ts';
import type { Listing } from '../domain/listing.ts';
import { classifyMarketError, isDuplicateKey, type Market, toOperationError } from '../mongo.ts';

export type ListingOperation = AnyBulkWriteOperation<WithId<Listing>>;

export interface BulkReply {
  insertedCount: number;
  /** Updates whose filter matched a document; the server does not say which. */
  matchedCount: number;
  /**
   * What failed, by position in the operations given. Not being here is not enough to count as written: the counts
   * must account for every insert and update that is not.
   */
  errors: Map<number, unknown>;
}

/**
 * Writes a batch in one unordered bulk and says what became of each operation. Never throws.
 *
 * A verdict of poison parks a booking, so it has to be the booking's own: FerretDB 1.24 blames the first update of a
 * command for any of them and leaves the rest undone, and what fails in the driver, before anything is sent, names no
 * operation at all. A blamed operation is therefore tried alone; when it is innocent, the batch is halved until the
 * culprit stands alone. The operations are guarded, so trying them twice does no harm.
 */
export async function writeBulk(market: Market, operations: ListingOperation[]): Promise<BulkReply> {
  const reply = await sendBulk(market, operations);
  const blamed = [...reply.errors].filter(([, error]) => isPoison(error)).map(([index]) => index);
  if (operations.length <= 1 || blamed.length === 0) return reply;

  if (blamed.length < operations.length) {
    let innocent = 0;
    for (const index of blamed) {
      const alone = await sendBulk(market, operations.slice(index, index + 1));
      reply.insertedCount += alone.insertedCount;
      reply.matchedCount += alone.matchedCount;
      if (alone.errors.has(0)) {
        reply.errors.set(index, alone.errors.get(0));
      } else {
        reply.errors.delete(index);
        innocent += 1;
      }
    }
    if (innocent === 0) return reply;
  }

  const middle = Math.ceil(operations.length / 2);
  const left = await writeBulk(market, operations.slice(0, middle));
  const right = await writeBulk(market, operations.slice(middle));
  for (const [index, error] of right.errors) left.errors.set(middle + index, error);
  return {
    insertedCount: left.insertedCount + right.insertedCount,
    matchedCount: left.matchedCount + right.matchedCount,
    errors: left.errors,
  };
}

async function sendBulk(market: Market, operations: ListingOperation[]): Promise<BulkReply> {
  try {
    await crashPoint('market.before_write');
    // The write concern, majority, is the connection's (mongo.ts).
    const { insertedCount, matchedCount } = await market.listings.bulkWrite(operations, { ordered: false });
    return { insertedCount, matchedCount, errors: new Map() };
  } catch (error) {
    if (!(error instanceof MongoBulkWriteError) || isWholeFailure(error)) {
      return { insertedCount: 0, matchedCount: 0, errors: blameAll(operations, error) };
    }
    const { insertedCount, matchedCount } = error;
    const unconfirmed = error.result.getWriteConcernError();
    // Written, but perhaps not by a majority: as good as not written (I2).
    const errors = unconfirmed === undefined ? new Map() : blameAll(operations, unconfirmed);
    for (const writeError of error.result.getWriteErrors())
      errors.set(writeError.index, toOperationError(writeError));
    return { insertedCount, matchedCount, errors };
  }
}

/**
 * The driver throws one class of error for "these operations failed" and for "the command failed", and lists no
 * operation for the latter: taking that for a bulk of which nothing failed would count everything as written.
 */
function isWholeFailure(error: MongoBulkWriteError): boolean {
  const response: unknown = error.errorResponse;
  if (response instanceof Error || error.ok === 0) return true;
  return error.result.getWriteErrors().length === 0 && error.result.getWriteConcernError() === undefined;
}

const blameAll = (operations: ListingOperation[], error: unknown): Map<number, unknown> =>
  new Map(operations.map((_, index) => [index, error]));

/** A duplicate key means that the document exists: the caller's next step, not the booking's fault. */
const isPoison = (error: unknown): boolean =>
  classifyMarketError(error) === 'poison' && !isDuplicateKey(error);
