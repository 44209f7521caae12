import { PROBLEM_TYPE } from '../../src/api/problem.ts';
import type { Role } from '../../src/store/api-keys.ts';
import { createAnswerCheck } from '../api/answer-schema.ts';
import { mayCall } from './credentials.ts';
import { createMatch, isSafe, type Match, type OpenApiDocument, type Operation, pathOf } from './document.ts';
import type { FuzzRequest } from './fuzz-request.ts';
import type { Answer } from './wire.ts';
import type { State } from './world.ts';

/** One request with all that is known of it. */
export interface Exchange {
  request: FuzzRequest;
  answer: Answer;
  before: State;
  after: State;
}

interface Problem {
  code?: string;
  detail?: string;
  status?: number;
}

/** What an answer must be, as one sentence when it is not. */
type Promised = (
  exchange: Exchange,
  call: { match: Match | undefined; problem: Problem },
) => string | undefined;

/** What node's parser and the server refuse before there is a request: its method and path mean nothing then. */
const UNREADABLE = [
  'This is not an HTTP/1.1 request.',
  'The request target or the Host header is malformed.',
  'The request line and headers are too large.',
];

/**
 * An attempt that was made and failed is no refusal: MongoDB would not take the listing, or the snapshot cannot be
 * computed, or another publisher was at it. It is audited, since somebody did it.
 */
const FAILED_ATTEMPTS = ['not_processable', 'publisher_busy'];

/** Tells how an exchange breaks what the API promises; undefined when it does not. */
export function createPromises(
  document: OpenApiDocument,
  operations: readonly Operation[],
): (exchange: Exchange) => { broken: string | undefined; match: Match | undefined } {
  const matchTarget = createMatch(operations);
  const asDocumented = promiseDocumented(document);
  const promises = [
    answersAtAll,
    asDocumented,
    isAProblem,
    asksForRole,
    takesWhatIsValid,
    changesNothing,
    auditsOnce,
  ];
  return (exchange) => {
    const { request, answer } = exchange;
    const problem = readProblem(answer);
    // Without a body, that it has no id of a request tells.
    const isUnread = request.method === 'HEAD' && !answer.headers.has('x-request-id') && answer.status >= 400;
    const isReadable = !UNREADABLE.includes(problem.detail ?? '') && !isUnread;
    const match = isReadable ? matchTarget(request.method, request.target) : undefined;
    for (const promise of promises) {
      const broken = promise(exchange, { match, problem });
      if (broken !== undefined) return { broken, match };
    }
    return { broken: undefined, match };
  };
}

function readProblem({ status, body }: Answer): Problem {
  if (status < 400) return {};
  try {
    return JSON.parse(body.toString('utf8')) as Problem;
  } catch {
    return {};
  }
}

const answersAtAll: Promised = ({ request, answer }, { match, problem }) => {
  const { status } = answer;
  const isUnready = status === 503 && match?.operation.id === 'getReadiness';
  if (status >= 500 && !isUnready && problem.code !== 'publisher_busy') return `a ${status}`;
  if (request.method === 'HEAD' && answer.body.byteLength > 0 && !UNREADABLE.includes(problem.detail ?? '')) {
    return 'a body for HEAD';
  }
  if (answer.headers.has('x-injected')) return 'a header of the answer is the sender’s';
  if (/[^\x20-\x7e]/.test([...answer.headers.values()].join('')))
    return 'a header of the answer is not ASCII';
  return undefined;
};

/** Status, type and content are in the document, for this very operation. */
function promiseDocumented(document: OpenApiDocument): Promised {
  const differs = createAnswerCheck(document);
  return ({ request, answer }, { match, problem }) => {
    if (match === undefined || request.method === 'HEAD') return undefined;
    // Its length and type were refused before anybody looked where it goes.
    if (answer.status === 431 || UNREADABLE.includes(problem.detail ?? '')) return undefined;
    return differs({
      method: request.method,
      target: match.operation.path.replaceAll(/\{\w+\}/g, 'x'),
      status: answer.status,
      contentType: answer.headers.get('content-type'),
      body: answer.body.toString('utf8'),
    });
  };
}

const isAProblem: Promised = ({ request, answer }, { match, problem }) => {
  const { status, headers } = answer;
  if (headers.get('x-request-id') === undefined && !UNREADABLE.includes(problem.detail ?? '')) {
    if (request.method !== 'HEAD') return 'an answer without X-Request-Id';
  }
  if (status < 400 || match?.operation.id === 'getReadiness') return undefined;
  if (headers.get('content-type') !== PROBLEM_TYPE)
    return `a ${status} of type ${headers.get('content-type')}`;
  if (request.method === 'HEAD') return undefined;
  if (problem.status !== status || problem.code === undefined || problem.detail === undefined) {
    return `a ${status} that is no problem`;
  }
  if (status === 405 && headers.get('allow') === undefined) return 'a 405 without Allow';
  return undefined;
};

