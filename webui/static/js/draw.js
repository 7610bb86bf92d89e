// @ts-check
// Draws the turn in progress from what TurnState tells. Text enters through textContent, HTML only as the server made it.

import { cloned, fragment, hooked, scrollArea } from "./dom.js";
import { waitingWords } from "./waiting.js";
import { Spoken } from "./spoken.js";

/** @typedef {import("./state.js").TurnState} TurnState */
/** @typedef {import("./types.js").StreamEvent} StreamEvent */

const AT_BOTTOM_PX = 48;

/** The scrolling column: follows new text only while the reader is at the bottom. */
export class Column {
  #below = hooked("data-below");

  constructor() {
    const look = () => { if (this.#atBottom()) this.#below.hidden = true; };
    document.addEventListener("scroll", look, { passive: true, capture: true }); // of whichever element scrolls
    this.#below.addEventListener("click", () => this.toBottom());
  }

  /** Take the focus, so that keys scroll and shortcuts work. */
  focus() {
    scrollArea().focus({ preventScroll: true });
  }

  toBottom() {
    const area = scrollArea();
    area.scrollTop = this.#end() - area.clientHeight;
    this.#below.hidden = true;
  }

  /**
   * Change the column's content and keep the reader where they are reading.
   * @param {() => void} change
   */
  grow(change) {
    const follow = this.#atBottom();
    change();
    if (follow) this.toBottom();
    else if (!this.#atBottom()) this.#below.hidden = false;
  }

  #atBottom() {
    const area = scrollArea();
    return this.#end() - area.scrollTop - area.clientHeight < AT_BOTTOM_PX;
  }

  /** Where the text ends, in pixels from the beginning of what scrolls; the composer may follow. */
  #end() {
    return hooked("data-scroll").scrollHeight;
  }
}

/** The answer that is being written. */
export class LiveAnswer {
  #state;
  #column;
  #element = cloned("answer");
  #status = hooked("data-status", this.#element);
  #reasoning = hooked("data-reasoning", this.#element);
  #label = hooked("data-reasoning-label", this.#element);
  #thoughts = hooked("data-reasoning-text", this.#element);
  #calls = hooked("data-calls", this.#element);
  #prose = hooked("data-prose", this.#element);
  #spoken = new Spoken(hooked("data-announcer"));
  #leave = new AbortController();
  #clock;
  /** The phase that was said last. */
  #announced = "";
  /** The nodes of each block of the answer. @type {Node[][]} */
  #blocks = [];
  /** @type {HTMLElement[]} */
  #callTexts = [];

  /**
   * @param {TurnState} state
   * @param {Column} column
   */
  constructor(state, column) {
    this.#state = state;
    this.#column = column;
    this.#on("phase", () => this.#drawPhase());
    this.#on("queued", () => this.#drawPhase());
    this.#on("reasoning", (event) => this.#drawReasoning(event));
    this.#on("answer", (event) => this.#drawAnswer(event));
    this.#on("tool_call", (event) => this.#drawCall(event));
    this.#on("end", (event) => this.#drawEnd(event));
    this.#clock = setInterval(() => this.#drawPhase(), 1000);
    column.grow(() => hooked("data-turns").append(this.#element));
    this.#drawPhase();
  }

  /** Stop drawing. What came of an unfinished answer stays. */
  leave() {
    this.#leave.abort();
    clearInterval(this.#clock);
    this.#status.hidden = true;
    if (this.#prose.childElementCount === 0 && this.#reasoning.hidden) this.#element.remove();
  }

  /**
   * @param {string} type
   * @param {(event: any) => void} draw
   */
  #on(type, draw) {
    const listener = (/** @type {Event} */ event) => draw(/** @type {CustomEvent} */ (event).detail);
    this.#state.addEventListener(type, listener, { signal: this.#leave.signal });
  }

  #drawPhase() {
    const seconds = Math.floor((performance.now() - this.#state.since) / 1000);
    const after = seconds > 0 ? `, ${seconds} s` : "";
    const { phase, thoughtFor, queued } = this.#state;
    const status = /** @type {Partial<Record<typeof phase, string>>} */ ({
      waiting: "Waiting for the model", reading: "Reading", stopping: "Stopping", reconnecting: "The connection is lost. Reconnecting",
    })[phase];
    this.#status.hidden = !status;
    this.#status.textContent = !status ? "" : phase === "waiting" && queued ? waitingWords(seconds, queued, performance.now()) : `${status}${after}`;
    if (phase === "thinking") this.#label.textContent = `Thinking${after}`;
    else if (thoughtFor !== null) this.#label.textContent = `Thought for ${Math.max(1, Math.round(thoughtFor / 1000))} s`;
    const words = { thinking: "The model is thinking.", answering: "The model is answering.", stopping: "Stopping.", reconnecting: "The connection is lost." };
    if (phase in words && phase !== this.#announced) this.#spoken.say(words[/** @type {keyof typeof words} */ (phase)]);
  }

  /** @param {{text: string}} event */
  #drawReasoning(event) {
    this.#column.grow(() => {
      this.#reasoning.hidden = false;
      const follow = this.#thoughts.scrollHeight - this.#thoughts.scrollTop - this.#thoughts.clientHeight < AT_BOTTOM_PX;
      this.#thoughts.append(event.text);
      if (follow) this.#thoughts.scrollTop = this.#thoughts.scrollHeight;
    });
  }

  /** @param {{keep: number, blocks: string[]}} event */
  #drawAnswer(event) {
    this.#column.grow(() => {
      for (const nodes of this.#blocks.splice(event.keep)) for (const node of nodes) node.parentNode?.removeChild(node);
      for (const html of event.blocks) {
        const nodes = [...fragment(html).childNodes];
        this.#blocks.push(nodes);
        this.#prose.append(...nodes);
      }
    });
    this.#spoken.hear([...this.#prose.children].map((block) => block.textContent).join("\n"));
  }

  /** @param {{index: number, name: string | null, arguments: string}} event */
  #drawCall(event) {
    this.#column.grow(() => {
      if (!this.#callTexts[event.index]) {
        const card = cloned("call");
        this.#callTexts[event.index] = hooked("data-call-arguments", card);
        hooked("data-call-name", card).textContent = event.name ?? "";
        this.#calls.append(card);
      }
      this.#callTexts[event.index]?.append(event.arguments);
    });
  }

  /** @param {{html: string, complete: boolean}} event */
  #drawEnd(event) {
    clearInterval(this.#clock);
    this.#spoken.say(event.complete ? "The answer is complete." : "The answer ended early.");
    this.#replace(event.html);
  }

  /** @param {string} html */
  #replace(html) {
    const opened = this.#reasoning.hasAttribute("open");
    const finished = fragment(html);
    if (opened) finished.querySelector("[data-reasoning]")?.setAttribute("open", "");
    this.#column.grow(() => this.#element.replaceWith(finished));
  }
}

/**
 * The person's words, as a turn begins.
 * @param {string} text
 */
export function drawWords(text) {
  const element = cloned("words");
  element.textContent = text;
  hooked("data-turns").append(element);
  return element;
}
