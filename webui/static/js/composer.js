// @ts-check
// The composer: its text, which survives reloads and errors, the effort, and the one button that sends or stops.

import { Drafts } from "./drafts.js";
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
  #conversation;
  /** @type {Drafts} */
  #drafts;

  /**
   * @param {string} user the id of who writes
   * @param {string} conversation "" for a new one
   * @param {{send: () => void, stop: () => void}} on
   */
  constructor(user, conversation, on) {
    super();
    this.#conversation = conversation;
    this.#drafts = new Drafts(user);
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
    this.text ||= this.#drafts.read(conversation); // words that were typed before this ran stay
    this.#drafts.follow((changed, text) => this.#follow(changed, text), () => this.#show(""));
  }

  get text() {
    return this.#text.value;
  }

  set text(text) {
    this.#show(text);
    this.#keep();
  }

  get hasFocus() {
    return document.activeElement === this.#text;
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
    this.#drafts.keep(conversation, this.text);
    this.#drafts.keep(this.#conversation, "");
  }

  /**
   * The draft belongs to this conversation from now on.
   * @param {string} conversation
   */
  moveTo(conversation) {
    this.#drafts.keep(this.#conversation, "");
    this.#conversation = conversation;
  }

  /**
   * Another tab has changed a draft. New chats are apart: somebody may write two at once.
   * @param {string} conversation
   * @param {string} text
   */
  #follow(conversation, text) {
    if (conversation && conversation === this.#conversation && !document.hasFocus()) this.#show(text);
  }

  /** @param {string} text */
  #show(text) {
    this.#text.value = text;
    this.#grow();
  }

  // Where the style sheet's field-sizing is not known, the box grows here.
  #grow() {
    if (CSS.supports("field-sizing", "content")) return;
    this.#text.style.height = "auto";
    this.#text.style.height = `${this.#text.scrollHeight}px`;
  }

  #keep() {
    this.#grow();
    this.#drafts.keep(this.#conversation, this.text);
    this.dispatchEvent(new Event("written"));
  }

  #efforts() {
    return /** @type {HTMLInputElement[]} */ ([...this.#form.querySelectorAll("input[name=effort]")]);
  }
}
