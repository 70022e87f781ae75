/**
 * Server-sent events, as far as OpenAI's streams use them: the data of each event. A character or a line may be split
 * over two network packets.
 *
 * Pure but for the stream it reads; knows no JSON and no page.
 */

/** Cuts text into events as it arrives. */
export class EventCutter {
  #rest = "";

  /**
   * Take in text and return the data of the events that it completes.
   *
   * @param {string} text
   * @returns {string[]}
   */
  take(text) {
    const events = (this.#rest + text).split(/\r?\n\r?\n/);
    this.#rest = /** @type {string} */ (events.pop());
    return events.map(dataOf).filter((data) => data !== "");
  }
}

/** @param {string} event */
function dataOf(event) {
  const lines = event.split(/\r?\n/).filter((line) => line.startsWith("data:"));
  return lines.map((line) => line.slice(5).replace(/^ /, "")).join("\n");
}

/**
 * Yield the data of every event of a stream of bytes.
 *
 * @param {ReadableStream<Uint8Array>} stream
 * @returns {AsyncGenerator<string>}
 */
export async function* events(stream) {
  const reader = stream.getReader();
  const decoder = new TextDecoder();
  const cutter = new EventCutter();
  try {
    for (;;) {
      const { done, value } = await reader.read();
      yield* cutter.take(done ? `${decoder.decode()}\n\n` : decoder.decode(value, { stream: true }));
      if (done) return;
    }
  } finally {
    reader.cancel().catch(() => {});
  }
}
