/** Something has not come in time. It may still come; nobody waits for it any more. */
export class LateError extends Error {
  override name = 'LateError';
}

/** The value, or a `LateError` when it takes longer than this. What comes later, a failure included, is not heard of. */
export async function within<Value>(limitMs: number, work: Promise<Value>): Promise<Value> {
  let timer: NodeJS.Timeout | undefined;
  const late = new Promise<never>((_, reject) => {
    timer = setTimeout(() => reject(new LateError(`no answer within ${limitMs} ms`)), limitMs);
  });
  try {
    return await Promise.race([work, late]);
  } finally {
    clearTimeout(timer);
  }
}
