// @ts-check
// What every block of code in an answer has beside its text: the button that copies it.

import { fragment, hooked } from "./dom.js";

/** Give every block of code its copy button, once. */
export function decorate() {
  for (const block of document.querySelectorAll(".prose .code-block")) {
    if (!block.querySelector("[data-copy-code]")) block.append(fragment(/** @type {HTMLTemplateElement} */ (hooked("data-code-copy")).innerHTML));
  }
}
