/**
 * What the page asks of the browser around it: frames, the clipboard, downloads, and a dialog that asks for a key.
 */

import { byId, element } from "./dom.js";

/**
 * Return `soon`, which has something drawn with the next frame, once for many calls, and `now`, which draws at once.
 *
 * @param {() => void} draw
 */
export function eachFrame(draw) {
  let frame = 0;
  const now = () => {
    cancelAnimationFrame(frame);
    frame = 0;
    draw();
  };
  return { now, soon: () => void (frame ||= requestAnimationFrame(now)) };
}

/**
 * Copy text. Browsers give no clipboard to pages that come neither from this machine nor by HTTPS; there the old way is
 * taken.
 *
 * @param {string} text
 */
export async function copy(text) {
  if (navigator.clipboard) return navigator.clipboard.writeText(text);
  const field = element("textarea", { class: "unseen", "aria-hidden": "true" });
  const focused = document.activeElement;
  field.value = text;
  document.body.append(field);
  field.select();
  document.execCommand("copy");
  field.remove();
  if (focused instanceof HTMLElement) focused.focus();
}

/** @param {string} name @param {string} type @param {string} text */
export function download(name, type, text) {
  const url = URL.createObjectURL(new Blob([text], { type }));
  element("a", { href: url, download: name }).click();
  setTimeout(() => URL.revokeObjectURL(url), 10_000);
}

/**
 * Ask for the server's key; return it, or null when the user will not say.
 *
 * @param {boolean} refused  whether another key was tried
 * @returns {Promise<string | null>}
 */
export function askForKey(refused) {
  const dialog = byId("key-dialog", HTMLDialogElement);
  const field = byId("key", HTMLInputElement);
  byId("key-refused", HTMLElement).hidden = !refused;
  field.value = "";
  dialog.returnValue = "";
  dialog.showModal();
  byId("key-cancel", HTMLElement).onclick = () => dialog.close();
  return new Promise((resolve) => {
    const settle = () => resolve(dialog.returnValue === "use" ? field.value.trim() : null);
    dialog.addEventListener("close", settle, { once: true });
  });
}
