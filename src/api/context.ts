import type { RequestIdVariables } from 'hono/request-id';
import type pg from 'pg';
import type { Logger } from '../log.ts';
import type { Market } from '../mongo.ts';
import type { PublishContext } from '../store/publish.ts';
import type { Clock } from '../store/reconcile.ts';
import type { Probe } from './probe.ts';

/** What the API works with. It is stateless: any number of them may run, beside the pipeline or without it. */
export interface ApiContext {
  pool: pg.Pool;
  market: Market;
  log: Logger;
  /** Its `publisher` must be another name than the pipeline's: claims are told apart by it. */
  publish: PublishContext;
  /** PostgreSQL's own clock unless a test moves it. */
  clock?: Clock;
  /** The key that calls carry; undefined: there is none, and any key is a wrong one. */
  apiKey: string | undefined;
  /** False only where nobody but this machine can connect: calls without a key are then served, to loopback names only. */
  requireKey: boolean;
}

/** What the routes work with. */
export interface RouteContext extends ApiContext {
  probeDatabase: Probe;
  probeMarket: Probe;
  /** Aborted when the server stops: long work ends early and says how far it came. */
  stopping: AbortSignal;
}

/** What a request carries from one handler to the next. */
export interface ApiEnv {
  Variables: RequestIdVariables;
}
