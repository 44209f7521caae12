import { connect } from 'node:net';

/** A request as bytes: no client makes it well-formed on the way. Every character of a text is sent as one byte. */
export interface WireRequest {
  method: string;
  target: string;
  /** Their values may hold anything, line ends too. */
  headers: readonly (readonly [name: string, value: string])[];
  body: Buffer | undefined;
  framing: 'length' | 'chunked';
}

export interface Answer {
  status: number;
  /** By name in lower case; repeated ones are joined. */
  headers: ReadonlyMap<string, string>;
  body: Buffer;
  ms: number;
}

/** Longest that any answer may take. */
const ANSWER_MS_MAX = 5_000;

/**
 * Sends one request on a connection of its own and reads the whole answer; of an event stream what comes first, and
 * leaves. Throws when there is no answer in time, or what comes is not exactly one answer.
 */
export async function send(url: string, request: WireRequest): Promise<Answer> {
  const startedAt = performance.now();
  const { bytes, isStream } = await exchange(url, encode(request));
  const answer = decode(bytes, { isHead: request.method === 'HEAD', isStream });
  return { ...answer, ms: performance.now() - startedAt };
}

function encode({ method, target, headers, body, framing }: WireRequest): Buffer {
  const lines = [`${method} ${target} HTTP/1.1`];
  if (!headers.some(([name]) => name.toLowerCase() === 'host')) lines.push('Host: 127.0.0.1');
  lines.push('Connection: close', ...headers.map(([name, value]) => `${name}: ${value}`));
  if (body === undefined) return Buffer.from(`${lines.join('\r\n')}\r\n\r\n`, 'latin1');
  const length = body.byteLength;
  lines.push(framing === 'length' ? `Content-Length: ${length}` : 'Transfer-Encoding: chunked');
  const head = Buffer.from(`${lines.join('\r\n')}\r\n\r\n`, 'latin1');
  if (framing === 'length') return Buffer.concat([head, body]);
  const size = length === 0 ? '' : `${length.toString(16)}\r\n`;
  return Buffer.concat([
    head,
    Buffer.from(size),
    body,
    Buffer.from(length === 0 ? '0\r\n\r\n' : '\r\n0\r\n\r\n'),
  ]);
}

/** Everything that comes back until the server closes the connection. */
function exchange(url: string, bytes: Buffer): Promise<{ bytes: Buffer; isStream: boolean }> {
  const { hostname, port } = new URL(url);
  return new Promise((resolve, reject) => {
    const socket = connect({ host: hostname, port: Number(port) });
    const chunks: Buffer[] = [];
    let isStream = false;
    const late = setTimeout(() => {
      reject(new Error(`no whole answer within ${ANSWER_MS_MAX} ms; so far: ${Buffer.concat(chunks)}`));
      socket.destroy();
    }, ANSWER_MS_MAX);
    socket.on('data', (chunk) => {
      chunks.push(chunk);
      if (chunks.length > 4) return;
      const text = Buffer.concat(chunks).toString('latin1');
      const [head = '', body = ''] = text.replace(/^HTTP\/1.1 1.*?\r\n\r\n/s, '').split('\r\n\r\n', 2);
      isStream = /^content-type: text\/event-stream/im.test(head);
      if (isStream && body !== '') socket.destroy();
    });
    // Refused early, the server may hang up while the body is still being sent: the answer is what counts.
    socket.on('error', () => undefined);
    socket.on('close', () => {
      clearTimeout(late);
      resolve({ bytes: Buffer.concat(chunks), isStream });
    });
    socket.write(bytes);
  });
}

function decode(
  bytes: Buffer,
  { isHead, isStream }: { isHead: boolean; isStream: boolean },
): Omit<Answer, 'ms'> {
  const end = bytes.indexOf('\r\n\r\n');
  const [first = '', ...lines] = bytes.subarray(0, Math.max(end, 0)).toString('latin1').split('\r\n');
  const status = Number(/^HTTP\/1\.1 (\d{3}) /.exec(first)?.[1]);
  if (end < 0 || !(status >= 100)) throw new Error(`no answer: ${JSON.stringify(bytes.toString('latin1'))}`);
  const rest = bytes.subarray(end + 4);
  if (status < 200) return decode(rest, { isHead, isStream });
  const headers = new Map<string, string>();
  for (const line of lines) {
    const [name = '', value = ''] = line.split(/: ?(.*)/s, 2);
    const known = headers.get(name.toLowerCase());
    headers.set(name.toLowerCase(), known === undefined ? value : `${known}, ${value}`);
  }
  if (isStream) return { status, headers, body: rest };
  // To what was no request, the server does not know that it must not have a body.
  const isEmpty = (isHead && rest.byteLength === 0) || status === 204 || status === 304;
  const body = isEmpty ? { read: 0, content: Buffer.alloc(0) } : readContent(rest, headers);
  if (body.read !== rest.byteLength) throw new Error(`more than one answer: ${rest.subarray(body.read)}`);
  return { status, headers, body: body.content };
}

function readContent(bytes: Buffer, headers: ReadonlyMap<string, string>): { read: number; content: Buffer } {
  if (headers.get('transfer-encoding') === 'chunked') return readChunks(bytes);
  const length = Number(headers.get('content-length') ?? bytes.byteLength);
  if (!(bytes.byteLength >= length)) throw new Error(`${bytes.byteLength} of ${length} bytes`);
  return { read: length, content: bytes.subarray(0, length) };
}

function readChunks(bytes: Buffer): { read: number; content: Buffer } {
  const chunks: Buffer[] = [];
  let at = 0;
  for (;;) {
    const line = bytes.indexOf('\r\n', at);
    const length = Number.parseInt(bytes.subarray(at, line).toString('latin1'), 16);
    if (line < 0 || Number.isNaN(length)) throw new Error('a chunked body that ends early');
    chunks.push(bytes.subarray(line + 2, line + 2 + length));
    at = line + 2 + length + 2;
    if (length === 0) return { read: at, content: Buffer.concat(chunks) };
  }
}
