// @ts-check
// The branches of a conversation: editing a question, which begins another branch, and going to one that is not shown.

import { cloned, hooked } from "./dom.js";
import * as net from "./net.js";

/**
 * Puts a form in place of a question's words. The old words come back when the person cancels.
 */
export class QuestionEditor {
  #ask;
  /** The question that is being edited, and its form. @type {{question: HTMLElement, form: HTMLElement} | null} */
  #open = null;

  /** @param {(question: HTMLElement, text: string) => void} ask */
  constructor(ask) {
    this.#ask = ask;
    document.addEventListener("click", (event) => {
      const target = /** @type {Element} */ (event.target);
      const question = target.closest("[data-edit]")?.closest("[data-asked]");
      if (question instanceof HTMLElement) this.edit(question);
      if (target.closest("[data-edit-cancel]")) this.#cancel();
    });
  }

  /** Edit the last question that is shown. */
  editLast() {
    const questions = /** @type {NodeListOf<HTMLElement>} */ (document.querySelectorAll("[data-asked]"));
    const last = questions[questions.length - 1];
    if (last && !last.hidden) this.edit(last);
  }

  /** @param {HTMLElement} question */
  edit(question) {
    this.#cancel();
    const form = cloned("question-form");
    const text = /** @type {HTMLTextAreaElement} */ (hooked("data-question-text", form));
    text.value = sourceOf(question);
    form.addEventListener("submit", (event) => {
      event.preventDefault();
      this.#send(text.value);
    });
    text.addEventListener("keydown", (event) => this.#key(event, text));
    question.hidden = true;
    question.after(form);
    this.#open = { question, form };
    text.style.height = CSS.supports("field-sizing", "content") ? "" : `${text.scrollHeight}px`;
    text.focus();
    text.setSelectionRange(text.value.length, text.value.length);
  }

  /**
   * @param {KeyboardEvent} event
   * @param {HTMLTextAreaElement} text
   */
  #key(event, text) {
    if (event.isComposing || (event.key !== "Enter" && event.key !== "Escape")) return;
    if (event.key === "Enter" && event.shiftKey) return;
    event.preventDefault();
    event.stopPropagation();
    if (event.key === "Enter") this.#send(text.value);
    else this.#cancel();
  }

  /** @param {string} text */
  #send(text) {
    if (!this.#open || !text.trim()) return;
    const { question } = this.#open;
    if (text === sourceOf(question)) {
      this.#cancel();
      return;
    }
    this.#ask(question, text);
  }

  /** Take the form away; the question is shown again unless another one stands in its place. */
  close() {
    this.#open?.form.remove();
    this.#open = null;
  }

  #cancel() {
    const question = this.#open?.question;
    this.close();
    if (!question) return;
    question.hidden = false;
    /** @type {HTMLElement | null} */ (question.querySelector("[data-edit]"))?.focus();
  }
}

/**
 * The text of a question or an answer as it was written.
 * @param {Element} turn
 */
export function sourceOf(turn) {
  const source = turn.querySelector("template[data-source]");
  return source instanceof HTMLTemplateElement ? source.content.textContent ?? "" : "";
}

/**
 * Show the newest branch through a message, at that message.
 * @param {string} conversation
 * @param {string} message
 */
export async function goTo(conversation, message) {
  await net.showBranch(conversation, message);
  const page = `/chat/${conversation}`;
  const isHere = location.pathname === page;
  if (isHere) history.replaceState(null, "", `${page}#message-${message}`);
  if (isHere) location.reload();
  else location.assign(`${page}#message-${message}`);
}

/** Put the reader at the message that the address names; false where it names none that is shown. */
export function showNamed() {
  const named = location.hash.startsWith("#message-") ? document.getElementById(location.hash.slice(1)) : null;
  if (!named) return false;
  named.scrollIntoView({ block: "start" });
  named.focus({ preventScroll: true });
  return true;
}
