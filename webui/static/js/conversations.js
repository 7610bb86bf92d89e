// @ts-check
// The list of conversations: search, views, its older pages, what can be done with each, and the drawer it becomes on a
// narrow screen.

import { goTo } from "./branches.js";
import { fragment, hooked } from "./dom.js";
import { openExport } from "./exchange.js";
import { Filing } from "./filing.js";
import * as net from "./net.js";

const SEARCH_DELAY_MS = 200;
const PAGE = 50;

export class ConversationList {
  #body = hooked("data-list-body");
  #search = /** @type {HTMLInputElement} */ (hooked("data-list-search"));
  #view = /** @type {HTMLSelectElement} */ (hooked("data-list-view"));
  #current;
  #onError;
  #filing;
  #delay = 0;
  #asked = 0;
  #reached = new IntersectionObserver((seen) => { if (seen.some((one) => one.isIntersecting)) void this.#older(); }, { root: this.#body, rootMargin: "200px" });

  /**
   * @param {() => string} current the id of the open conversation
   * @param {(message: string) => void} onError
   */
  constructor(current, onError) {
    this.#current = current;
    this.#onError = onError;
    this.#filing = new Filing((id, filed) => void this.#change(() => net.changeConversation(id, filed)));
    this.#search.addEventListener("input", () => {
      clearTimeout(this.#delay);
      this.#delay = setTimeout(() => void this.#begin(), SEARCH_DELAY_MS);
    });
    this.#view.addEventListener("change", () => void this.#begin());
    this.#body.addEventListener("click", (event) => this.#chosen(event));
    this.#body.addEventListener("toggle", (event) => this.#place(/** @type {HTMLElement} */ (event.target)), true);
    for (const button of document.querySelectorAll("[data-drawer]")) button.addEventListener("click", () => this.toggle());
    document.addEventListener("keydown", (event) => {
      if (event.key === "Escape" && !document.querySelector("dialog[open]")) this.toggle(false);
    });
    this.#watch();
  }

  focusSearch() {
    this.toggle(true);
    this.#search.focus();
  }

  /** Open the dialog for the folder and the tags of the open conversation. */
  fileCurrent() {
    const item = this.#body.querySelector(`[data-item="${this.#current()}"]`);
    if (item instanceof HTMLElement) this.#filing.open(item);
  }

  /** @param {boolean} [open] */
  toggle(open) {
    const isOpen = document.body.classList.toggle("chat-list-open", open);
    for (const button of document.querySelectorAll("[data-drawer][aria-expanded]")) button.setAttribute("aria-expanded", String(isOpen));
  }

  /** Draw the list again, as far as it was drawn. */
  async refresh() {
    await this.#draw(Math.max(PAGE, this.#body.querySelectorAll("[data-item]").length));
  }

  /** Draw the first page of what is wanted now. */
  async #begin() {
    await this.#draw(PAGE);
    this.#body.scrollTop = 0;
  }

  /** @param {number} count */
  async #draw(count) {
    const number = ++this.#asked;
    try {
      const wanted = this.#wanted();
      const { html, views } = await net.conversationList({ ...wanted, count: String(count) });
      if (number !== this.#asked) return;
      this.#body.replaceChildren(fragment(html));
      this.#view.replaceChildren(fragment(views));
      if (this.#view.value !== wanted.view) await this.#begin(); // its last conversation has left it
      else this.#watch();
    } catch (error) {
      this.#fail(error);
    }
  }

  async #older() {
    const button = this.#body.querySelector("[data-older]");
    if (!(button instanceof HTMLButtonElement) || button.disabled) return;
    button.disabled = true;
    const number = this.#asked;
    const focused = document.activeElement === button;
    try {
      const { html } = await net.conversationList({ ...this.#wanted(), after: button.dataset.older ?? "" });
      if (number !== this.#asked) return;
      const more = fragment(html);
      const first = more.querySelector("[data-item] a");
      button.remove();
      joinGroups(this.#body, more);
      this.#body.append(more);
      if (focused && first instanceof HTMLElement) first.focus();
      this.#watch();
    } catch (error) {
      button.disabled = false;
      this.#reached.disconnect(); // else it would ask again and again
      this.#fail(error);
    }
  }

  #wanted() {
    return { q: this.#search.value, view: this.#view.value, current: this.#current() };
  }

  #watch() {
    this.#reached.disconnect();
    const button = this.#body.querySelector("[data-older]");
    if (button) this.#reached.observe(button);
  }

  /** Open a menu upwards where it would not fit below. @param {HTMLElement} menu */
  #place(menu) {
    const panel = menu.querySelector(".menu-panel");
    menu.classList.remove("menu-up");
    if (!panel || !menu.hasAttribute("open")) return;
    const { top, bottom } = this.#body.getBoundingClientRect();
    const below = panel.getBoundingClientRect();
    const fitsAbove = menu.getBoundingClientRect().top - below.height > top;
    menu.classList.toggle("menu-up", below.bottom > bottom && fitsAbove);
  }

  /** @param {MouseEvent} event */
  #chosen(event) {
    const target = /** @type {Element} */ (event.target);
    const item = /** @type {HTMLElement | null} */ (target.closest("[data-item]"));
    const hit = target.closest("[data-hit]");
    const button = target.closest("[data-list-action]");
    if (target.closest("[data-older]")) void this.#older();
    if (!item) return;
    const id = item.dataset.item ?? "";
    if (hit instanceof HTMLAnchorElement && !(event.ctrlKey || event.metaKey || event.shiftKey)) {
      event.preventDefault();
      void this.#goTo(id, hit);
    }
    if (!(button instanceof HTMLElement)) return;
    item.querySelector("details")?.removeAttribute("open");
    const title = item.dataset.title ?? "";
    const action = button.dataset.listAction;
    if (action === "pin") void this.#change(() => net.changeConversation(id, { pinned: item.dataset.pinned !== "true" }));
    if (action === "archive") void this.#change(() => net.changeConversation(id, { archived: item.dataset.archived !== "true" }));
    if (action === "rename") this.#rename(id, title);
    if (action === "file") this.#filing.open(item);
    if (action === "export") openExport(id, title);
    if (action === "delete") this.#delete(id, title);
  }

  /**
   * Go to a message that was found, on its branch. While an answer is being written there, the branch stays.
   * @param {string} id
   * @param {HTMLAnchorElement} hit
   */
  async #goTo(id, hit) {
    try {
      await goTo(id, hit.dataset.hit ?? "");
    } catch (error) {
      if (error instanceof net.RequestError && error.status === 409) location.assign(hit.href);
      else this.#fail(error);
    }
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

/**
 * A group that goes on in `more` has one heading: move its first items into the list that has it.
 * @param {HTMLElement} body
 * @param {DocumentFragment} more
 */
function joinGroups(body, more) {
  const headings = body.querySelectorAll("[data-group]");
  const last = headings[headings.length - 1];
  const first = more.querySelector("[data-group]");
  const list = first?.nextElementSibling;
  if (!last || !first || !list || last.textContent !== first.textContent) return;
  last.nextElementSibling?.append(...list.children);
  first.remove();
  list.remove();
}
