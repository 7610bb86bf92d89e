// @ts-check
// The chat page: joins the state of the turn, its drawing, the composer and the list.

import { Composer } from "./composer.js";
import { ConversationList } from "./conversations.js";
import { fragment, hooked, isTyping } from "./dom.js";
import { Column, LiveAnswer, drawWords } from "./draw.js";
import { copied } from "./frame.js";
import * as net from "./net.js";
import { TurnState } from "./state.js";

const page = hooked("data-chat");
const state = new TurnState();
const column = new Column();
let conversation = page.dataset.chat ?? "";
/** @type {AbortController | null} */
let running = null;

const composer = new Composer(conversation, { send: () => void send(), stop });
const list = new ConversationList(() => conversation, (message) => composer.showError(message));

state.addEventListener("phase", () => composer.showBusy(state.busy));
state.addEventListener("end", (event) => {
  const { title } = /** @type {CustomEvent} */ (event).detail;
  document.title = document.title.replace(/^.*? · /, () => `${title} · `);
});

async function send() {
  if (state.busy) return;
  const text = composer.text;
  const effort = composer.effort;
  /** @type {HTMLElement | null} */
  let words = null;
  state.begin();
  composer.showError("");
  try {
    if (!conversation) {
      const id = await net.createConversation(text);
      composer.moveTo(id);
      conversation = id;
      history.replaceState(null, "", `/chat/${conversation}`);
    }
    composer.text = "";
    hooked("data-welcome").hidden = true;
    words = drawWords(text);
    column.toBottom();
    await run({ text, effort });
  } catch (error) {
    state.finish();
    if (!state.accepted) {
      words?.remove();
      composer.text = text;
    }
    fail(error);
  }
}

async function regenerate() {
  if (state.busy || !conversation) return;
  const last = document.querySelector("[data-turns] > [data-answer]:last-child");
  const effort = composer.effort;
  state.begin();
  composer.showError("");
  if (last instanceof HTMLElement) last.hidden = true;
  try {
    await run({ regenerate: true, effort });
    last?.remove();
  } catch (error) {
    if (last instanceof HTMLElement && !state.accepted) last.hidden = false;
    fail(error);
  }
}

/**
 * Stream one turn into the page.
 * @param {Parameters<typeof net.streamTurn>[1]} turn
 */
async function run(turn) {
  const answers = /** @type {NodeListOf<HTMLElement>} */ (document.querySelectorAll("[data-turns] > [data-answer]"));
  const known = answers[answers.length - 1]?.dataset.answer ?? "";
  const answer = new LiveAnswer(state, column);
  const mine = new AbortController();
  running = mine;
  let kept = "";
  try {
    await net.streamTurn(conversation, turn, mine.signal, (event) => state.receive(event));
  } catch (error) {
    if (!mine.signal.aborted) throw error;
    kept = await stopped(known);
  } finally {
    running = null;
    answer.leave(kept);
    state.finish();
    decorate();
    void list.refresh();
  }
}

/**
 * What the server keeps of an answer that was stopped: it is written a moment after the connection closes.
 * @param {string} known the id of the answer before
 */
async function stopped(known) {
  for (let attempt = 0; attempt < 60; attempt += 1) {
    const html = await net.lastAnswer(conversation, known);
    if (html) return html;
    await new Promise((resolve) => { setTimeout(resolve, 150); });
  }
  throw new net.RequestError("You stopped the answer, and the server has not confirmed it yet. Reload to see what was kept.");
}

/** @param {string} message the last message of the branch */
async function showBranch(message) {
  try {
    await net.showBranch(conversation, message);
    location.reload();
  } catch (error) {
    fail(error);
  }
}

function stop() {
  state.stop();
  running?.abort();
}

/** @param {unknown} error */
function fail(error) {
  if (!(error instanceof net.RequestError)) throw error;
  composer.showError(error.message);
}

/** Give every block of code its copy button. */
function decorate() {
  for (const block of document.querySelectorAll(".prose .code-block")) {
    if (!block.querySelector("[data-copy-code]")) block.append(fragment(/** @type {HTMLTemplateElement} */ (hooked("data-code-copy")).innerHTML));
  }
}

document.addEventListener("click", (event) => {
  const target = /** @type {Element} */ (event.target);
  const example = target.closest("[data-example]");
  const code = target.closest("[data-copy-code]");
  const copy = target.closest("[data-copy-answer]");
  const branch = target.closest("[data-branch]");
  if (example instanceof HTMLElement && !state.busy) {
    composer.text = example.dataset.example ?? "";
    void send();
  }
  if (branch instanceof HTMLElement && !state.busy) void showBranch(branch.dataset.branch ?? "");
  if (target.closest("[data-regenerate]")) void regenerate();
  if (code instanceof HTMLElement) void copied(code, code.closest(".code-block")?.querySelector("code")?.textContent ?? "");
  if (copy instanceof HTMLElement) {
    const source = copy.closest("[data-answer]")?.querySelector("template[data-source]");
    if (source instanceof HTMLTemplateElement) void copied(copy, source.content.textContent ?? "");
  }
});

document.addEventListener("keydown", (event) => {
  if (event.key === "Escape" && state.busy && !document.querySelector("dialog[open], details[data-menu][open], .chat-list-open")) stop();
  if (isTyping(event)) return;
  const last = /** @type {HTMLElement | null} */ (document.querySelector("[data-answer]:last-child [data-copy-answer]"));
  /** @type {Record<string, () => void>} */
  const keys = {
    "/": () => list.focusSearch(),
    n: () => location.assign("/chat"),
    c: () => composer.focus(),
    y: () => last?.click(),
    r: () => void regenerate(),
  };
  const action = keys[event.key];
  if (!action) return;
  event.preventDefault();
  action();
});

decorate();
if (conversation) column.toBottom();
if (!matchMedia("(pointer: coarse)").matches) composer.focus();
