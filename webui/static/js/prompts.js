// @ts-check
// The menu of prompts: it opens by its button, by the key p, or by "/" as the first letter in the composer. The arrows
// choose, Enter puts the text into the composer, and its first blank is selected, to be typed over.

import { hooked } from "./dom.js";
import * as net from "./net.js";

/** @typedef {import("./types.js").Prompt} Prompt */

const BLANK = /\{\{[^{}]*\}\}/;

export class PromptMenu {
  #dialog = /** @type {HTMLDialogElement} */ (hooked("data-prompts"));
  #search = /** @type {HTMLInputElement} */ (hooked("data-prompts-search"));
  #list = hooked("data-prompts-list");
  #status = hooked("data-prompts-status");
  #text = /** @type {HTMLTextAreaElement} */ (hooked("data-composer-text"));
  /** @type {Prompt[]} */
  #all = [];
  /** @type {Prompt[]} */
  #shown = [];
  #at = 0;
  #write;

  /** @param {(text: string) => void} write put this text into the composer */
  constructor(write) {
    this.#write = write;
    hooked("data-prompts-open").addEventListener("click", () => void this.open());
    this.#text.addEventListener("input", (event) => {
      if (this.#text.value !== "/" || /** @type {InputEvent} */ (event).inputType !== "insertText") return;
      this.#write("");
      void this.open();
    });
    this.#search.addEventListener("input", () => this.#find());
    this.#search.addEventListener("keydown", (event) => this.#press(event));
    this.#list.addEventListener("click", (event) => {
      const option = /** @type {Element} */ (event.target).closest("[role=option]");
      if (option) this.#use([...this.#list.children].indexOf(option));
    });
  }

  async open() {
    this.#search.value = "";
    this.#all = [];
    this.#status.textContent = "";
    this.#find();
    this.#dialog.showModal();
    this.#search.focus();
    try {
      this.#all = await net.prompts();
      this.#find();
    } catch (error) {
      if (!(error instanceof net.RequestError)) throw error;
      this.#status.textContent = error.message;
    }
  }

  #find() {
    const words = this.#search.value.toLowerCase().split(/\s+/).filter(Boolean);
    const fits = (/** @type {Prompt} */ one) => words.every((word) => `${one.title}\n${one.text}`.toLowerCase().includes(word));
    this.#shown = this.#all.filter(fits);
    this.#at = 0;
    this.#list.replaceChildren(...this.#shown.map((one, at) => this.#option(one, at)));
    if (this.#all.length) this.#status.textContent = this.#shown.length ? "" : "No prompt has these words.";
    else this.#status.textContent = "There are no prompts yet.";
    this.#mark();
  }

  /**
   * @param {Prompt} prompt
   * @param {number} at
   */
  #option(prompt, at) {
    const option = document.createElement("li");
    option.id = `prompt-option-${at}`;
    option.setAttribute("role", "option");
    option.className = "prompt-option";
    const title = document.createElement("strong");
    title.textContent = prompt.title;
    const begin = document.createElement("span");
    begin.className = "small soft prompt-begin";
    begin.textContent = `${prompt.shared ? "Shared. " : ""}${prompt.text.slice(0, 120)}`;
    for (const part of [title, begin]) part.dir = "auto";
    option.append(title, begin);
    return option;
  }

  /** @param {KeyboardEvent} event */
  #press(event) {
    const last = this.#shown.length - 1;
    /** @type {Record<string, () => void>} */
    const keys = {
      ArrowDown: () => { this.#at = this.#at < last ? this.#at + 1 : 0; },
      ArrowUp: () => { this.#at = this.#at > 0 ? this.#at - 1 : last; },
      Enter: () => this.#use(this.#at),
    };
    const action = keys[event.key];
    if (!action || event.isComposing || last < 0) return;
    event.preventDefault();
    action();
    this.#mark();
  }

  #mark() {
    for (const [at, option] of [...this.#list.children].entries()) option.setAttribute("aria-selected", String(at === this.#at));
    const chosen = this.#list.children[this.#at];
    if (chosen) this.#search.setAttribute("aria-activedescendant", chosen.id);
    else this.#search.removeAttribute("aria-activedescendant");
    chosen?.scrollIntoView({ block: "nearest" });
  }

  /** @param {number} at */
  #use(at) {
    const { text } = this.#shown[at];
    this.#dialog.close();
    const before = this.#text.value;
    this.#write(before ? `${before.trimEnd()}\n\n${text}` : text);
    this.#text.focus();
    const from = this.#text.value.length - text.length;
    const blank = BLANK.exec(text);
    if (blank) this.#text.setSelectionRange(from + blank.index, from + blank.index + blank[0].length);
  }
}
