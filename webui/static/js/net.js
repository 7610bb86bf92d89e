// @ts-check
// All requests to the server. Only this module calls fetch.

import { showMarking } from "./marking.js";
import { StreamParser } from "./stream.js";

/** @typedef {import("./types.js").StreamEvent} StreamEvent */
/** @typedef {import("./types.js").Effort} Effort */
/** @typedef {import("./types.js").AttachedFile} AttachedFile */

/** What went wrong, in words for the person. `status` is the server's, 0 where none answered. */
export class RequestError extends Error {
  /**
   * @param {string} message
   * @param {number} status
   * @param {string} [code] the server's word for what went wrong
   */
  constructor(message, status, code = "") {
    super(message);
    this.status = status;
    this.code = code;
  }

  /** Whether the server may have done what was asked: nobody answered, or somebody between us and the server did. */
  get isUnsure() {
    return this.status === 0 || (this.status >= 500 && this.code === "");
  }

  /** Whether the same request may succeed later. */
  get isPassing() {
    return this.status === 0 || this.status >= 500;
  }
}

/**
 * @param {string} path
 * @param {RequestInit} [init]
 * @returns {Promise<Response>} an answer of status 2xx
 */
async function ask(path, init = {}) {
  const token = document.querySelector('meta[name="csrf-token"]')?.getAttribute("content") ?? "";
  const headers = { Accept: "application/json", "X-CSRF-Token": token, ...init.headers };
  const wait = new AbortController();
  init.signal?.addEventListener("abort", () => wait.abort());
  const limit = setTimeout(() => wait.abort(), ANSWER_LIMIT_MS);
  let response;
  try {
    response = await fetch(path, { ...init, headers, redirect: "error", signal: wait.signal });
  } catch (error) {
    if (init.signal?.aborted) throw error;
    throw new RequestError(UNREACHED, 0);
  } finally {
    clearTimeout(limit);
  }
  if (response.ok) return response;
  throw await refusal(response);
}

/** @param {Response} response */
async function refusal(response) {
  try {
    const { message, code } = (await response.json()).error;
    return new RequestError(String(message), response.status, String(code));
  } catch {
    return new RequestError(`The server answered with an error (${response.status}). Try again in a minute.`, response.status);
  }
}

const ANSWER_LIMIT_MS = 30_000;
/** The server writes at least twice a second into a stream, so a silence of this length means that it is lost. */
const SILENCE_LIMIT_MS = 15_000;
const UNREACHED = "The server cannot be reached. Check the connection and try again.";

/** @param {unknown} value */
const json = (value) => ({ headers: { "Content-Type": "application/json" }, body: JSON.stringify(value) });

/**
 * @param {string} text its first question, which gives it its title
 * @returns {Promise<string>} the new conversation's id
 */
export async function createConversation(text) {
  const body = await (await ask("/chat", { method: "POST", ...json({ text }) })).json();
  return body.id;
}

/**
 * @param {string} conversation "" for a new one
 * @param {{text: string, effort: Effort, files: string[], reads_from?: string, without_instructions?: boolean}} draft
 * @returns {Promise<import("./types.js").Room>}
 */
export async function askRoom(conversation, draft) {
  return (await ask(conversation ? `/chat/${conversation}/room` : "/chat/room", { method: "POST", ...json(draft) })).json();
}

/**
 * Begin a new chat with a summary of this one.
 * @param {string} conversation
 * @param {Effort} effort
 * @returns {Promise<string>} the new conversation's id
 */
export async function beginSummary(conversation, effort) {
  return (await (await ask(`/chat/${conversation}/summary`, { method: "POST", ...json({ effort }) })).json()).id;
}

/**
 * Ask, and hand over each event of the answer as it comes.
 * @param {string} conversation
 * @param {{text?: string, instead_of?: string, regenerate?: boolean, go_on?: boolean, reads_from?: string, last?: string, effort: Effort, files?: string[], sampling?: Record<string, number>, without_instructions?: boolean}} turn
 * @param {(event: StreamEvent) => void} receive
 * @param {AbortSignal} signal
 */
export async function beginTurn(conversation, turn, receive, signal) {
  const response = await ask(`/chat/${conversation}/turns`, { method: "POST", signal, ...json(turn) });
  showMarking(response);
  await readLines(response, receive);
}

/**
 * Read along with a turn that runs, or learn how it ended.
 * @param {string} conversation
 * @param {string} turn
 * @param {number} after the last event that is known
 * @param {(event: StreamEvent) => void} receive
 * @param {AbortSignal} signal
 */
