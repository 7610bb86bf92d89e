// @ts-check
// The room that is left in the conversation: a line beside the composer, and ways on where a question does not fit. The
// server counts; this asks it when the writer pauses.

import { hooked } from "./dom.js";
import * as net from "./net.js";

/** @typedef {import("./composer.js").Composer} Composer */
/** @typedef {import("./types.js").Room} RoomAnswer */

const PAUSE_MS = 500;

export class Room {
  #composer;
  #conversation;
  #isBusy;
  #files;
  #counted;
  #line = hooked("data-room");
  #note = hooked("data-room-note");
  #leaveOut = hooked("data-room-leave-out");
  #delay = 0;
  #asked = 0;
  /** @type {RoomAnswer | null} */
  #known = null;
  #knownText = "";
  /** From which message the model reads the next question; null: as before. @type {string | null} */
  #readsFrom = null;

  /**
   * @param {Composer} composer
   * @param {() => string} conversation the id of the open one, "" for a new one
   * @param {{isBusy: () => boolean, files: () => string[], counted: () => object, sumUp: () => void}} on
   */
  constructor(composer, conversation, on) {
    this.#composer = composer;
    this.#conversation = conversation;
    this.#isBusy = on.isBusy;
    this.#files = on.files;
    this.#counted = on.counted;
    composer.addEventListener("written", () => this.#soon());
    hooked("data-room-summary").addEventListener("click", on.sumUp);
    this.#leaveOut.addEventListener("click", () => {
      this.#readsFrom = this.#known?.leave_out?.reads_from ?? null;
      composer.focus();
      void this.refresh();
    });
  }

  /** What the next question asks the server to leave out. @returns {{reads_from?: string}} */
  get choice() {
    return this.#readsFrom === null ? {} : { reads_from: this.#readsFrom };
  }

  /** Whether the page says that something does not fit. */
  get isShort() {
    return !this.#note.hidden;
  }

  /**
   * Whether the server has said of this very text that it does not fit.
   * @param {string} text
   */
  refuses(text) {
    return this.isShort && this.#knownText === text;
  }

  /** Forget the choice: it was sent, or belongs to another conversation. */
  forget() {
    this.#readsFrom = null;
    this.#note.hidden = true;
  }

  /** Count now. */
  async refresh() {
    clearTimeout(this.#delay);
    const number = ++this.#asked;
    const { text, effort } = this.#composer;
    const files = this.#files();
    if (this.#isBusy() || (!text.trim() && !files.length && !this.#conversation())) return this.#draw(null);
    try {
      const room = await net.askRoom(this.#conversation(), { text, effort, files, ...this.#counted(), ...this.choice });
      if (number === this.#asked && !this.#isBusy()) this.#draw(room, text);
    } catch (error) {
      if (!(error instanceof net.RequestError)) throw error;
      if (number === this.#asked) this.#draw(null);  // the server itself refuses what does not fit
    }
  }

  #soon() {
    clearTimeout(this.#delay);
    this.#delay = setTimeout(() => void this.refresh(), PAUSE_MS);
  }

  /**
   * @param {RoomAnswer | null} room
   * @param {string} [text] whose room it is
   */
  #draw(room, text = "") {
    this.#known = room;
    this.#knownText = text;
    const line = room?.line ?? "";
    if (this.#line.textContent !== line) this.#line.textContent = line;
    this.#line.classList.toggle("composer-room-tight", room?.tight ?? false);
    const problem = room?.problem ?? "";
    const words = hooked("data-room-problem");
    if (words.textContent !== problem) words.textContent = problem;
    this.#note.hidden = !problem;
    hooked("data-room-ways").hidden = !room?.sums_up;
    this.#leaveOut.hidden = !room?.leave_out;
    if (room?.leave_out) this.#leaveOut.textContent = room.leave_out.words;
  }
}
