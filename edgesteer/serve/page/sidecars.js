/**
 * The sidecar files that the server can load and unload while it runs.
 *
 * Knows no network; what the user asks for goes to the actions.
 */

import { button, byId, element } from "./dom.js";

/** @typedef {import("./api.js").Controller} Controller */

/** @typedef {{load: (file: string) => void, unload: (names: string[]) => void}} Actions */

/** The file's own name. @param {string | null} path */
function fileName(path) {
  return path?.split(/[\\/]/).at(-1) ?? "";
}

/**
 * List the files, each with a button that loads it, or unloads its controllers.
 *
 * @param {string[]} files
 * @param {Controller[]} controllers  the loaded ones
 * @param {Actions} actions
 */
export function listSidecars(files, controllers, actions) {
  const details = byId("sidecars", HTMLDetailsElement);
  details.hidden = files.length === 0;
  details.open ||= controllers.length === 0;
  byId("sidecar-list", HTMLElement).replaceChildren(...files.map((file) => {
    const names = controllers.filter((each) => fileName(each.file) === fileName(file)).map(({ name }) => name);
    const change = names.length
      ? button("Unload", () => actions.unload(names), { "aria-label": `Unload ${file}` })
      : button("Load", () => actions.load(file), { "aria-label": `Load ${file}` });
    return element("li", {}, element("span", {}, file), change);
  }));
}
