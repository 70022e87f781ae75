/**
 * Where the paragraphs and code blocks of an answer are; of Markdown only these two, which white space depends on.
 *
 * Pure; knows no page.
 */

/** @typedef {{code: boolean, start: number, end: number}} Block  a range of characters, without fences and breaks */

const FENCE = "```";

/**
 * Return the blocks of a text in order. A code block whose closing fence is missing goes on to the end.
 *
 * @param {string} text
 * @returns {Block[]}
 */
export function blocks(text) {
  /** @type {Block[]} */
  const found = [];
  let open = /** @type {Block | null} */ (null);
  let at = 0;
  for (const line of text.split("\n")) {
    const end = at + line.length;
    const fence = line.startsWith(FENCE);
    if (open?.code ? fence : fence || line.trim() === "") {
      open = fence && !open?.code ? { code: true, start: end + 1, end: end + 1 } : null;
      if (open) found.push(open);
    } else if (open) {
      open.end = end;
    } else {
      open = { code: false, start: at, end };
      found.push(open);
    }
    at = end + 1;
  }
  return found;
}
