// @ts-check
// What somebody has written and not sent. A draft is kept twice:
//   in the tab's storage: it survives reloads, errors, and a session that ended while somebody wrote;
//   in the browser's storage: other tabs see it, and a tab that is opened later.
// Machines are shared, and a draft may be as confidential as what is sent. So each key names the person; signing out
// clears both kinds in every tab; a sign-in page without a session clears the browser's kind; an old draft is dropped.

/** @typedef {{text: string, at: number}} Draft */

const PREFIX = "draft:";
const KEPT_MS = 7 * 24 * 3600 * 1000;

/** Tells the other tabs. @type {BroadcastChannel} */
const channel = new BroadcastChannel("drafts");

export class Drafts {
  #user;

  /** @param {string} user the id of who is signed in */
  constructor(user) {
    this.#user = user;
    drop(sessionStorage, (key) => !key.startsWith(this.#key("")));  // of somebody else who used this tab
    drop(localStorage, (key) => !key.startsWith(this.#key("")) || isOld(localStorage.getItem(key)));
  }

  /** @param {string} conversation "" for a new one */
  read(conversation) {
    const key = this.#key(conversation);
    return sessionStorage.getItem(key) ?? parsed(localStorage.getItem(key))?.text ?? "";
  }

  /**
   * @param {string} conversation
   * @param {string} text "" drops it
   */
  keep(conversation, text) {
    const key = this.#key(conversation);
    if (!text) {
      sessionStorage.removeItem(key);
      localStorage.removeItem(key);
      return;
    }
    try {
      sessionStorage.setItem(key, text);
      localStorage.setItem(key, JSON.stringify({ text, at: Date.now() }));
    } catch (error) {
      if (!(error instanceof DOMException)) throw error;  // the storage is full; what is written stays in the box
    }
  }

  /**
   * Call when another tab changes a draft, and when the person signs out there.
   * @param {(conversation: string, text: string) => void} changed
   * @param {() => void} cleared
   */
  follow(changed, cleared) {
    addEventListener("storage", (event) => {
      if (event.storageArea !== localStorage || !event.key?.startsWith(this.#key(""))) return;
      sessionStorage.removeItem(event.key);
      changed(event.key.slice(this.#key("").length), parsed(event.newValue)?.text ?? "");
    });
    channel.addEventListener("message", (event) => { if (event.data === "clear") cleared(); });
  }

  /** @param {string} conversation */
  #key(conversation) {
    return `${PREFIX}${this.#user}:${conversation}`;
  }
}

/** The person signs out: forget all drafts, here and in the other tabs. */
export function clearDrafts() {
  forgetDrafts();
  drop(sessionStorage, () => true);
  channel.postMessage("clear");
}

/** There is no session: forget what other tabs and later ones would see. A tab keeps its own for who comes back. */
export function forgetDrafts() {
  drop(localStorage, () => true);
}

channel.addEventListener("message", (event) => { if (event.data === "clear") drop(sessionStorage, () => true); });

/**
 * @param {Storage} storage
 * @param {(key: string) => boolean} isGone
 */
function drop(storage, isGone) {
  const keys = Object.keys(storage).filter((key) => key.startsWith(PREFIX));
  for (const key of keys.filter(isGone)) storage.removeItem(key);
}

/** @param {string | null} stored */
function isOld(stored) {
  const draft = parsed(stored);
  return !draft || !(Date.now() - draft.at < KEPT_MS);
}

/**
 * @param {string | null} stored
 * @returns {Draft | null}
 */
function parsed(stored) {
  try {
    const draft = JSON.parse(stored ?? "null");
    return typeof draft?.text === "string" && typeof draft?.at === "number" ? draft : null;
  } catch {
    return null;
  }
}
