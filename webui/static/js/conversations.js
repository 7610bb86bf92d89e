// @ts-check
// The list of conversations: search, rename, pin, delete, and the drawer it becomes on a narrow screen.

import { fragment, hooked } from "./dom.js";
import { openExport } from "./exchange.js";
import * as net from "./net.js";

const SEARCH_DELAY_MS = 200;

export class ConversationList {
  #body = hooked("data-list-body");
  #search = /** @type {HTMLInputElement} */ (hooked("data-list-search"));
  #current;
  #onError;
  #delay = 0;
  #asked = 0;

  /**
   * @param {() => string} current the id of the open conversation
   * @param {(message: string) => void} onError
   */
  constructor(current, onError) {
    this.#current = current;
    this.#onError = onError;
    this.#search.addEventListener("input", () => {
      clearTimeout(this.#delay);
      this.#delay = setTimeout(() => void this.refresh(), SEARCH_DELAY_MS);
    });
    this.#body.addEventListener("click", (event) => this.#chosen(/** @type {Element} */ (event.target)));
    for (const button of document.querySelectorAll("[data-drawer]")) button.addEventListener("click", () => this.toggle());
    document.addEventListener("keydown", (event) => { if (event.key === "Escape") this.toggle(false); });
  }

  focusSearch() {
    this.toggle(true);
    this.#search.focus();
  }

  /** @param {boolean} [open] */
  toggle(open) {
    const isOpen = document.body.classList.toggle("chat-list-open", open);
    for (const button of document.querySelectorAll("[data-drawer][aria-expanded]")) button.setAttribute("aria-expanded", String(isOpen));
  }

  async refresh() {
    const number = ++this.#asked;
    try {
      const html = await net.conversationList(this.#search.value, this.#current());
      if (number === this.#asked) this.#body.replaceChildren(fragment(html));
    } catch (error) {
      this.#fail(error);
    }
  }

  /** @param {Element} target */
  #chosen(target) {
    const button = target.closest("[data-list-action]");
    const item = /** @type {HTMLElement | null} */ (target.closest("[data-item]"));
    if (!(button instanceof HTMLElement) || !item) return;
    item.querySelector("details")?.removeAttribute("open");
    const id = item.dataset.item ?? "";
    const title = item.dataset.title ?? "";
    const action = button.dataset.listAction;
    if (action === "pin") void this.#change(() => net.changeConversation(id, { pinned: item.dataset.pinned !== "true" }));
    if (action === "rename") this.#rename(id, title);
    if (action === "export") openExport(id, title);
    if (action === "delete") this.#delete(id, title);
  }

  /**
   * @param {string} id
   * @param {string} title
   */
  #rename(id, title) {
    const dialog = /** @type {HTMLDialogElement} */ (hooked("data-rename"));
    const input = /** @type {HTMLInputElement} */ (dialog.querySelector("input[name=title]"));
    input.value = title;
    this.#confirm(dialog, () => net.changeConversation(id, { title: input.value }));
    input.select();
  }

  /**
   * @param {string} id
   * @param {string} title
   */
  #delete(id, title) {
    const dialog = /** @type {HTMLDialogElement} */ (hooked("data-delete"));
    hooked("data-delete-title", dialog).textContent = title;
    this.#confirm(dialog, async () => {
      await net.deleteConversation(id);
      if (id === this.#current()) location.assign("/chat");
    });
  }

  /**
   * @param {HTMLDialogElement} dialog whose form closes it with the value "yes" to go on
   * @param {() => Promise<void>} change
   */
  #confirm(dialog, change) {
    dialog.returnValue = "";
    dialog.addEventListener("close", () => { if (dialog.returnValue === "yes") void this.#change(change); }, { once: true });
    dialog.showModal();
  }

  /** @param {() => Promise<void>} change */
  async #change(change) {
    try {
      await change();
      await this.refresh();
    } catch (error) {
      this.#fail(error);
    }
  }

  /** @param {unknown} error */
  #fail(error) {
    if (!(error instanceof net.RequestError)) throw error;
    this.#onError(error.message);
  }
}
