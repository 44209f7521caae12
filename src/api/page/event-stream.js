const RETRY_MS = 2_000;
const RETRY_MAX_MS = 15_000;
/** The API speaks every second: this long without a word, and the connection is dead, whatever TCP thinks. */
const SILENCE_MAX_MS = 10_000;

/**
 * Server-sent events over fetch: the browser's EventSource cannot send the key. Connects again until stopped, waiting
 * longer after each failure in a row.
 *
 * @param open `(signal) => Promise<Response>`
 * @param on `{event(name, data), lost(reason)}`
 * @returns stops it
 */
export function readEventStream(open, on) {
  const stopping = new AbortController();
  void follow(open, on, stopping.signal);
  return () => stopping.abort();
}

async function follow(open, on, stopped) {
  let failures = 0;
  while (!stopped.aborted) {
    const silence = new AbortController();
    let timer = setTimeout(() => silence.abort(), SILENCE_MAX_MS);
    let reason = 'The connection ended.';
    try {
      const response = await open(AbortSignal.any([stopped, silence.signal]));
      for await (const events of chunksOf(response)) {
        clearTimeout(timer);
        timer = setTimeout(() => silence.abort(), SILENCE_MAX_MS);
        for (const { name, data } of events) on.event(name, data);
        if (events.length > 0) failures = 0;
      }
    } catch (error) {
      if (stopped.aborted || error.status === 401) return;
      reason = silence.signal.aborted ? `No word for ${SILENCE_MAX_MS / 1_000} s.` : error.message;
    } finally {
      clearTimeout(timer);
    }
    if (stopped.aborted) return;
    on.lost(reason);
    const delayMs = Math.min(RETRY_MS * 2 ** failures, RETRY_MAX_MS) * (0.75 + Math.random() / 2);
    failures += 1;
    await new Promise((resolve) => setTimeout(resolve, delayMs));
  }
}

/** The events of each piece of the body, as it comes. */
async function* chunksOf(response) {
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = '';
  for (;;) {
    const { done, value } = await reader.read();
    if (done) return;
    const blocks = (rest + value).replaceAll('\r\n', '\n').split('\n\n');
    rest = blocks.pop() ?? '';
    yield blocks.flatMap(parseBlock);
  }
}

/** One event, or none: a block of comments is the server's sign of life. */
function parseBlock(block) {
  let name = 'message';
  const data = [];
  for (const line of block.split('\n')) {
    if (line.startsWith('event:')) name = line.slice(6).trim();
    else if (line.startsWith('data:')) data.push(line.slice(5).trimStart());
  }
  return data.length === 0 ? [] : [{ name, data: JSON.parse(data.join('\n')) }];
}
