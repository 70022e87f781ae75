/**
 * Numbers as people read them: alpha's tone on the diverging scale, ticks of an axis, and a minus sign that is one.
 *
 * Pure; knows no page.
 */

/** Tones go from -STEPS (beyond the negative pole) over 0 (between the poles) to STEPS. */
export const STEPS = 4;

/**
 * Return the tone of alpha, or null where nothing was measured. Alpha is 0 for the average text of the negative pole
 * and 1 for the positive one's, which are tones -2 and 2; the ends lie as far again outside.
 *
 * @param {number | null | undefined} alpha
 * @returns {number | null}
 */
export function tone(alpha) {
  if (alpha === null || alpha === undefined || !Number.isFinite(alpha)) return null;
  return clamp(Math.round((alpha - 0.5) * STEPS), -STEPS, STEPS) + 0; // + 0 turns -0 into 0
}

/** @param {number} value @param {number} low @param {number} high */
export function clamp(value, low, high) {
  return Math.min(high, Math.max(low, value));
}

/**
 * @param {number | null | undefined} value
 * @param {number} digits
 */
export function format(value, digits = 2) {
  if (value === null || value === undefined || !Number.isFinite(value)) return "–";
  const text = Math.abs(value).toFixed(digits);
  return value < 0 && Number(text) !== 0 ? `−${text}` : text;
}

/**
 * Return round numbers, at most `count` steps apart, the first below or at low and the last above or at high.
 *
 * @param {number} low
 * @param {number} high
 * @param {number} count
 * @returns {number[]}
 */
export function ticks(low, high, count) {
  const rough = (high - low || 1) / count;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = power * (/** @type {number} */ ([1, 2, 5, 10].find((factor) => factor * power >= rough * 0.999)));
  const first = Math.floor(low / step + 1e-9);
  const last = Math.ceil(high / step - 1e-9);
  return Array.from({ length: last - first + 1 }, (_, i) => Number(((first + i) * step).toPrecision(12)));
}
