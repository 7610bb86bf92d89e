// @ts-check
// The fold below the composer: how the answers of this conversation are drawn, and whether the person's instructions are
// used. The server keeps what goes with a question for the conversation; it knows the bounds and says them.

import { hooked } from "./dom.js";

/** @typedef {import("./types.js").Choices} Choices */

export class Settings {
  #fold = hooked("data-settings");
  #word = hooked("data-settings-word");
  #instructions = /** @type {HTMLInputElement | null} */ (document.querySelector("[data-instructions]"));

  /** @param {() => void} changed something that is counted */
  constructor(changed) {
    this.#fold.addEventListener("input", () => this.#tell());
    this.#instructions?.addEventListener("change", changed);
    hooked("data-settings-reset").addEventListener("click", () => {
      for (const field of this.#fields()) field.value = "";
      this.#tell();
    });
    this.#tell();
  }

  /** What goes with a question. @returns {Choices} */
  get choices() {
    const sampling = Object.fromEntries(this.#fields().filter((field) => field.value).map((field) => [field.name, Number(field.value)]));
    return this.#instructions ? { sampling, without_instructions: !this.#instructions.checked } : { sampling };
  }

  /** What the room of a question depends on. @returns {{without_instructions?: boolean}} */
  get counted() {
    return this.#instructions ? { without_instructions: !this.#instructions.checked } : {};
  }

  #tell() {
    const chosen = this.#fields().filter((field) => field.value).map((field) => `${field.labels?.[0].textContent?.toLowerCase()} ${field.value}`);
    if (this.#instructions?.checked) chosen.push("your instructions");
    this.#word.textContent = chosen.length ? `Settings: ${chosen.join(", ")}` : "Settings";
  }

  #fields() {
    return /** @type {HTMLInputElement[]} */ ([...this.#fold.querySelectorAll("input[type=number]")]);
  }
}
