/** Events kept for one reader. One that falls this far behind is dropped: it can connect again, and sees the state of then. */
const BUFFER_BYTES_MAX = 64 * 1024;

/** What is to be sent to one reader, bounded (I9). Texts are shared by all readers, so that a reader costs no more than its lag. */
export class EventBuffer {
  #waiting: string[] = [];
  #bytes = 0;
  #closed = false;
  #wake: (() => void) | undefined;
  readonly #onDrop: () => void;
  readonly #end = Promise.withResolvers<void>();

  /** `onDrop` is called once when the reader is too slow. */
  constructor(onDrop: () => void) {
    this.#onDrop = onDrop;
  }

  get closed(): boolean {
    return this.#closed;
  }

  /** Resolves when it is closed, by whomever. */
  get ended(): Promise<void> {
    return this.#end.promise;
  }

  push(text: string): void {
    if (this.#closed) return;
    this.#waiting.push(text);
    this.#bytes += Buffer.byteLength(text);
    if (this.#bytes > BUFFER_BYTES_MAX) {
      this.close();
      this.#onDrop();
    } else {
      this.#wake?.();
    }
  }

  /** What has come since the last call, once there is something; undefined when it is closed. One caller at a time. */
  async take(): Promise<string | undefined> {
    while (this.#waiting.length === 0 && !this.#closed) {
      await new Promise<void>((resolve) => {
        this.#wake = resolve;
      });
    }
    if (this.#closed) return undefined;
    const text = this.#waiting.join('');
    this.#waiting = [];
    this.#bytes = 0;
    return text;
  }

  /** Lets go of what waits. */
  close(): void {
    this.#closed = true;
    this.#waiting = [];
    this.#bytes = 0;
    this.#wake?.();
    this.#end.resolve();
  }
}