/** What is open to anybody. */
const isOpen = (path: string | undefined): boolean =>
  path !== undefined && /^\/(|openapi\.json|healthz|readyz|docs|docs\/.*|page\/.*)$/.test(path);

const asksForRole: Promised = ({ request, answer }, { match, problem }) => {
  const { proves } = request.credential;
  const { status } = answer;
  if (match === undefined) {
    const isKnown = proves !== 'none' && proves !== 'refused';
    return status < 400 && !isKnown && !isOpen(pathOf(request.target))
      ? `a ${status} for ${request.credential.name}`
      : undefined;
  }
  const needed: Role | undefined = match.operation.role;
  if (mayCall(proves, needed)) {
    return status === 401 || problem.code === 'role_refused' ? `a ${status} for who may` : undefined;
  }
  const expected = proves === 'none' || proves === 'refused' ? 401 : 403;
  return status === expected
    ? undefined
    : `a ${status} instead of ${expected} for ${request.credential.name}`;
};

const takesWhatIsValid: Promised = ({ request }, { problem }) => {
  const isRefused = ['malformed_request', 'unsupported_media_type', 'body_too_large'].includes(
    problem.code ?? '',
  );
  return request.mutations.length === 0 && isRefused
    ? `what the document describes is refused: ${problem.detail}`
    : undefined;
};

/** Whether it carries one good Idempotency-Key, where that counts. */
export function isRepeatable({ method, headers }: FuzzRequest): boolean {
  const keys = headers.filter(([name]) => name.toLowerCase() === 'idempotency-key');
  return (
    ['POST', 'PUT', 'DELETE'].includes(method) &&
    keys.length === 1 &&
    /^[\x21-\x7e]{1,255}$/.test(keys[0]?.[1] ?? '')
  );
}

/** The second of two exchanges with one Idempotency-Key is the first one's answer, after it was done. */
export function isSameAnswer(first: Answer, second: Answer): string | undefined {
  if (first.status >= 300) return undefined;
  if (second.headers.get('idempotency-replayed') !== 'true')
    return 'the same call with its key is not a replay';
  for (const name of ['content-type', 'etag', 'location']) {
    if (first.headers.get(name) !== second.headers.get(name)) return `a replay with another ${name}`;
  }
  return second.status === first.status && second.body.equals(first.body)
    ? undefined
    : 'a replay of another answer';
}

const isReplay = ({ answer }: Exchange): boolean => answer.headers.get('idempotency-replayed') === 'true';

/** Nothing but a manual action that succeeds does. */
const changesNothing: Promised = (exchange, { problem, match }) => {
  const { request, answer, before, after } = exchange;
  const mayChange = !isSafe(request.method) && match !== undefined && !isReplay(exchange);
  if (mayChange && (answer.status < 300 || FAILED_ATTEMPTS.includes(problem.code ?? ''))) return undefined;
  const what = isReplay(exchange) ? 'a replay' : `a ${answer.status} to ${request.method}`;
  if (after.fingerprint !== before.fingerprint) return `${what} has changed something`;
  if (after.audited !== before.audited) return `${what} was audited`;
  if (before.parked.some((id) => !after.parked.includes(id))) return `${what} has unparked a booking`;
  return undefined;
};

/**
 * What there was nothing to do for is not audited: a backfill while there is one, a sync-all of nothing. One that the
 * pipeline was quicker than has found something, and is.
 */
function mayHaveDoneNothing({ answer, before, after }: Exchange, match: Match | undefined): boolean {
  if (after.fingerprint !== before.fingerprint) return false;
  if (match?.operation.id === 'backfill') return after.tasks === before.tasks;
  return (
    match?.operation.id === 'syncAll' && /^\{"success":true,"total":0,/.test(answer.body.toString('utf8'))
  );
}

const auditsOnce: Promised = (exchange, { problem, match }) => {
  const { request, answer, before, after } = exchange;
  const isDone = answer.status < 300 || FAILED_ATTEMPTS.includes(problem.code ?? '');
  if (!isDone || isSafe(request.method) || isReplay(exchange)) return undefined;
  const [action, ...others] = after.newActions;
  if (action === undefined && mayHaveDoneNothing(exchange, match)) return undefined;
  if (action === undefined) return `a ${answer.status} to ${match?.operation.id} is not audited`;
  if (others.length > 0 || after.audited !== before.audited + 1) return 'it is audited more than once';
  const { actor } = request.credential;
  if (action.via !== 'http' || action.actor !== actor) return `it is audited as done by ${action.actor}`;
  if (action.request_id !== answer.headers.get('x-request-id'))
    return 'it is audited with another request id';
  return undefined;
};
