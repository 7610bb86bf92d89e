// @ts-check
// The chat page: connects the state of the turn, its drawing, the composer and the list.

import { Attachments } from "./attachments.js";
import { QuestionEditor, goTo, showNamed, sourceOf } from "./branches.js";
import { decorate } from "./code_blocks.js";
import { Composer } from "./composer.js";
import { ConversationList } from "./conversations.js";
import { fragment, hooked, isTyping } from "./dom.js";
import { Column, LiveAnswer, drawWords } from "./draw.js";
import { Importing } from "./exchange.js";
import { copied } from "./frame.js";
import { offerMarking } from "./marking.js";
import * as net from "./net.js";
import { PromptMenu } from "./prompts.js";
import { isThere, readToTheEnd } from "./reading.js";
import { Room } from "./room.js";
import { Settings } from "./settings.js";
import { toggleSource } from "./source.js";
import { TurnState } from "./state.js";

/** What to say after a reload. */
const NOTICE_KEY = "notice";

const page = hooked("data-chat");
const state = new TurnState();
const column = new Column();
const tabs = new BroadcastChannel("chat");
let conversation = page.dataset.chat ?? "";
/** How many turns this page has drawn. */
let turns = 0;
/** How often somebody has tried to send. */
let attempts = 0;

const composer = new Composer(page.dataset.person ?? "", conversation, { send: () => void send(), stop });
const attachments = new Attachments({ fail: (message) => composer.showError(message), changed: () => void room.refresh() });
const editor = new QuestionEditor((question, text) => void askInstead(question, text));
const settings = new Settings(() => void room.refresh());
const room = new Room(composer, () => conversation, { isBusy: () => state.busy, files: () => attachments.ids, counted: () => settings.counted, sumUp: () => void sumUp() });
const prompts = new PromptMenu((text) => { composer.text = text; });
const list = new ConversationList(() => conversation, (message) => composer.showError(message));

new Importing(() => void list.refresh());

state.addEventListener("phase", () => composer.showBusy(state.busy));
state.addEventListener("accepted", () => {
  tabs.postMessage(conversation);
  if ("reads_from" in room.choice) location.reload();  // the server draws from where the model reads now
  room.forget();
  if (state.phase === "stopping") stop();
});
state.addEventListener("end", (event) => {
  const { title, question } = /** @type {CustomEvent} */ (event).detail;
  const words = document.querySelectorAll("[data-turns] > [data-words]");
  if (question) words[words.length - 1]?.replaceWith(fragment(question));
  hooked("data-title").textContent = title;
  document.title = document.title.replace(/^.*? · /, () => `${title} · `);
});

async function send() {
  const text = composer.text;
  if (state.busy || attachments.holdsBack || room.refuses(text)) return;
  attempts += 1;
  const effort = composer.effort;
  const files = attachments.take();
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
      offerMarking();
    }
    composer.text = "";
    hooked("data-welcome").hidden = true;
    words = drawWords(text);
    attachments.drawBeside(words, files);
    column.toBottom();
    await run((...reading) => net.beginTurn(conversation, { text, effort, files: files.map((file) => file.id), last: page.dataset.last ?? "", ...settings.choices, ...room.choice }, ...reading));
  } catch (error) {
    state.finish();
    if (!state.accepted) {
      words?.remove();
      composer.text = text;
      attachments.giveBack(files);
    }
    if (!state.accepted && error instanceof net.RequestError && error.isUnsure) void settle(error);
    else fail(error);
  }
}

/**
 * The question is back in the composer, and the server may have it all the same. Say which, as soon as it answers.
 * @param {import("./net.js").RequestError} error
 */
async function settle(error) {
  const own = attempts;
  const question = composer.text;
  composer.showError(`${error.status ? "The server does not answer." : "The server cannot be reached."} Your text is back in the box. This page goes on trying and says when the server answers.`);
  try {
    const isSent = await isThere(conversation, page.dataset.last ?? "");
    if (own !== attempts) return;
    if (!isSent) return composer.showError("The server answers again. It did not get your question, which is still in the box.");
    if (composer.text === question) composer.text = "";
    location.reload();
  } catch (later) {
    fail(later);
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
    await run((...reading) => net.beginTurn(conversation, { regenerate: true, effort, last: page.dataset.last ?? "", ...settings.choices, ...room.choice }, ...reading));
    last?.remove();
  } catch (error) {
    if (last instanceof HTMLElement && !state.accepted) last.hidden = false;
    fail(error);
  }
}

/** Have the model continue its last answer, which was cut off. */
async function goOn() {
  const last = document.querySelector("[data-turns] > [data-answer]:last-child");
  if (state.busy || !(last instanceof HTMLElement) || !last.querySelector("[data-go-on]")) return;
  const effort = composer.effort;
  state.begin();
  composer.showError("");
  const actions = hooked("data-actions", last);
  actions.hidden = true;
  // The old text stays until the first new words come; they come with it.
  const leave = new AbortController();
  state.addEventListener("answer", () => { last.hidden = true; }, { once: true, signal: leave.signal });
  try {
    await run((...reading) => net.beginTurn(conversation, { go_on: true, effort, last: page.dataset.last ?? "", ...settings.choices }, ...reading));
    last.remove();
  } catch (error) {
    state.finish();
    if (!state.accepted) actions.hidden = false;
    fail(error);
  } finally {
    leave.abort();
  }
}

/**
 * Ask a question anew, in place of an earlier one and all that followed it on this page.
 * @param {HTMLElement} question
 * @param {string} text
 */
