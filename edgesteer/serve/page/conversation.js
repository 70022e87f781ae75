/**
 * A conversation: what is sent of it, and its exports. Plain data, so that it can be saved as JSON.
 *
 * Pure; knows no page and no network.
 */

import { format } from "./scale.js";

/** @typedef {import("./answer.js").Answer} Answer */

/**
 * @typedef {object} Message
 * @property {"user" | "assistant"} role
 * @property {string} [content]  of a user's message
 * @property {Answer} [answer]  of the model's
 * @property {Answer | null} [plain]  the unsteered answer beside it; not part of what is sent
 */

/** @typedef {{system: string, messages: Message[]}} Conversation */
/** @typedef {{role: string, content: string}} Spoken  a message in OpenAI's form */

/** @returns {Conversation} */
export function newConversation(system = "") {
  return { system, messages: [] };
}

/**
 * The messages in OpenAI's form.
 *
 * @param {Conversation} conversation
 * @returns {Spoken[]}
 */
export function toRequest({ system, messages }) {
  const spoken = messages.map(({ role, content, answer }) => ({ role, content: content ?? answer?.content ?? "" }));
  return system.trim() ? [{ role: "system", content: system }, ...spoken] : spoken;
}

/** How an answer was steered, in words. @param {Answer} answer */
export function steeringOf(answer) {
  const parts = Object.entries(answer.steering).map(([name, strength]) => `${name} ${format(strength)}`);
  return parts.join(", ") || "unsteered";
}

/**
 * @param {Conversation} conversation
 * @param {string} model
 */
export function toMarkdown({ system, messages }, model) {
  const parts = [`# Conversation with ${model}`];
  if (system.trim()) parts.push("## System", system);
  for (const { content, answer, plain } of messages) {
    if (!answer) parts.push("## You", content ?? "");
    else parts.push(`## ${model} (${howMade(answer)})`, answer.content);
    if (plain) parts.push("### The same, unsteered", plain.content);
  }
  return `${parts.join("\n\n")}\n`;
}

/** @param {Answer} answer */
function howMade(answer) {
  return `${steeringOf(answer)}; seed ${answer.sampling.seed}${answer.state === "done" ? "" : `; ${answer.state}`}`;
}

/**
 * @param {Conversation} conversation
 * @param {string} model
 * @param {Date} now
 */
export function toJson({ system, messages }, model, now) {
  const described = messages.map(({ role, content, answer, plain }) =>
    answer ? { role, ...answer, ...(plain ? { unsteered: plain } : {}) } : { role, content },
  );
  const head = { format: "edgesteer-conversation-1", model, exported: now.toISOString(), system };
  return `${JSON.stringify({ ...head, messages: described }, null, 2)}\n`;
}
