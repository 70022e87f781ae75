/**
 * What survives a reload: the conversation, the sliders and the settings in localStorage, the key in sessionStorage. A
 * browser may deny storage or run out of it, and what lies there may be of an older page: each is survived.
 *
 * Knows no page.
 */

import { newConversation } from "./conversation.js";

/** @typedef {import("./conversation.js").Conversation} Conversation */
/** @typedef {import("./conversation.js").Message} Message */

/**
 * @typedef {object} State
 * @property {Conversation} conversation
 * @property {Record<string, number>} strengths  only of the sliders that were moved
 * @property {{temperature: number | null, max_tokens: number | null, seed: number | null}} sampling  null: the server's
 * @property {boolean} compare
 * @property {boolean} coloured
 * @property {string | null} shown  the controller whose readings are shown
 */

const PLACE = "edgesteer-page-1";
const KEY_PLACE = "edgesteer-key";

/** @returns {State} */
function freshState() {
  return {
    conversation: newConversation(),
    strengths: {},
    sampling: { temperature: null, max_tokens: null, seed: null },
    compare: false,
    coloured: true,
    shown: null,
  };
}

/** @returns {State} */
export function loadState() {
  try {
    return restore(JSON.parse(localStorage.getItem(PLACE) ?? "null"));
  } catch {
    return freshState();
  }
}

/**
 * Return a state that is whole: parts that are missing or not of this page's shape are fresh.
 *
 * @param {any} saved
 * @returns {State}
 */
export function restore(saved) {
  const fresh = freshState();
  const messages = saved?.conversation?.messages;
  if (!Array.isArray(messages) || !messages.every(isMessage)) return fresh;
  for (const message of messages) for (const answer of [message.answer, message.plain]) interrupt(answer);
  return {
    conversation: { system: String(saved.conversation.system ?? ""), messages },
    strengths: numbersOf(saved.strengths),
    sampling: { ...fresh.sampling, ...numbersOrNullOf(saved.sampling) },
    compare: saved.compare === true,
    coloured: saved.coloured !== false,
    shown: typeof saved.shown === "string" ? saved.shown : null,
  };
}

/** @param {any} message @returns {message is Message} */
function isMessage(message) {
  if (message?.role === "user") return typeof message.content === "string";
  return message?.role === "assistant" && isAnswer(message.answer) && (!message.plain || isAnswer(message.plain));
}

/** @param {any} answer */
function isAnswer(answer) {
  return (
    typeof answer?.content === "string" && Array.isArray(answer.tokens) && Array.isArray(answer.warnings) &&
    [answer.push, answer.steering, answer.sampling].every((part) => part && typeof part === "object") &&
    answer.tokens.every((/** @type {any} */ token) => typeof token?.text === "string" && token.readings)
  );
}

/** An answer that was running when the page went can go on no more. @param {any} answer */
function interrupt(answer) {
  if (answer?.state === "running") answer.state = "stopped";
}

/** @param {any} record @returns {Record<string, number>} */
function numbersOf(record) {
  return Object.fromEntries(Object.entries(record ?? {}).filter((entry) => Number.isFinite(entry[1])));
}

/** @param {any} record */
function numbersOrNullOf(record) {
  const entries = Object.entries(record ?? {});
  return Object.fromEntries(entries.filter(([, value]) => value === null || Number.isFinite(value)));
}

/**
 * Save the state; where there is too little room, without the readings. Return whether that worked.
 *
 * @param {State} state
 */
export function saveState(state) {
  return put(state) || put(withoutReadings(state));
}

/** @param {State} state */
function put(state) {
  try {
    localStorage.setItem(PLACE, JSON.stringify(state));
    return true;
  } catch {
    return false;
  }
}

/** @param {State} state @returns {State} */
function withoutReadings(state) {
  /** @param {import("./answer.js").Answer} answer */
  const bare = (answer) => ({ ...answer, tokens: [{ text: answer.content, readings: {} }], push: {} });
  const messages = state.conversation.messages.map(({ answer, plain, ...rest }) => ({
    ...rest, ...(answer && { answer: bare(answer) }), ...(plain && { plain: bare(plain) }),
  }));
  return { ...state, conversation: { ...state.conversation, messages } };
}

export function loadKey() {
  try {
    return sessionStorage.getItem(KEY_PLACE) ?? "";
  } catch {
    return "";
  }
}

/** @param {string} key */
export function saveKey(key) {
  try {
    sessionStorage.setItem(KEY_PLACE, key);
  } catch {
    // Then the key lasts until the page is left.
  }
}