async function askInstead(question, text) {
  if (state.busy) return;
  const effort = composer.effort;
  const turns = /** @type {HTMLElement[]} */ ([...hooked("data-turns").children]);
  const replaced = turns.slice(turns.indexOf(question)).filter((one) => !one.hidden && !one.matches("[data-question-form]"));
  state.begin();
  composer.showError("");
  for (const one of replaced) one.hidden = true;
  const words = drawWords(text);
  document.querySelector("[data-question-form]")?.setAttribute("hidden", "");
  try {
    await run((...reading) => net.beginTurn(conversation, { text, effort, instead_of: question.dataset.asked ?? "", last: page.dataset.last ?? "", ...settings.choices }, ...reading));
    editor.close();
    for (const one of [question, ...replaced]) one.remove();
  } catch (error) {
    state.finish();
    if (!state.accepted) {
      words.remove();
      for (const one of replaced) one.hidden = false;
      document.querySelector("[data-question-form]")?.removeAttribute("hidden");
    }
    fail(error);
  }
}

/** Go on in a new chat, whose first answer sums up this one. */
async function sumUp() {
  try {
    const id = await net.beginSummary(conversation, composer.effort);
    composer.takeAlong(id);
    location.assign(`/chat/${id}`);
  } catch (error) {
    fail(error);
  }
}

/**
 * Draw the turn that was running when the page was loaded.
 * @param {string} turn
 */
async function resume(turn) {
  state.begin(turn);
  try {
    await run((...reading) => net.followTurn(conversation, turn, 0, ...reading));
  } catch (error) {
    fail(error);
  }
}

/**
 * Draw one turn to its end.
 * @param {import("./types.js").Read} start
 */
async function run(start) {
  turns += 1;
  const answer = new LiveAnswer(state, column);
  try {
    await readToTheEnd(state, conversation, start);
  } finally {
    answer.leave();
    const answers = /** @type {NodeListOf<HTMLElement>} */ (document.querySelectorAll("[data-turns] > [data-answer]"));
    page.dataset.last = answers[answers.length - 1]?.dataset.answer || page.dataset.last;
    state.finish();
    decorate();
    if (state.accepted) void list.refresh();
    void room.refresh();
  }
}

/** Show what another tab or machine has changed in this conversation. */
async function catchUp() {
  if (state.busy || !conversation) return;
  const before = turns;
  try {
    const { turn, last } = await net.turnState(conversation);
    if (!state.busy && turns === before && (turn || last !== (page.dataset.last || null))) location.reload();
  } catch (error) {
    if (!(error instanceof net.RequestError)) throw error;  // the next question will tell the person
  }
}

/** @param {string} message one on the branch */
async function showBranch(message) {
  try {
    await goTo(conversation, message);
  } catch (error) {
    fail(error);
  }
}

function stop() {
  state.stop();
  if (state.accepted) net.stopTurn(conversation, state.turn).catch(fail);
}

/** @param {unknown} error */
function fail(error) {
  if (!(error instanceof net.RequestError)) throw error;
  if (error.code === "gone_on") {
    sessionStorage.setItem(NOTICE_KEY, error.message);
    location.reload();
  } else if (error.code === "too_long") {
    void room.refresh().then(() => { if (!room.isShort) composer.showError(error.message); });
  } else {
    composer.showError(error.message);
  }
}

document.addEventListener("click", (event) => {
  const target = /** @type {Element} */ (event.target);
  const example = target.closest("[data-example]");
  const code = target.closest("[data-copy-code]");
  const copy = target.closest("[data-copy-answer], [data-copy-question]");
  const branch = target.closest("[data-branch]");
  if (example instanceof HTMLElement && !state.busy) {
    composer.text = example.dataset.example ?? "";
    void send();
  }
  if (branch instanceof HTMLElement && !state.busy) void showBranch(branch.dataset.branch ?? "");
  if (target.closest("[data-regenerate]")) void regenerate();
  if (target.closest("[data-go-on]")) void goOn();
  if (code instanceof HTMLElement) void copied(code, code.closest(".code-block")?.querySelector("code")?.textContent ?? "");
  const turn = copy?.closest("[data-answer], [data-asked]");
  if (copy instanceof HTMLElement && turn) void copied(copy, sourceOf(turn));
});

document.addEventListener("keydown", (event) => {
  if (event.key === "Escape" && !event.isComposing && !document.querySelector("dialog[open], details[data-menu][open], .chat-list-open")) {
    if (state.busy && state.phase !== "stopping") stop();
    else if (composer.hasFocus) column.focus();
  }
  if (isTyping(event)) return;
  const last = /** @type {HTMLElement | null} */ (document.querySelector("[data-answer]:last-child [data-copy-answer]"));
  /** @type {Record<string, () => void>} */
  const keys = {
    "/": () => list.focusSearch(),
    n: () => location.assign("/chat"),
    c: () => composer.focus(),
    y: () => last?.click(),
    s: () => toggleSource(),
    r: () => void regenerate(),
    m: () => list.fileCurrent(),
    g: () => void goOn(),
    p: () => void prompts.open(),
    e: () => { if (!state.busy) editor.editLast(); },
  };
  const action = keys[event.key];
  if (!action) return;
  event.preventDefault();
  action();
});

tabs.addEventListener("message", (event) => { if (event.data === conversation) void catchUp(); });
document.addEventListener("visibilitychange", () => { if (!document.hidden) void catchUp(); });
addEventListener("focus", () => void catchUp());

decorate();
composer.showError(sessionStorage.getItem(NOTICE_KEY) ?? "");
sessionStorage.removeItem(NOTICE_KEY);
if (conversation && !showNamed()) column.toBottom();
if (page.dataset.turn) void resume(page.dataset.turn);
else void room.refresh();
if (!matchMedia("(pointer: coarse)").matches) composer.focus();
