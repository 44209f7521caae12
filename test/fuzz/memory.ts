import { randomUUID } from 'node:crypto';
import type { FuzzRequest } from './fuzz-request.ts';
import type { Answer } from './wire.ts';

/** What was read of earlier answers, for requests that refer to it. */
export class Memory {
  readonly #etags = new Map<string, string>();
  readonly #cursors = new Map<string, string>();
  #job: string = randomUUID();

  note({ operation, target }: FuzzRequest, { status, headers, body }: Answer): void {
    if (status >= 300) return;
    const etag = headers.get('etag');
    if (etag !== undefined) this.#etags.set(target, etag);
    const text = body.toString('utf8');
    const cursor = /"next_cursor":"([^"]+)"/.exec(text)?.[1];
    if (cursor !== undefined) this.#cursors.set(operation.id, cursor);
    this.noteJob(text);
  }

  /** The answer that names the last job. */
  noteJob(text: string): void {
    this.#job = /"job":\{"id":"([^"]+)"/.exec(text)?.[1] ?? this.#job;
  }

  /** The request with what `@job`, `@cursor`, `@etag` and `@fresh` stand for now, and the headers of its credential. */
  resolve(request: FuzzRequest): FuzzRequest {
    const { operation } = request;
    const target = request.target.replace('@job', this.#job);
    const cursor = this.#cursors.get(operation.id);
    const [path = '', search = ''] = target.split(/\?(.*)/s);
    const pairs = search.split('&').filter((pair) => cursor !== undefined || pair !== 'cursor=@cursor');
    const query = pairs.join('&').replaceAll('@cursor', cursor ?? '');
    const whole = query === '' ? path : `${path}?${query}`;
    const etag = this.#etags.get(whole) ?? '"1"';
    return {
      ...request,
      target: whole,
      headers: [
        ...request.headers.map(([name, value]) => {
          return [name, value.replace('@etag', etag).replace('@fresh', randomUUID())] as const;
        }),
        ...request.credential.headers,
      ],
    };
  }
}
