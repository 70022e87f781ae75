/**
 * The slider of one controller: 0 in the middle, the negative pole left and the positive right, marks at the tuned
 * strength, and the range in which the text stays intact.
 *
 * Knows no network and no storage.
 */

import { button, element } from "./dom.js";
import { clamp, format } from "./scale.js";

/** @typedef {import("./api.js").Controller} Controller */

const STEP = 0.05;

/** Half the width of a slider, in strength: whole steps, so that 0 is one of its places. @param {Controller} controller */
export function reach({ limits: [low, high] }) {
  const steps = Math.floor(Math.max(-low, high) / STEP + 1e-6);
  return Number((Math.max(steps, 1) * STEP).toFixed(2));
}

/** What is wrong with a strength, or "". @param {Controller} controller @param {number} strength */
export function warningFor({ safe_range: [low, high] }, strength) {
  if (strength >= low && strength <= high) return "";
  return `Beyond the safe range, ${format(low, 1)} to ${format(high, 1)}: the text may break.`;
}

/** The strength for a screen reader. @param {Controller} controller @param {number} strength */
export function inWords(controller, strength) {
  if (strength === 0) return "0, off";
  const pole = strength > 0 ? controller.positive : controller.negative;
  return `${format(strength)}, towards ${pole}${warningFor(controller, strength) && ", beyond the safe range"}`;
}

export class Slider {
  /**
   * @param {Controller} controller
   * @param {number} strength
   * @param {(strength: number) => void} onChange
   */
  constructor(controller, strength, onChange) {
    const { name, positive, negative } = controller;
    const half = reach(controller);
    this.controller = controller;
    this.onChange = onChange;
    this.id = `slider-${name}`;
    this.input = element("input", {
      type: "range", id: this.id, min: -half, max: half, step: STEP,
      "aria-describedby": `${this.id}-warning`,
      oninput: () => this.take(Number(this.input.value)),
      ondblclick: () => this.take(0),
    });
    this.value = element("output", { for: this.id });
    this.warning = element("p", { class: "warning", id: `${this.id}-warning`, role: "status" });
    this.track = element("div", { class: "track" }, ...this.marks(half), this.input);
    this.node = element("div", { class: "slider", role: "group", "aria-label": name },
      element("div", { class: "slider-head" },
        element("label", { for: this.id }, name),
        this.value,
        button("Reset", () => this.take(0), { "aria-label": `Reset ${name} to 0` }),
      ),
      this.track,
      element("div", { class: "poles" }, element("span", {}, negative), element("span", {}, positive)),
      this.warning,
    );
    this.strength = strength;
    this.show(strength);
  }

  /** @param {number} half @returns {HTMLElement[]} */
  marks(half) {
    const { safe_range: [low, high], tuned_strength: tuned } = this.controller;
    const safe = element("div", { class: "safe" });
    const rail = element("div", { class: "rail" }, safe, element("div", { class: "fill" }));
    const marks = [["zero", 0], ["tuned", -tuned], ["tuned", tuned]];
    const drawn = marks.filter(([, at]) => Math.abs(Number(at)) <= half).map(([kind, at]) => {
      const label = format(Number(at)).replace(/\.?0+$/, "");
      const mark = element("span", { class: `mark ${kind}`, "aria-hidden": "true" }, label);
      mark.style.setProperty("--at", String(Number(at) / half));
      return mark;
    });
    rail.style.setProperty("--low", String(Math.max(low / half, -1)));
    rail.style.setProperty("--high", String(Math.min(high / half, 1)));
    return [rail, ...drawn];
  }

  /** Take a strength from the user. @param {number} strength */
  take(strength) {
    const [low, high] = this.controller.limits;
    this.show(clamp(strength, low, high));
    this.onChange(this.strength);
  }

  /** @param {number} strength */
  show(strength) {
    this.strength = Number(strength.toFixed(2)) + 0;
    this.input.value = String(this.strength);
    this.input.setAttribute("aria-valuetext", inWords(this.controller, this.strength));
    this.value.textContent = format(this.strength);
    const warning = warningFor(this.controller, this.strength);
    if (this.warning.textContent !== warning) this.warning.textContent = warning;
    this.node.classList.toggle("unsafe", warning !== "");
    this.track.style.setProperty("--value", String(this.strength / reach(this.controller)));
  }
}
