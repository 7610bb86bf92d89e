// @ts-check
// What the chat page knows about the turn in progress. Holds and tells; draws nothing, asks nothing.

/** @typedef {import("./types.js").StreamEvent} StreamEvent */
/** @typedef {import("./types.js").Phase} Phase */

/**
 * Emits "phase" when the phase changes, and each StreamEvent as a CustomEvent named by its type, with the event as detail.
 */
export class TurnState extends EventTarget {
  /** @type {Phase} */
  phase = "idle";
  /** When the phase began, ms of performance.now(). */
  since = 0;
  /** How long the model thought, ms; null while it has not finished. @type {number | null} */
  thoughtFor = null;
  /** Whether the server has taken the question in: from then on it is kept there. */
  accepted = false;

  #now;

  /** @param {() => number} [now] */
  constructor(now = () => performance.now()) {
    super();
    this.#now = now;
  }

  get busy() {
    return this.phase !== "idle";
  }

  begin() {
    this.thoughtFor = null;
    this.accepted = false;
    this.#enter("waiting");
  }

  /** @param {StreamEvent} event */
  receive(event) {
    this.accepted = true;
    if (event.type === "started") this.#enter("reading");
    if (event.type === "reasoning" && this.phase !== "thinking") this.#enter("thinking");
    if (event.type === "answer" || event.type === "tool_call") this.#answer();
    this.dispatchEvent(new CustomEvent(event.type, { detail: event }));
  }

  /** The person has had enough; what came is being kept. */
  stop() {
    if (this.busy) this.#enter("stopping");
  }

  /** The stream is over, whatever the reason. */
  finish() {
    this.#enter("idle");
  }

  #answer() {
    if (this.phase === "answering") return;
    if (this.phase === "thinking") this.thoughtFor = this.#now() - this.since;
    this.#enter("answering");
  }

  /** @param {Phase} phase */
  #enter(phase) {
    this.phase = phase;
    this.since = this.#now();
    this.dispatchEvent(new CustomEvent("phase", { detail: phase }));
  }
}
