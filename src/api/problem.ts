import { STATUS_CODES } from 'node:http';
import { z } from '@hono/zod-openapi';
import { HTTPException } from 'hono/http-exception';

/** Every error that the API answers, by the code that tells programs which one it is, with its status. */
const PROBLEMS = {
  malformed_request: { status: 400, example: 'path: booking_id must be a UUID' },
  not_publishable: {
    status: 400,
    example: 'The booking was cancelled or deleted: its snapshot is withdrawn.',
  },
  key_refused: {
    status: 401,
    example: 'This call needs a valid key: Authorization: Bearer KEY, or X-API-Key.',
  },
  role_refused: { status: 403, example: 'This call needs the role operator; yours is reader.' },
  cross_site: { status: 403, example: 'Calls that change something must not come from another site.' },
  not_found: { status: 404, example: 'There is no snapshot of this booking.' },
  method_not_allowed: { status: 405, example: 'This address takes GET, HEAD.' },
  body_timeout: { status: 408, example: 'The body did not arrive within 5 s.' },
  not_computed: { status: 409, example: 'The snapshot has not been computed yet. Reconcile it first.' },
  not_parked: { status: 409, example: 'This booking is not parked: there is nothing to retry.' },
  conflict: { status: 409, example: 'The booking is withdrawn already.' },
  paused: { status: 409, example: 'The pipeline is paused. Resume it first.' },
  idempotency_in_work: {
    status: 409,
    example: 'A call with this Idempotency-Key is in work. Ask again in a moment for its answer.',
  },
  version_mismatch: { status: 412, example: 'It was changed meanwhile: read it again.' },
  body_too_large: { status: 413, example: 'The body is larger than 65536 bytes.' },
  unsupported_media_type: { status: 415, example: 'A body must be application/json.' },
  wrong_host: { status: 421, example: 'Without a key only loopback names are served.' },
  not_processable: {
    status: 422,
    example: 'The listing has 17000000 bytes, more than the 16711680 that fit.',
  },
  bad_argument: { status: 422, example: 'quality_score must be from 0 to 100.' },
  idempotency_mismatch: {
    status: 422,
    example: 'This Idempotency-Key was used for another call. Take a new one.',
  },
  rate_limited: { status: 429, example: 'Too many calls. Try again in 3 s.' },
  headers_too_large: { status: 431, example: 'The request line and headers are too large.' },
  internal_error: { status: 500, example: 'An unexpected error; the log has it under this request_id.' },
  database_unavailable: { status: 503, example: 'PostgreSQL cannot be reached at the moment.' },
  market_unavailable: { status: 503, example: 'MongoDB cannot be reached at the moment.' },
  publisher_busy: { status: 503, example: 'Another publisher has this snapshot in work.' },
  identity_unavailable: { status: 503, example: 'The keys of OIDC_ISSUER cannot be had at the moment.' },
  too_many_streams: { status: 503, example: 'Too many event streams are open. Try again later.' },
  timed_out: { status: 503, example: 'No answer within 10 s.' },
} as const;

export type ProblemCode = keyof typeof PROBLEMS;
const CODES = Object.keys(PROBLEMS) as [ProblemCode, ...ProblemCode[]];

export const PROBLEM_TYPE = 'application/problem+json';

const inputErrorSchema = z
  .object({
    in: z.enum(['path', 'query', 'header', 'body']),
    name: z.string().openapi({ example: 'booking_id' }),
    message: z.string().openapi({ example: 'must be a UUID' }),
  })
  .openapi('InputError', { description: 'One thing that is wrong with the request.' });

export type InputError = z.infer<typeof inputErrorSchema>;

export const problemSchema = z
  .object({
    type: z.literal('about:blank'),
    title: z.string().openapi({ description: 'The phrase of the status.', example: 'Not Found' }),
    status: z.int().min(400).max(599).openapi({ example: 404 }),
    detail: z.string().openapi({ description: 'What happened, for people.' }),
    code: z.enum(CODES).openapi({ description: 'What happened, for programs.' }),
    request_id: z.string().openapi({ description: 'Find the request in the log by it.' }),
    errors: z.array(inputErrorSchema).optional(),
  })
  .openapi('Problem', { description: 'An error as in RFC 9457.' });

