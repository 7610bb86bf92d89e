// @ts-check
// "Show source": an answer as the model wrote it, in the place of the rendered one.

import { sourceOf } from "./branches.js";

/** The button of the last answer. */
function last() {
  return document.querySelector("[data-answer]:last-child [data-show-source]");
}

/**
 * Show the source of the button's answer, or its rendering again.
 * @param {Element | null} button
 */
export function toggleSource(button = last()) {
  const answer = button?.closest("[data-answer]");
  const prose = answer?.querySelector("[data-prose]");
  if (!answer || !(button instanceof HTMLElement) || !(prose instanceof HTMLElement)) return;
  const shown = answer.querySelector("[data-source-text]");
  shown?.remove();
  if (!shown) prose.after(sourceText(sourceOf(answer)));
  prose.hidden = !shown;
  button.setAttribute("aria-expanded", String(!shown));
}

/**
 * The text, which a keyboard can scroll.
 * @param {string} source
 */
function sourceText(source) {
  const element = document.createElement("pre");
  element.className = "answer-source";
  element.dataset.sourceText = "";
  element.tabIndex = 0;
  element.setAttribute("role", "region");
  element.setAttribute("aria-label", "Source of the answer");
  element.textContent = source;
  return element;
}

document.addEventListener("click", (event) => {
  const button = /** @type {Element} */ (event.target).closest("[data-show-source]");
  if (button) toggleSource(button);
});
