// @ts-check
// Reads a turn to its end. The turn goes on at the server without this page, so a stream that was left or lost is taken
// up again after the last event that came.
//
// A page that nobody sees leaves its stream: a browser opens six connections to one site, and tabs that read along
// would use them up, so that no other page of the site loads.

import * as net from "./net.js";

/** @typedef {import("./state.js").TurnState} TurnState */
/** @typedef {import("./types.js").Read} Read */

const LONGEST_PAUSE_MS = 15_000;

/**
 * @param {TurnState} state is told of each event
 * @param {string} conversation
 * @param {Read} start the first stream
 */
export async function readToTheEnd(state, conversation, start) {
  let read = start;
  for (let tries = 0; ; ) {
    const { seen } = state;
    const isLeft = await readWhileSeen(state, read);
    if (state.ended) return;
    if (isLeft) {
      await untilSeen();
    } else {
      tries = state.seen > seen ? 0 : tries + 1;
      state.lose();
      await pauseBefore(tries);
    }
    read = (receive, signal) => net.followTurn(conversation, state.turn, state.seen, receive, signal);
  }
}

/**
 * Read one stream until it ends, is lost, or the page is hidden. A question that is not accepted yet is waited for.
 * @param {TurnState} state
 * @param {Read} read
 * @returns {Promise<boolean>} whether the page left it because it is hidden
 */
async function readWhileSeen(state, read) {
  const leave = new AbortController();
  const done = new AbortController();
  const look = () => { if (document.hidden && state.accepted) leave.abort(); };
  document.addEventListener("visibilitychange", look, { signal: done.signal });
  state.addEventListener("accepted", look, { signal: done.signal });
  look();
  try {
    await read((event) => state.receive(event), leave.signal);
  } catch (error) {
    if (leave.signal.aborted) return true;
    if (!state.accepted || !(error instanceof net.RequestError)) throw error;
    if (error.status === 404) location.reload();
    if (!error.isPassing) throw error;
  } finally {
    done.abort();
  }
  return false;
}

/** @returns {Promise<void>} when the page is seen */
function untilSeen() {
  return new Promise((resolve) => {
    const look = () => {
      if (document.hidden) return;
      document.removeEventListener("visibilitychange", look);
      resolve();
    };
    document.addEventListener("visibilitychange", look);
    look();
  });
}

/**
 * After a question of which nobody knows whether the server has it: ask until it says so.
 * @param {string} conversation "" if not even that is known to be made
 * @param {string} last the last message that this page shows
 * @returns {Promise<boolean>} whether the conversation has gone on, with this question
 */
export async function isThere(conversation, last) {
  for (let tries = 1; ; tries += 1) {
    await pauseBefore(tries);
    try {
      if (!conversation) {
        await net.conversationList({ q: "", view: "", current: "", count: "1" });
        return false;
      }
      const now = await net.turnState(conversation);
      return Boolean(now.turn) || (now.last ?? "") !== last;
    } catch (error) {
      if (!(error instanceof net.RequestError)) throw error;
      if (!error.isPassing) throw error;
    }
  }
}

/**
 * Wait, longer after each try in vain, or until the network is back. Many pages that lost one server come back one by one.
 * @param {number} tries
 * @returns {Promise<void>}
 */
function pauseBefore(tries) {
  const longest = Math.min(250 * 2 ** tries, LONGEST_PAUSE_MS);
  return new Promise((resolve) => {
    setTimeout(resolve, longest * (0.5 + Math.random() / 2));
    addEventListener("online", () => resolve(), { once: true });
  });
}