export type Problem = z.infer<typeof problemSchema>;

interface ProblemDetails {
  detail: string;
  errors?: InputError[];
  headers?: Record<string, string>;
  cause?: unknown;
}

/** Thrown anywhere below a route, it is the route's answer. */
export class ProblemError extends HTTPException {
  override name = 'ProblemError';
  readonly code: ProblemCode;
  readonly errors: InputError[] | undefined;
  readonly headers: Record<string, string>;

  constructor(code: ProblemCode, { detail, errors, headers, cause }: ProblemDetails) {
    super(PROBLEMS[code].status, { message: detail, cause });
    this.code = code;
    this.errors = errors;
    this.headers = headers ?? {};
  }
}

/** A 503: the same call may succeed in a moment. */
export function unavailable(
  code:
    | 'database_unavailable'
    | 'market_unavailable'
    | 'publisher_busy'
    | 'identity_unavailable'
    | 'too_many_streams'
    | 'timed_out',
  details: ProblemDetails,
): ProblemError {
  const RETRY_AFTER_SECONDS = 2;
  return new ProblemError(code, { ...details, headers: { 'retry-after': String(RETRY_AFTER_SECONDS) } });
}

/** Who calls is not known, or not believed. */
export const keyRefused = (cause?: unknown): ProblemError =>
  new ProblemError('key_refused', {
    detail: 'This call needs a valid key: Authorization: Bearer KEY, or X-API-Key: KEY.',
    headers: { 'www-authenticate': 'Bearer realm="market-sync"' },
    cause,
  });

/** What nobody foresaw: the caller learns where to look, and nothing else. */
export const unexpectedError = (cause: unknown): ProblemError =>
  new ProblemError('internal_error', {
    detail: 'An unexpected error; the log has it under this request_id.',
    cause,
  });

/** The body of the answer. */
export function toProblem(error: ProblemError, requestId: string): Problem {
  return {
    type: 'about:blank',
    title: STATUS_CODES[error.status] ?? 'Error',
    status: error.status,
    detail: error.message,
    code: error.code,
    request_id: requestId,
    ...(error.errors === undefined ? {} : { errors: error.errors }),
  };
}

export const problemResponse = (error: ProblemError, requestId: string): Response =>
  new Response(JSON.stringify(toProblem(error, requestId)), {
    status: error.status,
    headers: { ...error.headers, 'content-type': PROBLEM_TYPE },
  });

interface DocumentedProblem {
  description: string;
  content: { [PROBLEM_TYPE]: { schema: typeof problemSchema; examples: Record<string, { value: Problem }> } };
}

/** What any read may answer. */
export const READ_PROBLEMS = [
  'malformed_request',
  'key_refused',
  'wrong_host',
  'internal_error',
  'database_unavailable',
  'timed_out',
] as const satisfies ProblemCode[];

/** What any manual action may answer. */
export const ACTION_PROBLEMS = [
  ...READ_PROBLEMS,
  'cross_site',
  'body_timeout',
  'body_too_large',
  'unsupported_media_type',
] as const satisfies ProblemCode[];

/** OpenAPI's description of these errors, by status. */
export function documentProblems(codes: readonly ProblemCode[]): Record<number, DocumentedProblem> {
  const documented: Record<number, DocumentedProblem> = {};
  for (const code of codes) {
    const { status, example } = PROBLEMS[code];
    const error = new ProblemError(code, { detail: example });
    const entry = documented[status] ?? {
      description: STATUS_CODES[status] ?? '',
      content: { [PROBLEM_TYPE]: { schema: problemSchema, examples: {} } },
    };
    entry.content[PROBLEM_TYPE].examples[code] = {
      value: toProblem(error, '0b5c6a2e-3f0e-4a55-9d0a-5b1f2f1f7f11'),
    };
    documented[status] = entry;
  }
  return documented;
}
