// @ts-check
// The composer: its text, which survives reloads and errors, the effort, and the one button that sends or stops.

import { hooked } from "./dom.js";

/** @typedef {import("./types.js").Effort} Effort */

const EFFORT_KEY = "effort";

/** Emits "written" when its text or effort changes. */
export class Composer extends EventTarget {
  #text = /** @type {HTMLTextAreaElement} */ (hooked("data-composer-text"));
  #form = /** @type {HTMLFormElement} */ (hooked("data-composer"));
  #send = /** @type {HTMLButtonElement} */ (hooked("data-send"));
  #stop = /** @type {HTMLButtonElement} */ (hooked("data-stop"));
  #error = hooked("data-composer-error");
  #draftKey = "";

  /**
   * @param {string} conversation "" for a new one
   * @param {{send: () => void, stop: () => void}} on
   */
  constructor(conversation, on) {
    super();
    this.#form.addEventListener("submit", (event) => {
      event.preventDefault();
      if (this.text.trim()) on.send();
    });
    this.#stop.addEventListener("click", on.stop);
    this.#text.addEventListener("input", () => this.#keep());
    this.#text.addEventListener("keydown", (event) => {
      if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
      event.preventDefault();
      if (this.text.trim() && !this.#send.hidden) on.send();
    });
    const kept = localStorage.getItem(EFFORT_KEY);
    for (const choice of this.#efforts()) {
      if (choice.value === kept) choice.checked = true;
      choice.addEventListener("change", () => {
        localStorage.setItem(EFFORT_KEY, choice.value);
        this.dispatchEvent(new Event("written"));
      });
    }
    this.moveTo(conversation);
    this.text ||= sessionStorage.getItem(this.#draftKey) ?? ""; // words that were typed before this ran stay
  }

  get text() {
    return this.#text.value;
  }

  set text(text) {
    this.#text.value = text;
    this.#keep();
  }

  /** @returns {Effort} */
  get effort() {
    const chosen = this.#efforts().find((choice) => choice.checked);
    return /** @type {Effort} */ (chosen?.value ?? "medium");
  }

  focus() {
    this.#text.focus();
  }

  /** @param {boolean} busy whether Stop stands in Send's place */
  showBusy(busy) {
    const held = busy ? this.#send : this.#stop;
    const hadFocus = document.activeElement === held;
    this.#send.hidden = busy;
    this.#stop.hidden = !busy;
    if (hadFocus) (busy ? this.#stop : this.#text).focus();
  }

  /** @param {string} message "" for none */
  showError(message) {
    hooked("data-composer-error-text").textContent = message;
    this.#error.hidden = message === "";
  }

  /**
   * Take the draft along to another conversation, which is opened next.
   * @param {string} conversation
   */
  takeAlong(conversation) {
    if (this.text) sessionStorage.setItem(`draft:${conversation}`, this.text);
    sessionStorage.removeItem(this.#draftKey);
  }

  /**
   * The draft belongs to this conversation from now on.
   * @param {string} conversation
   */
  moveTo(conversation) {
    if (this.#draftKey) sessionStorage.removeItem(this.#draftKey);
    this.#draftKey = `draft:${conversation || "new"}`;
  }

  // Where the style sheet's field-sizing is not known, the box grows here.
  #grow() {
    if (CSS.supports("field-sizing", "content")) return;
    this.#text.style.height = "auto";
    this.#text.style.height = `${this.#text.scrollHeight}px`;
  }

  // In the session's storage, which ends with the tab: drafts may be as confidential as what is sent.
  #keep() {
    this.#grow();
    if (this.text) sessionStorage.setItem(this.#draftKey, this.text);
    else sessionStorage.removeItem(this.#draftKey);
    this.dispatchEvent(new Event("written"));
  }

  #efforts() {
    return /** @type {HTMLInputElement[]} */ ([...this.#form.querySelectorAll("input[name=effort]")]);
  }
}
