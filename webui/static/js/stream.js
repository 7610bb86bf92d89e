// @ts-check
// Turns the bytes of a stream into events, one JSON object a line. Pure; keeps half a line until the rest comes.

/** @typedef {import("./types.js").StreamEvent} StreamEvent */

export class StreamParser {
  #decoder = new TextDecoder("utf-8", { fatal: true });
  #rest = "";

  /**
   * The events that `bytes` complete, in order.
   * @param {Uint8Array} bytes
   * @returns {StreamEvent[]}
   * @throws {SyntaxError | TypeError} the stream is not what the server writes
   */
  push(bytes) {
    return this.#lines(this.#decoder.decode(bytes, { stream: true }));
  }

  /**
   * The stream has ended.
   * @returns {boolean} whether it ended at the end of a line, as a whole stream does
   */
  finish() {
    this.#rest += this.#decoder.decode();
    return this.#rest === "";
  }

  /** @param {string} text */
  #lines(text) {
    const lines = (this.#rest + text).split("\n");
    this.#rest = lines.pop() ?? "";
    return lines.filter((line) => line !== "").map((line) => /** @type {StreamEvent} */ (JSON.parse(line)));
  }
}
