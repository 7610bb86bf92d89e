// @ts-check
// The files that go with the next question: picked, dropped or pasted, shown above the composer, removed again.

import { cloned, hooked } from "./dom.js";
import * as net from "./net.js";

/** @typedef {import("./types.js").AttachedFile} AttachedFile */

const KEPT_KEY = "files";

export class Attachments {
  #list = hooked("data-files");
  #status = hooked("data-files-status");
  #form = hooked("data-composer");
  #button = /** @type {HTMLButtonElement | null} */ (document.querySelector("[data-attach]"));
  #marking = /** @type {HTMLSelectElement | null} */ (document.querySelector("[data-attach-marking]"));
  #fail;
  #changed;
  /** @type {Map<string, AttachedFile>} */
  #files = new Map();
  #reading = 0;

  /** @param {{fail: (message: string) => void, changed: () => void}} on fail: why a file is not attached; "" for nothing */
  constructor(on) {
    this.#fail = on.fail;
    this.#changed = on.changed;
    if (!this.#button) return;
    const picker = /** @type {HTMLInputElement} */ (hooked("data-attach-input"));
    this.#button.addEventListener("click", () => picker.click());
    picker.addEventListener("change", () => {
      void this.#attach([...(picker.files ?? [])]);
      picker.value = "";
    });
    hooked("data-composer-text").addEventListener("paste", (event) => {
      const files = [.../** @type {ClipboardEvent} */ (event).clipboardData?.files ?? []];
      if (!files.length) return;
      event.preventDefault();
      void this.#attach(files);
    });
    this.#takeDrops();
    void this.#restore();
  }

  /** @returns {string[]} the files that wait */
  get ids() {
    return [...this.#files.keys()];
  }

  /** Whether a file is still being read; then the person is told that the question must wait. */
  get holdsBack() {
    if (this.#reading) this.#fail("A file is still being read. Send when it is done.");
    return this.#reading > 0;
  }

  /**
   * The files for the question that is sent now; they leave the composer.
   * @returns {AttachedFile[]}
   */
  take() {
    const files = [...this.#files.values()];
    this.#files.clear();
    this.#draw();
    return files;
  }

  /**
   * The question was not asked: its files wait again.
   * @param {AttachedFile[]} files
   */
  giveBack(files) {
    for (const file of files) this.#files.set(file.id, file);
    this.#draw();
  }

  /**
   * Show the files of a question that has just been sent.
   * @param {HTMLElement} words
   * @param {AttachedFile[]} files
   */
  drawBeside(words, files) {
    if (!files.length) return;
    const list = document.createElement("ul");
    list.className = "files";
    for (const file of files) {
      const chip = cloned("file-chip");
      hooked("data-file-name", chip).textContent = file.name;
      /** @type {HTMLAnchorElement} */ (hooked("data-file-link", chip)).href = file.address;
      list.append(chip);
    }
    words.append(list);
  }

  /** @param {File[]} files */
  async #attach(files) {
    this.#fail("");
    /** @type {string[]} */
    const problems = [];
    this.#reading += files.length;
    for (const file of files) {
      this.#draw(file.name);
      try {
        const problem = this.#problemOf(file);
        if (problem) problems.push(problem);
        else this.#add(await net.attachFile(file, this.#marking?.value ?? ""));
      } catch (error) {
        if (!(error instanceof net.RequestError)) throw error;
        problems.push(error.message);
      } finally {
        this.#reading -= 1;
        this.#draw();
      }
    }
    if (problems.length) this.#fail(problems.join(" "));
  }

  /** @param {File} file */
  #problemOf(file) {
    const most = Number(this.#button?.dataset.maxBytes);
    const words = file.size > most ? this.#button?.dataset.tooLarge : "";
    return words?.replace("{name}", () => file.name) ?? "";
  }

  /** @param {AttachedFile} file */
  #add(file) {
    this.#files.set(file.id, file);
  }

  /** @param {AttachedFile} file */
  async #remove(file) {
    this.#files.delete(file.id);
    this.#draw();
    this.#button?.focus();
    try {
      await net.removeFile(file.id);
    } catch (error) {
      if (!(error instanceof net.RequestError)) throw error;  // it is gone from here, and ends by itself after a day
    }
  }

  #takeDrops() {
    /** @param {DragEvent} event */
    const brings = (event) => event.dataTransfer?.types.includes("Files") ?? false;
    document.addEventListener("dragover", (event) => {
      if (!brings(event)) return;
      event.preventDefault();
      this.#form.classList.add("composer-drop");
    });
    for (const over of ["dragleave", "drop", "dragend"]) {
      document.addEventListener(over, (event) => {
        if (over === "dragleave" && /** @type {DragEvent} */ (event).relatedTarget) return;
        this.#form.classList.remove("composer-drop");
      });
    }
    document.addEventListener("drop", (event) => {
      if (!brings(event) || !event.dataTransfer) return;
      event.preventDefault();
      const isFolder = [...event.dataTransfer.items].some((item) => item.webkitGetAsEntry()?.isDirectory);
      if (isFolder) this.#fail("A folder cannot be attached. Attach the files in it.");
      else void this.#attach([...event.dataTransfer.files]);
    });
  }

  // The tab remembers which files it has, so that another tab's files do not appear here.
  async #restore() {
    const kept = JSON.parse(sessionStorage.getItem(KEPT_KEY) ?? "[]");
    if (!kept.length) return;
    try {
      const waiting = await net.waitingFiles();
      for (const file of waiting) if (kept.includes(file.id)) this.#add(file);
      this.#draw();
      this.#changed();
    } catch (error) {
      if (!(error instanceof net.RequestError)) throw error;  // the files wait on the server all the same
    }
  }

  /** @param {string} [reading] the name of the file that is being read */
  #draw(reading = "") {
    const files = [...this.#files.values()];
    this.#list.replaceChildren(...files.map((file) => this.#row(file)));
    this.#list.hidden = files.length === 0;
    this.#status.textContent = reading ? `Reading “${reading}”…` : total(files);
    this.#status.hidden = !this.#status.textContent;
    const kept = JSON.stringify(this.ids);
    if (kept === (sessionStorage.getItem(KEPT_KEY) ?? "[]")) return;
    sessionStorage.setItem(KEPT_KEY, kept);
    this.#changed();
  }

  /** @param {AttachedFile} file */
  #row(file) {
    const row = cloned("file");
    hooked("data-file-name", row).textContent = file.name;
    /** @type {HTMLAnchorElement} */ (hooked("data-file-link", row)).href = file.address;
    const tokens = file.tokens === null ? "tokens not counted" : `${file.tokens.toLocaleString("en")} tokens`;
    const marked = file.marking ? `, marked ${file.marking}` : "";
    hooked("data-file-facts", row).textContent = `${file.what}, ${file.size}, ${tokens}${marked}`;
    hooked("data-file-notes", row).textContent = file.notes.join(" ");
    const remove = hooked("data-file-remove", row);
    remove.setAttribute("aria-label", `Remove ${file.name}`);
    remove.addEventListener("click", () => void this.#remove(file));
    return row;
  }
}

/** @param {AttachedFile[]} files */
function total(files) {
  if (!files.length) return "";
  const tokens = files.reduce((sum, file) => sum + (file.tokens ?? 0), 0).toLocaleString("en");
  if (files.length === 1) return `1 file with ${tokens} tokens goes with your question.`;
  return `${files.length} files with ${tokens} tokens go with your question.`;
}
