/**
 * The readings of one controller in one answer: alpha against its setpoint over tokens, |u| per block, one token's
 * numbers, and the key to the tokens' colours.
 *
 * Knows no network and no storage.
 */

import { measured, meanPush } from "./answer.js";
import { BarChart, LineChart } from "./chart.js";
import { element } from "./dom.js";
import { clamp, format, STEPS } from "./scale.js";

/** @typedef {import("./answer.js").Answer} Answer */
/** @typedef {import("./api.js").Controller} Controller */

export class Readings {
  /** @type {Answer | null} */
  #answer = null;
  /** @type {Controller | null} */
  #controller = null;
  /** The token that is pointed at; null follows the newest. @type {number | null} */
  #pointed = null;
  #onPoint;

  /**
   * @param {HTMLElement} root
   * @param {boolean} coloured
   * @param {(coloured: boolean) => void} onColour
   * @param {(answer: Answer, index: number) => void} onPoint  a token is pointed at
   */
  constructor(root, coloured, onColour, onPoint) {
    this.#onPoint = onPoint;
    this.lines = new LineChart((index) => this.point(index));
    this.bars = new BarChart();
    this.scrubber = element("input", {
      type: "range", id: "scrubber", min: 1, step: 1, oninput: () => this.point(Number(this.scrubber.value) - 1),
    });
    this.numbers = element("dl", { class: "numbers" });
    this.nothing = element("p", { class: "muted" });
    this.poles = [element("span"), element("span")];
    this.colour = element("input", {
      type: "checkbox", id: "coloured", onchange: () => onColour(this.colour.checked),
    });
    this.colour.checked = coloured;
    this.charts = element("div", { class: "charts" },
      heading("Alpha against its setpoint", ["value", "alpha"], ["setpoint", "setpoint"]),
      this.lines.node,
      element("label", { class: "scrub", for: "scrubber" }, "Token", this.scrubber),
      this.numbers,
      heading("Control |u| per block", ["bar", "newest token"], ["mean", "mean"]),
      this.bars.node,
    );
    root.append(this.nothing, this.charts, this.#legend());
    this.show(null, null);
  }

  #legend() {
    const swatches = Array.from({ length: 2 * STEPS + 1 }, (_, i) => element("i", { "data-tone": i - STEPS }));
    return element("div", { class: "legend" },
      element("label", { for: "coloured" }, this.colour, "Colour tokens by alpha"),
      element("div", { class: "legend-scale" },
        this.poles[0],
        element("span", { class: "swatches" }, ...swatches),
        this.poles[1],
      ),
    );
  }

  /**
   * Show this controller's readings in this answer, and follow its newest token.
   *
   * @param {Answer | null} answer
   * @param {Controller | null} controller
   */
  show(answer, controller) {
    this.#answer = answer;
    this.#controller = controller;
    this.#pointed = null;
    this.poles[0].textContent = controller?.negative ?? "negative";
    this.poles[1].textContent = controller?.positive ?? "positive";
    this.refresh();
  }

  /** Point at a token, counted from 0. @param {number} index */
  point(index) {
    this.#pointed = index;
    this.refresh();
    if (this.#answer) this.#onPoint(this.#answer, index);
  }

  /** Draw again after the answer has grown. */
  refresh() {
    const [answer, controller] = [this.#answer, this.#controller];
    const read = answer !== null && controller !== null && measured(answer).includes(controller.name);
    this.charts.hidden = !read;
    this.nothing.hidden = read;
    this.nothing.textContent = whyNothing(answer, controller);
    if (read) this.#draw(answer, controller);
  }

  /** @param {Answer} answer @param {Controller} controller */
  #draw(answer, controller) {
    const readings = answer.tokens.map((token) => token.readings[controller.name] ?? null);
    const newest = readings.findLastIndex((reading) => reading !== null);
    const selected = clamp(this.#pointed ?? newest, 0, Math.max(0, newest));
    const value = readings.slice(0, newest + 1).map((reading) => reading?.alpha ?? null);
    const setpoint = readings.slice(0, newest + 1).map((reading) => reading?.setpoint ?? null);
    const levels = [{ value: 0, label: controller.negative }, { value: 1, label: controller.positive }];
    const summary = `Alpha of ${controller.name} over ${value.length} tokens: now ${format(value.at(-1))}, `
      + `setpoint ${format(setpoint.at(-1))}`;
    this.lines.show({ value, setpoint, levels, selected, summary });
    this.scrubber.max = String(Math.max(1, value.length));
    this.scrubber.value = String(selected + 1);
    this.scrubber.setAttribute("aria-valuetext", `token ${selected + 1}, alpha ${format(value[selected])}`);
    this.#tell(answer.tokens[selected]?.text ?? "", readings[selected]);
    this.#drawBars(answer, controller);
  }

  /** @param {string} text @param {import("./answer.js").Reading | null} reading */
  #tell(text, reading) {
    /** @type {[string, string][]} */
    const rows = [
      ["token", JSON.stringify(text)],
      ["alpha", format(reading?.alpha)],
      ["setpoint", format(reading?.setpoint)],
      ["running mean", format(reading?.running_mean)],
      ["effort", format(reading?.effort)],
    ];
    this.numbers.replaceChildren(...rows.map(([name, shown]) =>
      element("div", {}, element("dt", {}, name), element("dd", {}, shown)),
    ));
  }

  /** @param {Answer} answer @param {Controller} controller */
  #drawBars(answer, controller) {
    const bars = answer.push[controller.name].latest;
    const lines = meanPush(answer, controller.name);
    const names = controller.blocks.length === bars.length ? controller.blocks : bars.map((_, i) => i);
    const largest = lines.indexOf(Math.max(...lines));
    const summary = `Control of ${controller.name} in ${bars.length} blocks; on average largest in block `
      + `${names[largest]} with ${format(lines[largest])}`;
    this.bars.show({ names, bars, lines, summary });
  }
}

/** @param {Answer | null} answer @param {Controller | null} controller */
function whyNothing(answer, controller) {
  if (!controller) return "Without a controller nothing is measured.";
  if (!answer) return "What the controllers measure appears here while an answer is written.";
  if (answer.state === "running") return "Waiting for the first reading…";
  if (answer.steering[controller.name] === undefined) return `${controller.name} was off in this answer.`;
  return "Nothing was measured in this answer.";
}

/**
 * @param {string} title
 * @param {...[string, string]} keys  class and name
 */
function heading(title, ...keys) {
  const shown = keys.map(([kind, name]) => element("span", { class: `chart-key ${kind}` }, name));
  const row = element("span", { class: "chart-keys" }, ...shown);
  return element("div", { class: "chart-head" }, element("h3", {}, title), row);
}
