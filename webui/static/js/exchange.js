// @ts-check
// Conversations as files: the dialogs by which they leave and come in.

import { hooked } from "./dom.js";
import * as net from "./net.js";

const MOST_BYTES = 7 * 1024 * 1024; // of one request; the server takes 8 MiB
const MOST_REFUSALS_SHOWN = 20;

/**
 * @param {string} id
 * @param {string} title
 */
export function openExport(id, title) {
  const dialog = /** @type {HTMLDialogElement} */ (hooked("data-export"));
  hooked("data-export-name", dialog).textContent = title;
  for (const link of /** @type {NodeListOf<HTMLAnchorElement>} */ (dialog.querySelectorAll("[data-export-form]"))) {
    link.href = `/chat/${id}/export/${link.dataset.exportForm}`;
  }
  dialog.showModal();
}

/** The dialog that takes a file. */
export class Importing {
  #dialog = /** @type {HTMLDialogElement} */ (hooked("data-import"));
  #file = /** @type {HTMLInputElement} */ (hooked("data-import-file"));
  #send = /** @type {HTMLButtonElement} */ (hooked("data-import-send"));
  #status = hooked("data-import-status");
  #refused = hooked("data-import-refused");
  #onDone;

  /** @param {() => void} onDone something was imported */
  constructor(onDone) {
    this.#onDone = onDone;
    hooked("data-import-open").addEventListener("click", () => this.#open());
    hooked("data-import-form").addEventListener("submit", (event) => {
      event.preventDefault();
      const file = this.#file.files?.[0];
      if (file) void this.#import(file);
    });
  }

  #open() {
    this.#file.value = "";
    this.#say("");
    this.#tell([]);
    this.#dialog.showModal();
  }

  /** @param {File} file */
  async #import(file) {
    this.#send.disabled = true;
    this.#say("Importing…");
    /** @type {import("./types.js").Imported} */
    const all = { imported: [], refused: [] };
    try {
      const parts = await partsOf(file);
      for (const [number, part] of parts.entries()) {
        if (parts.length > 1) this.#say(`Importing part ${number + 1} of ${parts.length}…`);
        const done = await net.importConversations(part);
        all.imported.push(...done.imported);
        all.refused.push(...done.refused);
      }
      this.#say([sentence(all), ...unknownMarkings(all)].join(" "));
    } catch (error) {
      if (!(error instanceof net.RequestError)) throw error;
      this.#say(all.imported.length ? `${sentence(all)} Then it stopped: ${error.message}` : error.message);
    } finally {
      this.#send.disabled = false;
    }
    this.#tell(all.refused);
    if (all.imported.length) this.#onDone();
  }

  /** @param {string} words */
  #say(words) {
    this.#status.textContent = words;
  }

  /** @param {{title: string, reason: string}[]} refused */
  #tell(refused) {
    const lines = refused.slice(0, MOST_REFUSALS_SHOWN).map((one) => {
      const line = document.createElement("li");
      line.textContent = one.title ? `${one.title}: ${one.reason}` : one.reason;
      return line;
    });
    this.#refused.replaceChildren(...lines);
    this.#refused.hidden = lines.length === 0;
  }
}

/** @param {import("./types.js").Imported} all */
function sentence(all) {
  const imported = all.imported.length;
  const taken = imported === 1 ? "One conversation was imported." : `${imported} conversations were imported.`;
  const { length } = all.refused;
  if (!length) return taken;
  return `${taken} ${length === 1 ? "One was not:" : `${length} were not:`}`;
}

/** @param {import("./types.js").Imported} all */
function unknownMarkings(all) {
  const names = new Set(all.imported.map((one) => one.unknown_marking).filter(Boolean));
  return [...names].map((name) => `The marking ${name} is unknown here: what had it is not set, and counts as the highest.`);
}

/**
 * The file as it is, or cut between its conversations if it is too large for one request.
 * @param {File} file
 * @returns {Promise<Blob[]>}
 */
async function partsOf(file) {
  if (file.size <= MOST_BYTES) return [file];
  const refusal = new net.RequestError("The file is not a list of conversations that fit. Nothing was imported.", 400);
  /** @type {unknown} */
  let all;
  try {
    all = JSON.parse(await file.text());
  } catch {
    throw refusal;
  }
  if (!Array.isArray(all)) throw refusal;
  /** @type {Blob[]} */
  const parts = [];
  /** @type {string[]} */
  let part = [];
  let size = 0;
  for (const one of all) {
    const text = JSON.stringify(one);
    const bytes = new Blob([text]).size + 1;
    if (part.length && size + bytes > MOST_BYTES) {
      parts.push(new Blob(["[", part.join(","), "]"]));
      part = [];
      size = 0;
    }
    part.push(text);
    size += bytes;
  }
  parts.push(new Blob(["[", part.join(","), "]"]));
  return parts;
}
