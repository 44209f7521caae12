import type { RequestIdVariables } from 'hono/request-id';
import type pg from 'pg';
import type { Logger } from '../log.ts';
import type { Market } from '../mongo.ts';
import type { PublishContext } from '../store/publish.ts';
import type { Clock } from '../store/reconcile.ts';
import type { Caller } from './caller.ts';
import type { OidcSettings } from './oidc.ts';
import type { RequestMeter } from './metric-requests.ts';
import type { Probe } from './probe.ts';
import type { RateLimits } from './rate-limit.ts';

/** What the API works with. It is stateless: any number of them may run, beside the pipeline or without it. */
export interface ApiContext {
  pool: pg.Pool;
  market: Market;
  log: Logger;
  /** Its `publisher` must be another name than the pipeline's: claims are told apart by it. */
  publish: PublishContext;
  /** PostgreSQL's own clock unless a test moves it. */
  clock?: Clock;
  /** An admin's key that needs no database; undefined: there is none. */
  apiKey: string | undefined;
  /**
   * False only where nobody but this machine can connect and no key is configured: calls without a key are then served,
   * to loopback names only, until there is a key in the table `api_key`.
   */
  requireKey: boolean;
  /** Whose tokens are believed; undefined: nobody's. */
  oidc: OidcSettings | undefined;
  rateLimits: RateLimits;
}

/** What the routes work with. */
export interface RouteContext extends ApiContext {
  probeDatabase: Probe;
  probeMarket: Probe;
  /** Aborted when the server stops: long work ends early and says how far it came. */
  stopping: AbortSignal;
  /** Counts the requests of this API, for `/metrics`. */
  requestMeter: RequestMeter;
}

/** What a request carries from one handler to the next. */
export interface ApiEnv {
  Variables: RequestIdVariables & {
    /** Undefined on open paths, and until the key is checked. */
    caller?: Caller;
    /** Whether a call without a key is refused here. */
    keyRequired: boolean;
    /** `Idempotency-Key` of a call that changes something. */
    idempotencyKey?: string;
    /** The whole body, once it has been read. */
    body?: Uint8Array;
  };
}
