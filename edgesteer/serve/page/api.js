/**
 * The server's HTTP interface, and every failure of it in words: what happened and what to do.
 *
 * Knows no page.
 */

import { events } from "./sse.js";

/**
 * @typedef {object} Controller
 * @property {string} name
 * @property {string} positive  name of the pole that positive strengths steer towards
 * @property {string} negative
 * @property {number[]} blocks  the steered blocks, ascending
 * @property {number} default_strength
 * @property {number} tuned_strength
 * @property {[number, number]} safe_range
 * @property {[number, number]} limits  strengths outside are refused
 * @property {string | null} file
 */

/**
 * @typedef {object} Chunk  one event of a streamed answer
 * @property {{delta?: {content?: string | null}, finish_reason?: string | null}[]} [choices]
 * @property {Telemetry} [edgesteer]
 * @property {ErrorBody} [error]
 */

/**
 * @typedef {object} Telemetry
 * @property {string} [text]
 * @property {number | null} [token]
 * @property {Record<string, WireReading>} [readings]  of the token before this one
 * @property {{predicted_n?: number, predicted_per_second?: number}} [timings]
 * @property {string[]} [warnings]
 */

/**
 * @typedef {object} WireReading
 * @property {number | null} alpha
 * @property {number | null} setpoint
 * @property {number | null} running_mean
 * @property {number | null} effort
 * @property {(number | null)[]} push  |u| of each steered block
 */

/** @typedef {{message?: string, code?: string | null}} ErrorBody */

/** A failure in words. `needsKey` is true where a key would help. */
export class ServerError extends Error {
  /**
   * @param {string} what
   * @param {string} remedy
   * @param {number} status  0 where the server did not answer
   */
  constructor(what, remedy, status = 0) {
    super(`${what} ${remedy}`.trim());
    this.what = what;
    this.remedy = remedy;
    this.status = status;
  }

  get needsKey() {
    return this.status === 401;
  }
}

const UNREACHABLE = "Check that `edgesteer serve` is still running and that you are connected to it, then try again.";

/**
 * Put an answer that is not OK into words.
 *
 * @param {number} status
 * @param {string} message  the server's own words, or ""
 * @param {string | null} retryAfter  the header's seconds
 * @returns {ServerError}
 */
export function explain(status, message, retryAfter = null) {
  const wait = Number(retryAfter) > 0 ? `Try again in ${Number(retryAfter)} s.` : "Try again in a moment.";
  if (status === 401) return new ServerError("The server wants a key, or refused this one.", "Enter its key.", status);
  if (status === 429) return new ServerError("The server is busy with other requests.", wait, status);
  if (status === 503) return new ServerError("The server is shutting down.", "Start it again, then try again.", status);
  if (status >= 500) return new ServerError(`The server failed (${status}). ${message}`, "Its log says more.", status);
  return new ServerError(message || `The server refused this (${status}).`, "", status);
}

export class Api {
  /** The bearer key, or "" for none. */
  key = "";

  /** @returns {Promise<string>} the name of the model */
  async model() {
    return (await this.#json("GET", "v1/models")).data[0]?.id ?? "";
  }

  /** @returns {Promise<Controller[]>} */
  async controllers() {
    return (await this.#json("GET", "v1/steering")).data;
  }

  /** @returns {Promise<string[]>} the sidecars that can be loaded */
  async files() {
    return (await this.#json("GET", "v1/steering/files")).data;
  }

  /**
   * @param {string} file
   * @returns {Promise<Controller>}
   */
  async load(file) {
    return this.#json("POST", "v1/steering", { file });
  }

  /** @param {string} name */
  async unload(name) {
    await this.#request("DELETE", `v1/steering/${encodeURIComponent(name)}`);
  }

  /**
   * Yield the chunks of a streamed answer. Throws ServerError, also when the stream breaks off, and what the signal's
   * abort throws.
   *
   * @param {object} body
   * @param {AbortSignal} signal
   * @returns {AsyncGenerator<Chunk>}
   */
  async *chat(body, signal) {
    const response = await this.#request("POST", "v1/chat/completions", { ...body, stream: true }, signal);
    try {
      for await (const data of events(/** @type {ReadableStream<Uint8Array>} */ (response.body))) {
        if (data === "[DONE]") return;
        /** @type {Chunk} */
        const chunk = JSON.parse(data);
        if (chunk.error) throw new ServerError("The server ended the answer.", chunk.error.message ?? "");
        yield chunk;
      }
    } catch (error) {
      throw error instanceof ServerError || signal.aborted ? error : broken();
    }
    throw broken();
  }

  /**
   * @param {string} method
   * @param {string} path
   * @param {object} [body]
   * @returns {Promise<any>}
   */
  async #json(method, path, body) {
    return (await this.#request(method, path, body)).json();
  }

  /**
   * @param {string} method
   * @param {string} path
   * @param {object} [body]
   * @param {AbortSignal} [signal]
   */
  async #request(method, path, body, signal) {
    /** @type {Record<string, string>} */
    const headers = this.key ? { Authorization: `Bearer ${this.key}` } : {};
    if (body) headers["Content-Type"] = "application/json";
    const options = { method, headers, signal, body: body && JSON.stringify(body) };
    const response = await fetch(new URL(path, document.baseURI), options).catch((error) => {
      throw signal?.aborted ? error : new ServerError("The server does not answer.", UNREACHABLE);
    });
    if (!response.ok) throw explain(response.status, await messageOf(response), response.headers.get("Retry-After"));
    return response;
  }
}

function broken() {
  return new ServerError("The connection broke off in the middle of the answer.", UNREACHABLE);
}

/** @param {Response} response */
async function messageOf(response) {
  try {
    return String((await response.json()).error.message);
  } catch {
    return "";
  }
}
