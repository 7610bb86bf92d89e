// @ts-check
// The earlier turns of a long conversation: they come when the reader scrolls up to them, and the text that is being read
// stays where it is. The browser's own search finds what has come; the link here leads to all of it on one page.

import { showNamed } from "./branches.js";
import { decorate } from "./code_blocks.js";
import { fragment, hooked, scrollArea } from "./dom.js";
import * as net from "./net.js";

const AHEAD = "1200px 0px 0px 0px"; // so far above the visible part, the next turns are asked for

const turns = hooked("data-turns");
const above = hooked("data-earlier");
const words = hooked("data-earlier-words");
let isLoading = false;
/** @type {IntersectionObserver | undefined} */
let nearing;

/** Tell, at once and from now on, when the beginning of what is shown is near. */
function watch() {
  nearing?.disconnect();
  nearing = new IntersectionObserver((entries) => { if (entries.some((one) => one.isIntersecting)) void loadOn(); },
    { root: scrollArea(), rootMargin: AHEAD });
  nearing.observe(above);
}

/** Draw one more part above. */
async function load() {
  const before = above.dataset.earlier ?? "";
  const { html, earlier } = await net.earlierTurns(hooked("data-chat").dataset.chat ?? "", before);
  const area = scrollArea();
  const fromBottom = area.scrollHeight - area.scrollTop;
  turns.prepend(fragment(html));
  above.dataset.earlier = earlier ?? "";
  above.hidden = !earlier;
  decorate();
  area.scrollTop = area.scrollHeight - fromBottom;
}

/** Draw parts until one is out of sight, so that each look up is answered. */
async function loadOn() {
  if (isLoading || !above.dataset.earlier) return;
  isLoading = true;
  try {
    await load();
    words.textContent = "";
  } catch (error) {
    if (!(error instanceof net.RequestError)) throw error;
    words.textContent = error.message;
    return;
  } finally {
    isLoading = false;
  }
  watch();
}

/** A message that the address names is looked for in the earlier turns. */
async function loadNamed() {
  const name = location.hash.slice(1);
  if (!name.startsWith("message-")) return;
  while (above.dataset.earlier && !document.getElementById(name)) await load();
  showNamed();
}

if (above.dataset.earlier) {
  hooked("data-earlier-more").addEventListener("click", () => void loadOn());
  if (location.hash && !document.getElementById(location.hash.slice(1))) void loadNamed();
  // Not before the page stands at its end: at the top, where it begins, everything would be near.
  requestAnimationFrame(() => requestAnimationFrame(watch));
}
