/**
 * The conversation on the page: messages, their actions, and answers whose tokens are coloured by alpha.
 *
 * Knows no network and no storage; what the user asks for goes to the actions.
 */

import { measured } from "./answer.js";
import { blocks } from "./blocks.js";
import { steeringOf } from "./conversation.js";
import { button, element } from "./dom.js";
import { format, tone } from "./scale.js";

/** @typedef {import("./answer.js").Answer} Answer */
/** @typedef {import("./answer.js").Token} Token */
/** @typedef {import("./conversation.js").Message} Message */

/**
 * @typedef {object} Actions
 * @property {(message: Message, text: string) => void} edit  send this text instead, dropping what follows
 * @property {(message: Message) => void} regenerate
 * @property {(text: string) => Promise<void>} copy
 * @property {(answer: Answer) => void} showReadings
 * @property {(answer: Answer, index: number) => void} point  at a token
 */

/** @typedef {{answer: Answer, node: HTMLElement, body: HTMLElement, foot: HTMLElement}} View  of an answer */

export class Chat {
  /** @type {Map<Answer, View>} */
  #views = new Map();
  /** @type {Map<Message, HTMLElement>} the buttons below each of the model's messages */
  #buttons = new Map();
  /** @type {Message[]} */
  #messages = [];
  /** @type {string | null} the controller that colours the tokens */
  #controller = null;
  #root;
  #actions;

  /** @param {HTMLElement} root @param {Actions} actions */
  constructor(root, actions) {
    this.#root = root;
    this.#actions = actions;
  }

  /** Write all messages anew. @param {Message[]} messages */
  show(messages) {
    this.#messages = messages;
    this.#views.clear();
    this.#buttons.clear();
    this.#root.replaceChildren(...messages.map((message) => this.#write(message)));
  }

  /** Colour by another controller; null: none. @param {string | null} controller */
  colourBy(controller) {
    this.#controller = controller;
    for (const view of this.#views.values()) this.#writeTokens(view, 0);
  }

  /** @param {boolean} coloured */
  showColours(coloured) {
    this.#root.classList.toggle("uncoloured", !coloured);
  }

  /** Write what a message of the model has gained since. @param {Message} message */
  refresh(message) {
    for (const view of this.#viewsOf(message)) {
      // Blocks before the last are complete, and so are their readings but that of the token before the last block.
      this.#writeTokens(view, view.body.children.length - 2);
      this.#writeFoot(view);
    }
    this.#writeButtons(message);
  }

  /** @param {Message} message @returns {View[]} */
  #viewsOf({ answer, plain }) {
    return [...this.#views.values()].filter((view) => view.answer === answer || view.answer === plain);
  }

  /** Mark a token. @param {Answer} answer @param {number} index */
  point(answer, index) {
    this.#root.querySelector(".pointed")?.classList.remove("pointed");
    this.#views.get(answer)?.body.querySelector(`[data-token="${index}"]`)?.classList.add("pointed");
  }

  /** @param {Message} message */
  #write(message) {
    return message.answer ? this.#writeAnswers(message, message.answer) : this.#writeUser(message);
  }

  /** @param {Message} message @returns {HTMLElement} */
  #writeUser(message) {
    const content = message.content ?? "";
    const article = element("article", { class: "user", "aria-label": "You" },
      element("p", { class: "bubble" }, content),
      element("div", { class: "actions" },
        button("Edit", () => article.replaceChildren(this.#editor(message, article))),
        this.#copyButton(() => content, "Copy your message"),
      ),
    );
    return article;
  }

  /** @param {Message} message @param {HTMLElement} article */
  #editor(message, article) {
    const close = () => {
      const written = this.#writeUser(message);
      article.replaceWith(written);
      written.querySelector("button")?.focus();
    };
    const field = element("textarea", { rows: 3, "aria-label": "Edit your message" });
    const form = element("form", {
      class: "editor",
      onsubmit: (/** @type {Event} */ event) => {
        event.preventDefault();
        if (field.value.trim()) this.#actions.edit(message, field.value.trim());
      },
      onkeydown: (/** @type {KeyboardEvent} */ event) => {
        if (event.key === "Escape") {
          event.stopPropagation();
          close();
        } else if (isSendKey(event) && event.target === field) {
          event.preventDefault();
          form.requestSubmit();
        }
      },
    }, field, element("div", { class: "row-end" },
      element("span", { class: "hint" }, "What follows is dropped"),
      button("Cancel", close),
      element("button", { type: "submit", class: "primary" }, "Send"),
    ));
    field.value = message.content ?? "";
    queueMicrotask(() => field.focus());
    return form;
  }

