/**
 * The system message and the sampling settings, read from their fields and shown in them.
 *
 * Knows no network and no storage.
 */

import { byId } from "./dom.js";

/** @typedef {import("./store.js").State["sampling"]} Sampling */

/** @type {[keyof Sampling, string][]} */
const FIELDS = [["temperature", "temperature"], ["max_tokens", "max-tokens"], ["seed", "seed"]];

export class Settings {
  #details = byId("settings", HTMLDetailsElement);
  #system = byId("system", HTMLTextAreaElement);
  #fields = FIELDS.map(([name, id]) => ({ name, input: byId(id, HTMLInputElement) }));

  /**
   * @param {string} system
   * @param {Sampling} sampling
   * @param {() => void} onChange
   */
  constructor(system, sampling, onChange) {
    this.system = system;
    for (const { name, input } of this.#fields) input.value = String(sampling[name] ?? "");
    this.#details.addEventListener("input", onChange);
    this.#details.open = system.trim() !== "";
  }

  get system() {
    return this.#system.value;
  }

  set system(text) {
    this.#system.value = text;
  }

  /** What the fields say; null where one is empty or not valid. @returns {Sampling} */
  get sampling() {
    /** @param {HTMLInputElement} input */
    const read = (input) => (input.validity.valid && input.value ? Number(input.value) : null);
    const [temperature, max_tokens, seed] = this.#fields.map(({ input }) => read(input));
    return { temperature, max_tokens, seed };
  }

  /** Return whether all fields are valid; the first that is not gets the focus and says what it expects. */
  check() {
    const wrong = this.#fields.find(({ input }) => !input.validity.valid);
    if (!wrong) return true;
    this.#details.open = true;
    return wrong.input.reportValidity();
  }
}
