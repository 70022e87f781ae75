/**
 * Where messages are written: the field, and the buttons that send, stop, and ask for a comparison.
 *
 * Knows no network and no storage.
 */

import { isSendKey } from "./chat.js";
import { byId } from "./dom.js";
import { clamp } from "./scale.js";

/**
 * @typedef {object} Actions
 * @property {(text: string) => boolean} send  returns whether that could be done
 * @property {() => void} stop
 * @property {(compare: boolean) => void} compare
 */

const MOST_ROWS = 8;

export class Composer {
  #field = byId("message", HTMLTextAreaElement);
  #button = byId("send", HTMLButtonElement);
  #compare = byId("compare", HTMLButtonElement);
  #busy = false;
  #actions;

  /** @param {boolean} compare @param {Actions} actions */
  constructor(compare, actions) {
    this.#actions = actions;
    this.#compare.setAttribute("aria-pressed", String(compare));
    this.#compare.addEventListener("click", () => this.#toggleCompare());
    byId("composer", HTMLFormElement).addEventListener("submit", (event) => {
      event.preventDefault();
      if (this.#busy) actions.stop();
      else this.#send();
    });
    this.#field.addEventListener("input", () => this.#fit());
    this.#field.addEventListener("keydown", (event) => {
      if (!isSendKey(event)) return;
      event.preventDefault();
      if (!this.#busy) this.#send();
    });
  }

  /** Whether an answer is being written; then the button stops it, and Enter does nothing. @param {boolean} busy */
  set busy(busy) {
    this.#busy = busy;
    this.#button.textContent = busy ? "Stop" : "Send";
    this.#button.classList.toggle("stop", busy);
  }

  focus() {
    this.#field.focus();
  }

  #send() {
    const text = this.#field.value.trim();
    if (!text || !this.#actions.send(text)) return;
    this.#field.value = "";
    this.#fit();
  }

  #toggleCompare() {
    const compare = this.#compare.getAttribute("aria-pressed") !== "true";
    this.#compare.setAttribute("aria-pressed", String(compare));
    this.#actions.compare(compare);
  }

  #fit() {
    this.#field.rows = clamp(this.#field.value.split("\n").length, 1, MOST_ROWS);
  }
}
