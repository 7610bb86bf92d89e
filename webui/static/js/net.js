// @ts-check
// Everything that asks the server: the only module that calls fetch.

import { StreamParser } from "./stream.js";

/** @typedef {import("./types.js").StreamEvent} StreamEvent */
/** @typedef {import("./types.js").Effort} Effort */

/** What went wrong, in words for the person. */
export class RequestError extends Error {}

/**
 * @param {string} path
 * @param {RequestInit} [init]
 * @returns {Promise<Response>} an answer of status 2xx
 */
async function ask(path, init = {}) {
  const token = document.querySelector('meta[name="csrf-token"]')?.getAttribute("content") ?? "";
  const headers = { Accept: "application/json", "X-CSRF-Token": token, ...init.headers };
  let response;
  try {
    response = await fetch(path, { ...init, headers, redirect: "error" });
  } catch (error) {
    if (error instanceof DOMException && error.name === "AbortError") throw error;
    throw new RequestError("The server cannot be reached. Your text is kept here; check the connection and send it again.");
  }
  if (response.ok) return response;
  throw new RequestError(await reason(response));
}

/** @param {Response} response */
async function reason(response) {
  try {
    const body = await response.json();
    return String(body.error.message);
  } catch {
    return `The server answered with an error (${response.status}). Nothing was changed; try again.`;
  }
}

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
 * Ask, and hand over each event of the answer as it comes. Aborting `signal` closes the connection, which stops the model.
 * @param {string} conversation
 * @param {{text?: string, regenerate?: boolean, effort: Effort}} turn
 * @param {AbortSignal} signal
 * @param {(event: StreamEvent) => void} receive
 */
export async function streamTurn(conversation, turn, signal, receive) {
  const response = await ask(`/chat/${conversation}/turns`, { method: "POST", signal, ...json(turn) });
  const parser = new StreamParser();
  const reader = /** @type {ReadableStream<Uint8Array>} */ (response.body).getReader();
  const lost = "The connection ended before the answer was complete. What came is kept; reload to see it.";
  for (;;) {
    let piece;
    /** @type {StreamEvent[]} */
    let events;
    try {
      piece = await reader.read();
      events = piece.done ? [] : parser.push(piece.value);
    } catch (error) {
      if (signal.aborted) throw error;
      throw new RequestError(lost);
    }
    if (piece.done) break;
    events.forEach(receive);
  }
  if (!parser.finish()) throw new RequestError(lost);
}

/**
 * @param {string} conversation
 * @param {string} after the id of the answer that is already known, "" for none
 * @returns {Promise<string>} the last answer as the server keeps it, HTML; empty while there is no newer one
 */
export async function lastAnswer(conversation, after) {
  const query = new URLSearchParams({ after });
  const body = await (await ask(`/chat/${conversation}/last-answer?${query}`)).json();
  return body.html;
}

/**
 * @param {string} search
 * @param {string} current the conversation that is open
 * @returns {Promise<string>} the list, HTML
 */
export async function conversationList(search, current) {
  const query = new URLSearchParams({ q: search, current });
  return (await (await ask(`/chat/list?${query}`)).json()).html;
}

/**
 * @param {string} conversation
 * @param {{title?: string, pinned?: boolean}} changes
 */
export async function changeConversation(conversation, changes) {
  await ask(`/chat/${conversation}`, { method: "PATCH", ...json(changes) });
}

/**
 * Show another answer to the same question, and what followed it.
 * @param {string} conversation
 * @param {string} message
 */
export async function showBranch(conversation, message) {
  await ask(`/chat/${conversation}/branch`, { method: "POST", ...json({ message }) });
}

/** @param {string} conversation */
export async function deleteConversation(conversation) {
  await ask(`/chat/${conversation}`, { method: "DELETE" });
}

/**
 * @param {string} path an event's page
 * @param {AbortSignal} signal
 * @returns {Promise<string>} what stands in its pane, HTML
 */
export async function eventPane(path, signal) {
  return (await (await ask(path, { signal, headers: { "X-Pane": "event" } })).json()).html;
}
