// @ts-check
// Reads a turn to its end. The turn goes on at the server without this page, so a stream that was left or lost is taken
// up again after the last event that came.
//
// A page that nobody sees leaves its stream: a browser opens six connections to one site, and tabs that read along
// would use them up, so that no other page of the site loads.

import * as net from "./net.js";

/** @typedef {import("./state.js").TurnState} TurnState */
/** @typedef {import("./types.js").Read} Read */

const MOST_RECONNECTS = 60;

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
      if (tries > MOST_RECONNECTS) throw new net.RequestError("The connection is lost. The answer goes on without this page; reload to see it.", 0);
      state.lose();
      await pause(Math.min(250 * 2 ** tries, 10_000));
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
 * Wait, or stop waiting as soon as the network is back.
 * @param {number} ms
 */
function pause(ms) {
  return new Promise((resolve) => {
    setTimeout(resolve, ms);
    addEventListener("online", resolve, { once: true });
  });
}