export async function followTurn(conversation, turn, after, receive, signal) {
  await readLines(await ask(`/chat/${conversation}/turns/${turn}?after=${after}`, { signal }), receive);
}

/**
 * @param {string} conversation
 * @param {string} turn
 */
export async function stopTurn(conversation, turn) {
  await ask(`/chat/${conversation}/turns/${turn}`, { method: "DELETE" });
}

/**
 * @param {string} conversation
 * @returns {Promise<{turn: string | null, last: string | null}>} the turn that runs, and the last message before it
 */
export async function turnState(conversation) {
  return (await ask(`/chat/${conversation}/turns`)).json();
}

/**
 * @template T
 * @param {Promise<T>} piece
 * @returns {Promise<T>} rejected where nothing comes for too long
 */
async function withinLimit(piece) {
  /** @type {number | undefined} */
  let limit;
  const silence = new Promise((_, reject) => { limit = setTimeout(() => reject(new Error("silence")), SILENCE_LIMIT_MS); });
  try {
    return /** @type {T} */ (await Promise.race([piece, silence]));
  } finally {
    clearTimeout(limit);
  }
}

/**
 * @param {Response} response
 * @param {(event: StreamEvent) => void} receive
 */
async function readLines(response, receive) {
  const parser = new StreamParser();
  const reader = /** @type {ReadableStream<Uint8Array>} */ (response.body).getReader();
  for (;;) {
    let piece;
    /** @type {StreamEvent[]} */
    let events;
    try {
      piece = await withinLimit(reader.read());
      events = piece.done ? [] : parser.push(piece.value);
    } catch {
      void reader.cancel().catch(() => {});
      throw new RequestError("The connection ended before the answer was complete.", 0);
    }
    if (piece.done) return;
    events.forEach(receive);
  }
}

/**
 * @param {{q: string, view: string, current: string, count?: string, after?: string}} wanted
 * @returns {Promise<{html: string, views: string}>} a page of the list and the choices of views
 */
export async function conversationList(wanted) {
  return (await ask(`/chat/list?${new URLSearchParams(wanted)}`)).json();
}

/**
 * @param {string} conversation
 * @param {{title?: string, pinned?: boolean, archived?: boolean, folder?: string, tags?: string[]}} changes
 */
export async function changeConversation(conversation, changes) {
  await ask(`/chat/${conversation}`, { method: "PATCH", ...json(changes) });
}

/**
 * Show the newest branch through a message.
 * @param {string} conversation
 * @param {string} message
 */
export async function showBranch(conversation, message) {
  await ask(`/chat/${conversation}/branch`, { method: "POST", ...json({ message }) });
}

/**
 * Take in the conversations of a file.
 * @param {Blob} file
 * @returns {Promise<import("./types.js").Imported>}
 */
export async function importConversations(file) {
  const headers = { "Content-Type": "application/json" };
  return (await ask("/chat/import", { method: "POST", headers, body: file })).json();
}

/** @param {string} conversation */
export async function deleteConversation(conversation) {
  await ask(`/chat/${conversation}`, { method: "DELETE" });
}

/**
 * @param {string} conversation
 * @param {string} before a message
 * @returns {Promise<{html: string, earlier: string | null}>} the turns just before it, and what to ask for next
 */
export async function earlierTurns(conversation, before) {
  return (await ask(`/chat/${conversation}/earlier?${new URLSearchParams({ before })}`)).json();
}

/**
 * @param {string} path an event's page
 * @param {AbortSignal} signal
 * @returns {Promise<string>} what stands in its pane, HTML
 */
export async function eventPane(path, signal) {
  return (await (await ask(path, { signal, headers: { "X-Pane": "event" } })).json()).html;
}

/**
 * Have a file read; it then waits for its question.
 * @param {File} file
 * @param {string} marking the id of one; "" for that of the conversation
 * @returns {Promise<AttachedFile>}
 */
export async function attachFile(file, marking) {
  const query = new URLSearchParams({ name: file.name, marking });
  const headers = { "Content-Type": "application/octet-stream" };
  return (await ask(`/chat/files?${query}`, { method: "POST", body: file, headers })).json();
}

/** @returns {Promise<AttachedFile[]>} the files that wait for a question, from every tab */
export async function waitingFiles() {
  return (await (await ask("/chat/files")).json()).files;
}

/** @returns {Promise<import("./types.js").Prompt[]>} the person's own and the site's */
export async function prompts() {
  return (await (await ask("/chat/prompts/list")).json()).prompts;
}

/** @param {string} id */
export async function removeFile(id) {
  await ask(`/chat/files/${id}`, { method: "DELETE" });
}
