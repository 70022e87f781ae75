/**
 * Tells a screen reader the answer sentence by sentence, as they are completed, and not token by token.
 */

import { element } from "./dom.js";

const SENTENCE = /^[\s\S]*[.!?:\n](?=\s)/;

export class Speech {
  #region;
  #said = 0;

  /** @param {HTMLElement} region  a polite live region */
  constructor(region) {
    this.#region = region;
  }

  /** Begin another answer. */
  begin() {
    this.#region.replaceChildren();
    this.#said = 0;
  }

  /** Say the sentences of the answer so far that are complete and not said yet. @param {string} content */
  follow(content) {
    const sentences = SENTENCE.exec(content.slice(this.#said))?.[0] ?? "";
    this.#said += sentences.length;
    this.say(sentences);
  }

  /** Say what is left of the answer, and how it ended. @param {string} content @param {string} ending */
  end(content, ending) {
    this.say(content.slice(this.#said));
    this.#said = content.length;
    this.say(ending);
  }

  /** @param {string} text */
  say(text) {
    if (text.trim()) this.#region.append(element("p", {}, text.trim()));
  }
}
