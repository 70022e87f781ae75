/**
 * Writes answers: asks the server for all of a message's at the same time, and takes in what comes until the end or a
 * stop.
 *
 * Knows no page.
 */

import { takeChunk } from "./answer.js";
import { ServerError } from "./api.js";

/** @typedef {import("./answer.js").Answer} Answer */
/** @typedef {import("./api.js").Api} Api */
/** @typedef {import("./conversation.js").Message} Message */
/** @typedef {import("./conversation.js").Spoken} Spoken */

export class Writer {
  /** @type {AbortController | null} what stops the message that is being written */
  #running = null;
  #api;
  #onBusy;

  /** @param {Api} api @param {(busy: boolean) => void} onBusy */
  constructor(api, onBusy) {
    this.#api = api;
    this.#onBusy = onBusy;
  }

  stop() {
    this.#running?.abort();
    this.#run(null);
  }

  /** @param {AbortController | null} running */
  #run(running) {
    this.#running = running;
    this.#onBusy(running !== null);
  }

  /**
   * Fill a message's answers, and return what went wrong.
   *
   * @param {Message} message
   * @param {{model: string, messages: Spoken[]}} request
   * @param {() => void} onGrowth
   * @returns {Promise<ServerError[]>}
   */
  async write({ answer, plain }, request, onGrowth) {
    const running = new AbortController();
    const answers = [answer, plain].filter((wanted) => wanted !== null && wanted !== undefined);
    this.#run(running);
    const errors = await Promise.all(answers.map((wanted) => this.#fill(wanted, request, running.signal, onGrowth)));
    if (this.#running === running) this.#run(null);
    return errors.filter((error) => error !== null);
  }

  /**
   * @param {Answer} answer
   * @param {{model: string, messages: Spoken[]}} request
   * @param {AbortSignal} signal
   * @param {() => void} onGrowth
   * @returns {Promise<ServerError | null>}
   */
  async #fill(answer, request, signal, onGrowth) {
    const given = Object.entries(answer.sampling).filter(([, value]) => value !== null);
    const body = { ...request, steering: answer.steering, telemetry: true, ...Object.fromEntries(given) };
    try {
      for await (const chunk of this.#api.chat(body, signal)) {
        takeChunk(answer, chunk);
        onGrowth();
      }
      answer.state = "done";
    } catch (error) {
      answer.state = signal.aborted ? "stopped" : "failed";
      if (signal.aborted) return null;
      if (!(error instanceof ServerError)) throw error;
      answer.error = { what: error.what, remedy: error.remedy };
      return error;
    }
    return null;
  }
}
