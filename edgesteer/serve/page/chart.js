/**
 * Two drawings in SVG: a quantity against its setpoint over tokens, and a bar per layer. Their looks are in style.css.
 *
 * Knows nothing of answers, controllers or the network.
 */

import { drawing } from "./dom.js";
import { clamp, format, ticks } from "./scale.js";

/** @typedef {(number | null)[]} Series */
/** @typedef {{value: number, label: string}} Level  a horizontal line with a name */
/** @typedef {{value: Series, setpoint: Series, levels: Level[], selected: number, summary: string}} Lines */
/** @typedef {{names: number[], bars: number[], lines: number[], summary: string}} Bars */

const GUTTER = { left: 34, right: 8, top: 8, bottom: 20 };
const LETTER = 7.5;
const LONGEST_NAME = 12;

/**
 * Return the path of a line through the values that exist, with gaps where they do not. A lone value becomes a dot.
 *
 * @param {Series} series
 * @param {(index: number) => number} x
 * @param {(value: number) => number} y
 */
export function linePath(series, x, y) {
  let path = "";
  series.forEach((value, i) => {
    if (value === null) return;
    const starts = i === 0 || series[i - 1] === null;
    const point = `${x(i).toFixed(1)} ${y(value).toFixed(1)}`;
    path += starts ? `M${point}h0` : `L${point}`;
  });
  return path;
}

/** The values that exist. @param {Series[]} series @returns {number[]} */
function present(...series) {
  return series.flat().filter((value) => value !== null);
}

/** @param {string} name */
function shorten(name) {
  return name.length > LONGEST_NAME ? `${name.slice(0, LONGEST_NAME - 1)}…` : name;
}

/** An SVG that is drawn again whenever its width changes. */
class Drawing {
  /** @param {string} kind @param {number} height */
  constructor(kind, height) {
    this.height = height;
    this.right = GUTTER.right;
    this.node = drawing("svg", { class: `chart ${kind}`, role: "img", height, width: "100%" });
    new ResizeObserver(() => this.draw()).observe(this.node);
  }

  get width() {
    return this.node.clientWidth || 300;
  }

  /** @param {number} fraction  of the plot's width, from its left edge */
  across(fraction) {
    return GUTTER.left + fraction * (this.width - GUTTER.left - this.right);
  }

  draw() {}

  /**
   * The vertical axis: its map from values to pixels, and the lines and numbers that show it.
   *
   * @param {number} low
   * @param {number} high
   * @param {Level[]} levels  drawn in the place of the lines and numbers that they would cover
   */
  axis(low, high, levels = []) {
    const names = levels.map(({ label }) => shorten(label));
    this.right = GUTTER.right + LETTER * Math.max(0, ...names.map((name) => name.length));
    const places = ticks(low, high, 4);
    const [bottom, top] = [places[0], places[places.length - 1]];
    const plot = this.height - GUTTER.top - GUTTER.bottom;
    /** @param {number} value */
    const y = (value) => GUTTER.top + (plot * (top - value)) / (top - bottom || 1);
    const digits = Math.max(0, -Math.floor(Math.log10(places[1] - places[0]) + 1e-9));
    const free = places.filter((place) => levels.every(({ value }) => Math.abs(y(place) - y(value)) > 12));
    const numbers = free.map((place) => drawing("g", {},
      drawing("line", { class: "grid", x1: this.across(0), x2: this.across(1), y1: y(place), y2: y(place) }),
      drawing("text", { x: this.across(0) - 5, y: y(place) + 3.5, "text-anchor": "end" }, format(place, digits)),
    ));
    const named = levels.map(({ value }, i) => drawing("g", {},
      drawing("line", { class: "level", x1: this.across(0), x2: this.across(1), y1: y(value), y2: y(value) }),
      drawing("text", { x: this.across(0) - 5, y: y(value) + 3.5, "text-anchor": "end" }, format(value, 0)),
      drawing("text", { class: "level-name", x: this.across(1) + 6, y: y(value) + 3.5 }, names[i]),
    ));
    return { y, bottom, nodes: [...numbers, ...named] };
  }

  /** @param {number} fraction @param {string} text */
  below(fraction, text) {
    const anchor = fraction === 0 ? "start" : fraction === 1 ? "end" : "middle";
    return drawing("text", { x: this.across(fraction), y: this.height - 5, "text-anchor": anchor }, text);
  }
}

/** A value against its setpoint over tokens; one token can be pointed at. */
export class LineChart extends Drawing {
  /** @type {Lines} */
  #shown = { value: [], setpoint: [], levels: [], selected: -1, summary: "" };

  /** @param {(index: number) => void} onPoint  the pointer is at this token */
  constructor(onPoint) {
    super("lines", 150);
    this.node.addEventListener("pointermove", (event) => {
      const fraction = (event.offsetX - this.across(0)) / (this.across(1) - this.across(0));
      const last = Math.max(0, this.#shown.value.length - 1);
      onPoint(clamp(Math.round(fraction * last), 0, last));
    });
  }

  /** @param {Lines} shown */
  show(shown) {
    this.#shown = shown;
    this.draw();
  }

  draw() {
    const { value, setpoint, levels, selected, summary } = this.#shown;
    const all = [...present(value, setpoint), ...levels.map((level) => level.value)];
    const { y, nodes } = this.axis(Math.min(...all), Math.max(...all), levels);
    /** @param {number} index */
    const x = (index) => this.across(value.length > 1 ? index / (value.length - 1) : 0);
    const at = value[selected] ?? null;
    this.node.setAttribute("aria-label", summary);
    this.node.replaceChildren(
      ...nodes,
      this.below(0, "token 1"),
      this.below(1, String(value.length)),
      drawing("path", { class: "setpoint", d: linePath(setpoint, x, y) }),
      drawing("path", { class: "value", d: linePath(value, x, y) }),
      ...(at === null ? [] : [
        drawing("path", { class: "pointer", d: `M${x(selected)} ${GUTTER.top}V${this.height - GUTTER.bottom}` }),
        drawing("circle", { class: "point", cx: x(selected), cy: y(at), r: 3.5 }),
      ]),
    );
  }
}

/** A bar per layer, and a line across it at another value of the same quantity. */
export class BarChart extends Drawing {
  /** @type {Bars} */
  #shown = { names: [], bars: [], lines: [], summary: "" };

  constructor() {
    super("bars", 120);
  }

  /** @param {Bars} shown */
  show(shown) {
    this.#shown = shown;
    this.draw();
  }

  draw() {
    const { names, bars, lines, summary } = this.#shown;
    const { y, nodes } = this.axis(0, Math.max(...bars, ...lines, 1e-6));
    const width = (this.across(1) - this.across(0)) / Math.max(1, bars.length);
    const gap = Math.min(3, width / 4);
    this.node.setAttribute("aria-label", summary);
    this.node.replaceChildren(
      ...nodes,
      ...bars.map((bar, i) => drawing("rect", {
        class: "bar", x: this.across(0) + i * width + gap / 2, width: width - gap, y: y(bar), height: y(0) - y(bar),
      }, drawing("title", {}, `block ${names[i]}: ${format(bar)}, mean ${format(lines[i])}`))),
      ...lines.map((line, i) => drawing("line", {
        class: "mean", x1: this.across(0) + i * width, x2: this.across(0) + (i + 1) * width, y1: y(line), y2: y(line),
      })),
      this.below(0, `block ${names[0]}`),
      ...(names.length > 1 ? [this.below(1, String(names[names.length - 1]))] : []),
    );
  }
}
