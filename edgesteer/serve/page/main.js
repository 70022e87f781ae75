/**
 * The page: puts its parts together, and does what the user asks for.
 */

import { newAnswer } from "./answer.js";
import { Api, ServerError } from "./api.js";
import { askForKey, copy, download, eachFrame } from "./browser.js";
import { Chat } from "./chat.js";
import { Composer } from "./composer.js";
import { newConversation, toJson, toMarkdown, toRequest } from "./conversation.js";
import { Dials } from "./dials.js";
import { button, byId, element } from "./dom.js";
import { Readings } from "./readings.js";
import { Settings } from "./settings.js";
import { listSidecars } from "./sidecars.js";
import { Speech } from "./speech.js";
import { loadKey, loadState, saveKey, saveState } from "./store.js";
import { Writer } from "./writer.js";

/** @typedef {import("./answer.js").Answer} Answer */
/** @typedef {import("./api.js").Controller} Controller */
/** @typedef {import("./conversation.js").Message} Message */

const SUGGESTIONS = ["What should I do this weekend?", "My train was late again.", "Write a note to my landlord."];
const NEAR_END_PIXELS = 80;
const SEEDS = 1_000_000;
const SAVE_DELAY_MS = 300;

class Page {
  #api = new Api();
  #state = loadState();
  #model = "";
  /** @type {Controller[]} */
  #controllers = [];
  /** @type {Answer | null} whose readings are shown */
  #shown = null;
  #saving = 0;

