// @ts-check
// What a screen reader hears of an answer that is being written: whole sentences, a few seconds apart, each once. Pure but
// for the element that it writes to.

const PAUSE_MS = 4000; // a reader of the screen that is interrupted oftener finishes nothing
const MOST_CHARS = 500; // of one announcement; a long answer is read on the page
const SENTENCE_END = /[.!?…:]["'”’)\]]*(?=\s)|[。！？]|\n/gu;

export class Spoken {
  #element;
  #now;
  #said = 0;
  #last = -Infinity;

  /**
   * @param {{textContent: string | null}} element a live region
   * @param {() => number} [now] ms
   */
  constructor(element, now = () => performance.now()) {
    this.#element = element;
    this.#now = now;
  }

  /**
   * The answer so far. Says the sentences that are complete and were not said.
   * @param {string} text
   */
  hear(text) {
    if (this.#now() - this.#last < PAUSE_MS) return;
    const end = sentencesEnd(text, this.#said);
    const words = text.slice(this.#said, end).trim();
    this.#said = Math.max(end, this.#said);
    if (!words) return;
    this.#last = this.#now();
    this.#element.textContent = words.length > MOST_CHARS ? `${words.slice(0, MOST_CHARS)}…` : words;
  }

  /**
   * Say what the turn is doing, at once.
   * @param {string} words
   */
  say(words) {
    if (this.#element.textContent !== words) this.#element.textContent = words;
  }
}

/**
 * Where the last complete sentence after `from` ends; `from` if there is none.
 * @param {string} text
 * @param {number} from
 */
export function sentencesEnd(text, from) {
  let end = from;
  for (const found of text.slice(from).matchAll(SENTENCE_END)) end = from + found.index + found[0].length;
  return end;
}
