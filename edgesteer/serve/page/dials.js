/**
 * The sliders of all controllers, where they are put, and what is set on them.
 *
 * Knows no network and no storage.
 */

import { byId, element } from "./dom.js";
import { clamp } from "./scale.js";
import { Slider } from "./slider.js";

/** @typedef {import("./api.js").Controller} Controller */
/** @typedef {import("./answer.js").Strengths} Strengths */

export class Dials {
  /** @type {Slider[]} */
  #sliders = [];
  #onTurn;

  /** @param {(name: string, strength: number) => void} onTurn */
  constructor(onTurn) {
    this.#onTurn = onTurn;
    byId("reset-all", HTMLElement).addEventListener("click", () => this.#sliders.forEach((slider) => slider.take(0)));
  }

  /**
   * Show a slider for each controller, at the strength that was chosen or at the server's.
   *
   * @param {Controller[]} controllers
   * @param {Strengths} chosen
   * @param {string} advice  on how to get controllers
   */
  show(controllers, chosen, advice) {
    this.#sliders = controllers.map((controller) => {
      const { name, limits: [low, high], default_strength } = controller;
      const strength = clamp(chosen[name] ?? default_strength, low, high);
      return new Slider(controller, strength, (turned) => this.#onTurn(name, turned));
    });
    const none = element("p", { class: "muted" }, `No controller is loaded. ${advice}`);
    const nodes = controllers.length ? this.#sliders.map(({ node }) => node) : [none];
    byId("sliders", HTMLElement).replaceChildren(...nodes);
    byId("slider-key", HTMLElement).hidden = controllers.length === 0;
    byId("reset-all", HTMLElement).hidden = controllers.length < 2;
  }

  /** The strengths that are not 0. @returns {Strengths} */
  get strengths() {
    const turned = this.#sliders.filter(({ strength }) => strength !== 0);
    return Object.fromEntries(turned.map(({ controller, strength }) => [controller.name, strength]));
  }
}