  #scroll = byId("scroll", HTMLElement);
  #selector = byId("controller", HTMLSelectElement);
  #banner = byId("banner", HTMLElement);
  #speech = new Speech(byId("speech", HTMLElement));
  #composer = new Composer(this.#state.compare, {
    send: (text) => this.#send(text),
    stop: () => this.#writer.stop(),
    compare: (compare) => this.#compare(compare),
  });
  #writer = new Writer(this.#api, (busy) => (this.#composer.busy = busy));
  #dials = new Dials((name, strength) => this.#turn(name, strength));
  #chat = new Chat(byId("log", HTMLElement), {
    edit: (message, text) => this.#replace(message, text),
    regenerate: (message) => this.#replace(message, null),
    copy: (text) => this.#copy(text),
    showReadings: (answer) => this.#showReadings(answer),
    point: (answer, index) => this.#point(answer, index),
  });
  #readings = new Readings(
    byId("readings", HTMLElement),
    this.#state.coloured,
    (coloured) => this.#colour(coloured),
    (answer, index) => this.#chat.point(answer, index),
  );
  #settings = new Settings(this.#state.conversation.system, this.#state.sampling, () => this.#keepSettings());

  constructor() {
    this.#api.key = loadKey();
    this.#listen();
    this.#chat.showColours(this.#state.coloured);
    this.#showConversation();
    this.#shown = this.#state.conversation.messages.findLast(({ answer }) => answer)?.answer ?? null;
    this.#toEnd();
    void this.#connect();
  }

  #listen() {
    document.addEventListener("keydown", (event) => event.key === "Escape" && this.#escape());
    this.#selector.addEventListener("change", () => this.#select(this.#selector.value));
    byId("new", HTMLElement).addEventListener("click", () => this.#startAnew());
    byId("export-markdown", HTMLElement).addEventListener("click", () => this.#export("md"));
    byId("export-json", HTMLElement).addEventListener("click", () => this.#export("json"));
    addEventListener("pagehide", () => saveState(this.#state));
    byId("suggestions", HTMLElement).append(...SUGGESTIONS.map((text) => button(text, () => this.#send(text))));
  }

  // ---- the server ----

  /** Ask what the server has: its model, controllers and sidecars. */
  async #connect() {
    const api = this.#api;
    try {
      const [model, controllers, files] = await Promise.all([api.model(), api.controllers(), api.files()]);
      this.#banner.hidden = true;
      this.#model = model;
      byId("model", HTMLElement).textContent = model;
      document.title = `${model} · edgesteer`;
      this.#showControllers(controllers, files);
    } catch (error) {
      await this.#fail(error, () => this.#connect());
    }
  }

  /**
   * Ask for a key where that is what is missing, and show any other failure, with a way to try again.
   *
   * @param {unknown} error
   * @param {() => void} again
   */
  async #fail(error, again) {
    if (!(error instanceof ServerError)) throw error;
    if (error.needsKey && (await this.#renewKey())) return again();
    this.#banner.replaceChildren(
      element("p", {}, element("strong", {}, error.what), ` ${error.remedy}`),
      element("div", { class: "row-end" },
        button("Try again", () => again()),
        button("Dismiss", () => (this.#banner.hidden = true)),
      ),
    );
    this.#banner.hidden = false;
  }

  /** Ask for a key; return whether there is another one now. */
  async #renewKey() {
    const key = await askForKey(this.#api.key !== "");
    if (key === null) return false;
    this.#api.key = key;
    saveKey(key);
    return true;
  }

  /** @param {() => Promise<unknown>} change  of the controllers that are loaded */
  async #change(change) {
    try {
      await change();
      await this.#connect();
    } catch (error) {
      await this.#fail(error, () => this.#change(change));
    }
  }

  // ---- controllers and readings ----

  /** @param {Controller[]} controllers @param {string[]} files */
  #showControllers(controllers, files) {
    const advice = files.length ? "Load a sidecar below." : "Start the server with --steer warm.gguf to get a dial.";
    this.#controllers = controllers;
    this.#dials.show(controllers, this.#state.strengths, advice);
    listSidecars(files, controllers, {
      load: (file) => this.#change(() => this.#api.load(file)),
      unload: (names) => this.#change(() => Promise.all(names.map((name) => this.#api.unload(name)))),
    });
    this.#selector.replaceChildren(...controllers.map(({ name }) => element("option", { value: name }, name)));
    byId("selector", HTMLElement).hidden = controllers.length < 2;
    this.#select(controllers.some(({ name }) => name === this.#state.shown) ? this.#state.shown : null);
  }

  /** @param {string} name @param {number} strength */
  #turn(name, strength) {
    this.#state.strengths[name] = strength;
    this.#save();
  }

  /** Show the readings of this controller; null: of the first. @param {string | null} name */
  #select(name) {
    const chosen = name ?? this.#controllers[0]?.name ?? null;
    if (chosen !== null) this.#selector.value = chosen;
    if (name !== null) this.#state.shown = name;
    this.#chat.colourBy(chosen);
    this.#showReadings(this.#shown);
    this.#save();
  }

  /** @param {Answer | null} answer */
  #showReadings(answer) {
    this.#shown = answer;
    this.#readings.show(answer, this.#controllers.find(({ name }) => name === this.#selector.value) ?? null);
  }

  /** @param {Answer} answer @param {number} index */
  #point(answer, index) {
    if (answer !== this.#shown) this.#showReadings(answer);
    this.#readings.point(index);
  }

  /** @param {boolean} coloured */
  #colour(coloured) {
    this.#state.coloured = coloured;
    this.#chat.showColours(coloured);
    this.#save();
  }

  // ---- asking and answering ----

  /** Send a text; return whether that could be done. @param {string} text */
  #send(text) {
    if (!this.#isReady()) return false;
    this.#writer.stop();
    this.#state.conversation.messages.push({ role: "user", content: text });
    void this.#answer();
    return true;
  }

  /** Without the server's controllers an answer would go unsteered in silence, so then they are asked for first. */
  #isReady() {
    if (!this.#model) void this.#connect();
    return this.#model !== "" && this.#settings.check();
  }

  /**
   * Drop a message and what follows; then answer, or send another text in its place.
   *
   * @param {Message} message
   * @param {string | null} text
   */
  #replace(message, text) {
    const { messages } = this.#state.conversation;
    if (!this.#isReady()) return;
    this.#writer.stop();
    messages.length = messages.indexOf(message);
    if (text === null) void this.#answer();
    else this.#send(text);
    this.#composer.focus();
  }

  /** Answer the last message, steered as the dials are, and unsteered beside it where that is asked. */
  async #answer() {
    const { conversation, compare } = this.#state;
    const request = { model: this.#model, messages: toRequest(conversation) };
    const asked = this.#settings.sampling;
    const sampling = { ...asked, seed: asked.seed ?? Math.floor(Math.random() * SEEDS) };
    const answer = newAnswer(this.#dials.strengths, sampling);
    const plain = compare ? newAnswer({}, sampling) : null;
    const message = { role: /** @type {const} */ ("assistant"), answer, plain };
    conversation.messages.push(message);
    this.#showConversation();
    this.#showReadings(answer);
    this.#toEnd();
    this.#speech.begin();
    const growth = eachFrame(() => this.#grow(message));
    const errors = await this.#writer.write(message, request, growth.soon);
    growth.now();
    if (conversation.messages.at(-1) === message) this.#speech.end(answer.content, endingOf(answer));
    this.#save();
    const again = errors.some((error) => error.needsKey) && (await this.#renewKey());
    if (again && conversation.messages.includes(message)) this.#replace(message, null);
  }

  /** Write what a message has gained. @param {Message & {answer: Answer}} message */
  #grow(message) {
    const { scrollHeight, scrollTop, clientHeight } = this.#scroll;
    const atEnd = scrollHeight - scrollTop - clientHeight < NEAR_END_PIXELS;
    this.#chat.refresh(message);
    if (message.answer === this.#shown) this.#readings.refresh();
    if (message.answer.state === "running") this.#speech.follow(message.answer.content);
    if (atEnd) this.#toEnd();
  }

  #escape() {
    const menu = byId("export", HTMLDetailsElement);
    if (menu.open) menu.open = false;
    else if (!byId("key-dialog", HTMLDialogElement).open) this.#writer.stop();
  }

  // ---- the conversation as a whole ----

  #showConversation() {
    const { messages } = this.#state.conversation;
    byId("welcome", HTMLElement).hidden = messages.length > 0;
    this.#chat.show(messages);
    this.#save();
  }

  #startAnew() {
    this.#writer.stop();
    this.#state.conversation = newConversation(this.#settings.system);
    this.#showConversation();
    this.#showReadings(null);
    this.#composer.focus();
  }

  /** @param {boolean} compare */
  #compare(compare) {
    this.#state.compare = compare;
    this.#save();
  }

  #keepSettings() {
    this.#state.conversation.system = this.#settings.system;
    this.#state.sampling = this.#settings.sampling;
    this.#save();
  }

  /** @param {string} text */
  async #copy(text) {
    await copy(text);
    this.#speech.say("Copied");
  }

  /** @param {"md" | "json"} kind */
  #export(kind) {
    const now = new Date();
    const { conversation } = this.#state;
    const text = kind === "md" ? toMarkdown(conversation, this.#model) : toJson(conversation, this.#model, now);
    const name = `edgesteer-${now.toISOString().slice(0, 19).replace(/[:T]/g, "-")}.${kind}`;
    download(name, kind === "md" ? "text/markdown" : "application/json", text);
    byId("export", HTMLDetailsElement).open = false;
  }

  /** Save soon: a slider moves many times a second. */
  #save() {
    clearTimeout(this.#saving);
    this.#saving = setTimeout(() => saveState(this.#state), SAVE_DELAY_MS);
  }

  #toEnd() {
    this.#scroll.scrollTop = this.#scroll.scrollHeight;
  }
}

/** How an answer ended, for a screen reader. @param {Answer} answer */
function endingOf(answer) {
  if (answer.error) return `${answer.error.what} ${answer.error.remedy}`;
  return answer.state === "stopped" ? "Stopped." : "End of the answer.";
}

new Page();
