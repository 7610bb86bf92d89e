// @ts-check
// What the chat page knows about the turn in progress. It holds state and emits events; it neither draws nor asks.

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
  /** Where the turn stood in the queue, and when. @type {import("./waiting.js").Queued | null} */
  queued = null;
  /** The turn's id once the server has accepted the question, which is then kept there. */
  turn = "";
  /** The number of the last event that this page knows. */
  seen = 0;
  /** Whether the last line has come. */
  ended = false;

  /** When the turn began, ms of performance.now(). */
  #began = 0;
  /** What the turn was doing when the connection was lost. @type {{phase: Phase, since: number}} */
  #held = { phase: "idle", since: 0 };
  #now;

  /** @param {() => number} [now] */
  constructor(now = () => performance.now()) {
    super();
    this.#now = now;
  }

  get busy() {
    return this.phase !== "idle";
  }

  get accepted() {
    return this.turn !== "";
  }

  /** @param {string} [turn] one that runs already */
  begin(turn = "") {
    this.thoughtFor = null;
    this.queued = null;
    this.turn = turn;
    this.seen = 0;
    this.ended = false;
    this.#began = this.#now();
    this.#enter("waiting", this.#began);
  }

  /** @param {StreamEvent} event */
  receive(event) {
    if (event.type === "accepted") this.#accept(event.turn, event.age_s);
    else if (event.type === "end") this.ended = true;
    else this.#follow(event);
    this.dispatchEvent(new CustomEvent(event.type, { detail: event }));
  }

  /** The person stops the turn. The server keeps what has come. */
  stop() {
    if (this.busy) this.#enter("stopping", this.#now());
  }

  /** The connection is lost. The turn goes on at the server. */
  lose() {
    if (this.phase === "stopping" || this.phase === "reconnecting") return;
    this.#held = { phase: this.phase, since: this.since };
    this.#enter("reconnecting", this.#now());
  }

  /** The turn is over for this page, whatever the reason. */
  finish() {
    this.#enter("idle", this.#now());
  }

  /**
   * @param {string} turn
   * @param {number} age_s
   */
  #accept(turn, age_s) {
    this.turn = turn;
    this.#began = this.#now() - age_s * 1000;
    if (this.phase === "reconnecting") this.#enter(this.#held.phase, this.#held.since);
    if (this.phase === "waiting") this.since = this.#began;
  }

  /** @param {Exclude<StreamEvent, {type: "accepted"} | {type: "end"}>} event */
  #follow(event) {
    const at = this.#began + event.at * 1000;
    this.seen = Math.max(this.seen, event.n);
    if (this.phase === "stopping") return;
    if (event.type === "queued") this.queued = { ahead: event.ahead, waitMs: event.wait_s === null ? null : event.wait_s * 1000, at };
    if (event.type === "started") this.#enter("reading", at);
    if (event.type === "reasoning" && this.phase !== "thinking") this.#enter("thinking", at);
    if (event.type === "answer" || event.type === "tool_call") this.#answer(at);
  }

  /** @param {number} at */
  #answer(at) {
    if (this.phase === "answering") return;
    if (this.phase === "thinking") this.thoughtFor = at - this.since;
    this.#enter("answering", at);
  }

  /**
   * @param {Phase} phase
   * @param {number} since
   */
  #enter(phase, since) {
    this.phase = phase;
    this.since = since;
    this.dispatchEvent(new CustomEvent("phase", { detail: phase }));
  }
}
