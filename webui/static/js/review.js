// @ts-check
// The review page's keys, and opening an event beside the list. Without it the rows are plain links.

import { fragment, hooked, isTyping } from "./dom.js";
import * as net from "./net.js";

const OPEN_DELAY_MS = 150; // j and k pass over events: only one that stays current is opened, and so recorded as read

const pane = hooked("data-event-pane");
let opening = new AbortController();
let delay = 0;

const rows = () => /** @type {HTMLAnchorElement[]} */ ([...document.querySelectorAll("[data-row]")]);
const current = () => rows().findIndex((row) => row.hasAttribute("aria-current"));

/** @param {HTMLAnchorElement} row */
function mark(row) {
  for (const other of rows()) other.toggleAttribute("aria-current", false);
  row.setAttribute("aria-current", "true");
  row.scrollIntoView({ block: "nearest" });
}

/** @param {string} path */
async function open(path) {
  opening.abort();
  opening = new AbortController();
  const { signal } = opening;
  try {
    const html = await net.eventPane(path, signal);
    if (signal.aborted) return;
    pane.replaceChildren(fragment(html));
    pane.scrollTop = 0;
    document.body.classList.add("page-review-event");
    history.replaceState(null, "", path);
  } catch (error) {
    if (signal.aborted) return;
    if (!(error instanceof net.RequestError)) throw error;
    pane.textContent = error.message;
  }
}

/** @param {number} step */
function move(step) {
  const all = rows();
  const row = all[Math.min(Math.max(current() + step, 0), all.length - 1)];
  if (!row) return;
  mark(row);
  clearTimeout(delay);
  delay = setTimeout(() => void open(row.href), OPEN_DELAY_MS);
}

document.addEventListener("click", (event) => {
  if (event.ctrlKey || event.metaKey || event.shiftKey || event.button !== 0) return;
  const link = /** @type {Element} */ (event.target).closest("[data-row], [data-open-event]");
  if (!(link instanceof HTMLAnchorElement) || matchMedia("(max-width: 720px)").matches) return;
  event.preventDefault();
  const row = rows().find((one) => one.pathname === link.pathname);
  if (row) mark(row);
  void open(link.href);
});

document.addEventListener("keydown", (event) => {
  if (isTyping(event)) return;
  if (event.key === "j") move(1);
  if (event.key === "k") move(-1);
  if (event.key === "/") {
    event.preventDefault();
    hooked("data-search").focus();
  }
});

document.querySelector("[data-row][aria-current]")?.scrollIntoView({ block: "center" });
