const TIMEOUT_MS = 20_000;
const ATTEMPTS_MAX = 3;
const RETRY_DELAY_MS = 400;

/** What went wrong with a call, as the API's problem+json says it, or in the page's own words when there was no answer. */
export class CallError extends Error {
  name = 'CallError';

  constructor(message, { status = 0, code = 'no_answer', requestId, cause } = {}) {
    super(message, { cause });
    this.status = status;
    this.code = code;
    this.requestId = requestId;
  }
}

/** `crypto.randomUUID` exists on https and localhost only; an installation may be reached over plain http. */
function randomUuid() {
  if (crypto.randomUUID !== undefined) return crypto.randomUUID();
  const bytes = crypto.getRandomValues(new Uint8Array(16));
  bytes[6] = (bytes[6] & 0x0f) | 0x40;
  bytes[8] = (bytes[8] & 0x3f) | 0x80;
  const hex = [...bytes].map((byte) => byte.toString(16).padStart(2, '0')).join('');
  return hex.replace(/^(.{8})(.{4})(.{4})(.{4})(.{12})$/, '$1-$2-$3-$4-$5');
}

/** Calls to the API with the key that `readKey` gives. `onRefused()` hears of every 401. */
export function createApi({ readKey, onRefused }) {
  const headersOf = (extra, withoutKey) => {
    const key = withoutKey ? undefined : readKey();
    return { ...(key ? { authorization: `Bearer ${key}` } : {}), ...extra };
  };

  async function call(path, { method = 'GET', headers, body, signal, withoutKey } = {}) {
    let response;
    try {
      response = await fetch(path, {
        method,
        headers: headersOf(headers, withoutKey),
        body,
        signal,
        redirect: 'error',
      });
    } catch (cause) {
      if (cause?.name === 'TimeoutError') {
        throw new CallError(`No answer within ${TIMEOUT_MS / 1_000} s.`, { code: 'timeout', cause });
      }
      if (cause?.name === 'AbortError') throw cause;
      throw new CallError('The API cannot be reached.', { cause });
    }
    if (response.ok) return response;
    const problem = await response.json().catch(() => ({}));
    const error = new CallError(problem.detail ?? `The API answered ${response.status}.`, {
      status: response.status,
      code: problem.code,
      requestId: problem.request_id ?? response.headers.get('x-request-id') ?? undefined,
    });
    if (response.status === 401) onRefused();
    throw error;
  }

  async function read(path, options = {}) {
    const response = await call(path, { ...options, signal: AbortSignal.timeout(TIMEOUT_MS) });
    return response.status === 204 ? {} : response.json();
  }

  /**
   * A manual action. Repeated when no answer came: the Idempotency-Key makes the API do it once, and replay the answer.
   */
  async function act(path, body, method = 'POST') {
    const headers = {
      'idempotency-key': randomUuid(),
      ...(body === undefined ? {} : { 'content-type': 'application/json' }),
    };
    for (let attempt = 1; ; attempt += 1) {
      try {
        return await read(path, { method, headers, ...(body && { body: JSON.stringify(body) }) });
      } catch (error) {
        const unanswered = error.status === 0 || error.code === 'idempotency_in_work';
        if (!unanswered || attempt === ATTEMPTS_MAX) throw error;
        await new Promise((resolve) => setTimeout(resolve, RETRY_DELAY_MS * attempt));
      }
    }
  }

  return {
    get: read,
    act,
    /** An answer whose body is read as it comes, until `signal`. */
    open: (path, signal) => call(path, { headers: { accept: 'text/event-stream' }, signal }),
  };
}