  /** @param {Message} message @param {Answer} answer */
  #writeAnswers(message, answer) {
    const { plain } = message;
    const shown = [this.#writeAnswer(answer, plain ? `Steered: ${steeringOf(answer)}` : null)];
    if (plain) shown.push(this.#writeAnswer(plain, "Unsteered, for comparison"));
    const buttons = element("div", { class: "actions" });
    this.#buttons.set(message, buttons);
    this.#writeButtons(message);
    return element("article", { class: plain ? "assistant compared" : "assistant", "aria-label": "Model" },
      element("div", { class: "answers" }, ...shown), buttons);
  }

  /** @param {Message} message */
  #writeButtons(message) {
    const buttons = this.#buttons.get(message);
    const { answer, plain } = message;
    if (!buttons || !answer) return;
    const running = answer.state === "running" || plain?.state === "running";
    const again = !running && message === this.#messages.at(-1);
    const label = answer.state === "failed" ? "Try again" : "Regenerate";
    buttons.replaceChildren(...[
      !running && answer.content && this.#copyButton(() => answer.content, "Copy the answer"),
      again && button(label, () => this.#actions.regenerate(message)),
      !running && measured(answer).length > 0 && button("Readings", () => this.#actions.showReadings(answer), {
        "aria-label": "Show this answer's readings",
      }),
    ].filter((made) => made instanceof Element));
  }

  /** @param {Answer} answer @param {string | null} title */
  #writeAnswer(answer, title) {
    const body = element("div", {
      class: "body",
      onpointerover: (/** @type {PointerEvent} */ { target }) => {
        const index = target instanceof HTMLElement ? target.dataset.token : undefined;
        if (index !== undefined && measured(answer).length) this.#actions.point(answer, Number(index));
      },
    });
    const foot = element("div", { class: "foot" });
    const node = element("div", { class: "answer" }, title && element("h3", {}, title), body, foot);
    const view = { answer, node, body, foot };
    this.#views.set(answer, view);
    this.#writeTokens(view, 0);
    this.#writeFoot(view);
    return node;
  }

  /** Write the blocks of an answer from the one with this number on. @param {View} view @param {number} from */
  #writeTokens({ answer, node, body }, from) {
    const running = answer.state === "running";
    const parts = blocks(answer.content);
    const kept = Math.min(Math.max(0, from), parts.length);
    while (body.children.length > kept) body.lastChild?.remove();
    body.append(...parts.slice(kept).map((block) => {
      const spans = this.#tokensWithin(answer, block.start, block.end);
      return block.code ? element("pre", { tabindex: 0 }, element("code", {}, ...spans)) : element("p", {}, ...spans);
    }));
    node.classList.toggle("running", running);
    node.setAttribute("aria-busy", String(running));
  }

  /** @param {Answer} answer @param {number} start @param {number} end @returns {HTMLElement[]} */
  #tokensWithin(answer, start, end) {
    const spans = [];
    let at = 0;
    for (const [index, token] of answer.tokens.entries()) {
      const text = token.text.slice(Math.max(0, start - at), Math.max(0, end - at));
      at += token.text.length;
      if (text) spans.push(this.#token(token, index, text));
      if (at >= end) break;
    }
    return spans;
  }

  /** @param {Token} token @param {number} index @param {string} text */
  #token(token, index, text) {
    const alphas = Object.entries(token.readings).map(([name, { alpha }]) => `${name}: alpha ${format(alpha)}`);
    const chosen = this.#controller === null ? null : tone(token.readings[this.#controller]?.alpha);
    return element("span", { "data-token": index, "data-tone": chosen, title: alphas.join("\n") || null }, text);
  }

  /** @param {View} view */
  #writeFoot({ answer, foot }) {
    if (answer.state === "running") return foot.replaceChildren();
    const facts = [steeringOf(answer), `${answer.tokens.length} tokens`, `seed ${answer.sampling.seed}`];
    if (answer.tokens_per_second) facts.splice(2, 0, `${format(answer.tokens_per_second, 1)} tokens/s`);
    if (answer.state === "stopped") facts.push("stopped");
    if (answer.finish === "length") facts.push("ended by the token limit");
    const { error } = answer;
    foot.replaceChildren(
      ...answer.warnings.map((warning) => element("p", { class: "warning" }, warning)),
      error ? element("p", { class: "error" }, element("strong", {}, error.what), ` ${error.remedy}`) : "",
      answer.tokens.length || !error ? element("p", { class: "facts" }, facts.join(" · ")) : "",
    );
  }

  /** @param {() => string} text @param {string} label */
  #copyButton(text, label) {
    const made = button("Copy", async () => {
      await this.#actions.copy(text());
      made.textContent = "Copied";
      setTimeout(() => (made.textContent = "Copy"), 1500);
    }, { "aria-label": label });
    return made;
  }
}

/** Whether a key sends; while a character is being composed Enter belongs to that. @param {KeyboardEvent} event */
export function isSendKey(event) {
  return event.key === "Enter" && !event.shiftKey && !event.isComposing;
}
