// @ts-check
// The dialog that puts a conversation into a folder and gives it tags. Folders and tags in use are those of the list.

import { hooked } from "./dom.js";

export class Filing {
  #dialog = /** @type {HTMLDialogElement} */ (hooked("data-filing"));
  #folder = /** @type {HTMLInputElement} */ (hooked("data-filing-folder"));
  #tags = /** @type {HTMLInputElement} */ (hooked("data-filing-tags"));
  #known = hooked("data-filing-known");
  #id = "";

  /** @param {(id: string, filed: {folder: string, tags: string[]}) => void} onSave */
  constructor(onSave) {
    hooked("data-filing-form").addEventListener("submit", (event) => {
      event.preventDefault();
      this.#dialog.close();
      onSave(this.#id, { folder: this.#folder.value.trim(), tags: this.#listed() });
    });
    this.#known.addEventListener("click", (event) => {
      const button = /** @type {Element} */ (event.target).closest("[data-tag]");
      if (button instanceof HTMLElement) this.#turn(button.dataset.tag ?? "");
    });
    this.#tags.addEventListener("input", () => this.#drawKnown());
  }

  /** @param {HTMLElement} item of the list */
  open(item) {
    this.#id = item.dataset.item ?? "";
    hooked("data-filing-name").textContent = item.dataset.title ?? "";
    this.#folder.value = item.dataset.folder ?? "";
    this.#tags.value = item.dataset.tags ?? "";
    hooked("data-filing-folders").replaceChildren(...known("folder:").map((name) => new Option(name, name)));
    this.#known.replaceChildren(...known("tag:").map((name) => tagButton(name)));
    this.#drawKnown();
    this.#dialog.showModal();
    this.#folder.select();
  }

  #listed() {
    return this.#tags.value.split(",").map((tag) => tag.trim()).filter((tag) => tag !== "");
  }

  /** Add a tag, or take it away. @param {string} tag */
  #turn(tag) {
    const listed = this.#listed();
    const others = listed.filter((one) => one.toLowerCase() !== tag.toLowerCase());
    this.#tags.value = (others.length < listed.length ? others : [...listed, tag]).join(", ");
    this.#drawKnown();
  }

  #drawKnown() {
    const listed = this.#listed().map((tag) => tag.toLowerCase());
    for (const button of /** @type {NodeListOf<HTMLElement>} */ (this.#known.querySelectorAll("[data-tag]"))) {
      button.setAttribute("aria-pressed", String(listed.includes((button.dataset.tag ?? "").toLowerCase())));
    }
  }
}

/** @param {string} kind the beginning of a value of the list's views */
function known(kind) {
  const options = /** @type {HTMLSelectElement} */ (hooked("data-list-view")).options;
  return [...options].filter((option) => option.value.startsWith(kind)).map((option) => option.value.slice(kind.length));
}

/** @param {string} name */
function tagButton(name) {
  const button = document.createElement("button");
  button.type = "button";
  button.className = "button-quiet filing-tag";
  button.dataset.tag = name;
  button.textContent = `#${name}`;
  return button;
}
