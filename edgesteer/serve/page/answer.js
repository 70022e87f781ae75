/**
 * One answer as it arrives: its tokens, what the loops measured at each, and how it ended. Plain data, to be saved as
 * JSON.
 *
 * Pure; knows no page and no network.
 */

/** @typedef {import("./api.js").Chunk} Chunk */
/** @typedef {import("./api.js").WireReading} WireReading */

/**
 * @typedef {object} Reading  what one loop measured at one token
 * @property {number | null} alpha
 * @property {number | null} setpoint
 * @property {number | null} running_mean
 * @property {number | null} effort
 */

/** @typedef {{text: string, readings: Record<string, Reading>}} Token */

/**
 * @typedef {object} Push  |u| per steered block
 * @property {number[]} latest
 * @property {number[]} sum  over the tokens
 * @property {number} count  of tokens
 */

/** @typedef {Record<string, number>} Strengths  by controller; those that are missing are off */

/** @typedef {{temperature: number | null, max_tokens: number | null, seed: number}} Sampling */

/**
 * @typedef {object} Answer
 * @property {string} content
 * @property {Token[]} tokens
 * @property {Record<string, Push>} push  by controller
 * @property {Strengths} steering
 * @property {Sampling} sampling
 * @property {"running" | "done" | "stopped" | "failed"} state
 * @property {string | null} finish  OpenAI's finish_reason
 * @property {number | null} tokens_per_second
 * @property {string[]} warnings
 * @property {{what: string, remedy: string} | null} error
 */

/**
 * @param {Strengths} steering
 * @param {Sampling} sampling
 * @returns {Answer}
 */
export function newAnswer(steering, sampling) {
  return {
    content: "", tokens: [], push: {}, steering, sampling,
    state: "running", finish: null, tokens_per_second: null, warnings: [], error: null,
  };
}

/**
 * Take in the next chunk. Its readings belong to the token before its own.
 *
 * @param {Answer} answer
 * @param {Chunk} chunk
 */
export function takeChunk(answer, chunk) {
  const telemetry = chunk.edgesteer ?? {};
  const choice = chunk.choices?.[0];
  const text = telemetry.text ?? choice?.delta?.content ?? "";
  for (const [name, reading] of Object.entries(telemetry.readings ?? {})) takeReading(answer, name, reading);
  if (text !== "" || typeof telemetry.token === "number") answer.tokens.push({ text, readings: {} });
  answer.content += text;
  answer.finish = choice?.finish_reason ?? answer.finish;
  answer.warnings = telemetry.warnings ?? answer.warnings;
  answer.tokens_per_second = telemetry.timings?.predicted_per_second ?? answer.tokens_per_second;
}

/**
 * @param {Answer} answer
 * @param {string} name
 * @param {WireReading} reading
 */
function takeReading(answer, name, reading) {
  const { alpha, setpoint, running_mean, effort } = reading;
  const token = answer.tokens.at(-1);
  const [a, s, m, e] = [alpha, setpoint, running_mean, effort].map(rough);
  if (token) token.readings[name] = { alpha: a, setpoint: s, running_mean: m, effort: e };
  const latest = reading.push.map((value) => value ?? 0);
  const before = answer.push[name] ?? { sum: latest.map(() => 0), count: 0 };
  answer.push[name] = { latest, sum: before.sum.map((sum, i) => sum + latest[i]), count: before.count + 1 };
}

/** Four digits are more than a chart shows, and saved conversations stay small. @param {number | null} value */
function rough(value) {
  return typeof value === "number" ? Math.round(value * 1e4) / 1e4 : null;
}

/** @param {Answer} answer @param {string} name of a controller */
export function meanPush(answer, name) {
  const push = answer.push[name];
  return push ? push.sum.map((sum) => sum / push.count) : [];
}

/** The controllers that measured something in this answer. @param {Answer} answer @returns {string[]} */
export function measured(answer) {
  return Object.keys(answer.push);
}
