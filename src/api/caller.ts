import type { Context } from 'hono';
import type { Role } from '../store/api-keys.ts';
import type { Actor } from '../store/manual-actions.ts';
import type { ApiEnv } from './context.ts';
import { keyRefused } from './problem.ts';

/** Who makes a call, as it was proved. */
export interface Caller {
  /**
   * What the audit writes: the name of a key, `API_KEY` for the setting's, `oidc:SUBJECT`, or `local` for a call from
   * this machine without any. No two ways of proving share a name.
   */
  name: string;
  role: Role;
  via: 'key' | 'setting' | 'oidc' | 'local';
  /** When this proof ends; undefined: it does not. */
  expiresAt: Date | undefined;
}

/** The caller as the audit writes it, with what tells this call from others. */
export function actorOf(c: Context<ApiEnv>): Actor {
  const caller = c.get('caller');
  if (caller === undefined) throw keyRefused();
  return { actor: caller.name, requestId: c.get('requestId'), idempotencyKey: c.get('idempotencyKey') };
}
