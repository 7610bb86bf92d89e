// @ts-check
// The turn's state: its phases, how long the model thought, and where a page continues to read.
import assert from "node:assert/strict";
import test from "node:test";

import { TurnState } from "../../../webui/static/js/state.js";

function watched() {
  let now = 100_000;
  const state = new TurnState(() => now);
  /** @type {string[]} */
  const phases = [];
  state.addEventListener("phase", (event) => phases.push(/** @type {CustomEvent} */ (event).detail));
  return { state, phases, wait: (/** @type {number} */ ms) => { now += ms; } };
}

/** @param {number} [age_s] */
const accepted = (age_s = 0) => /** @type {const} */ ({ type: "accepted", turn: "t1", age_s });

/**
 * @param {number} n
 * @param {number} at
 */
const thought = (n, at) => /** @type {const} */ ({ type: "reasoning", text: "a", n, at });

/**
 * @param {number} n
 * @param {number} at
 */
const answered = (n, at) => /** @type {const} */ ({ type: "answer", keep: 0, blocks: [], n, at });

test("a turn goes through waiting, reading, thinking, answering and back", () => {
  const { state, phases, wait } = watched();
  state.begin();
  state.receive(accepted());
  state.receive({ type: "started", queued_s: 0, n: 1, at: 0 });
  state.receive(thought(2, 0));
  wait(12_000);
  state.receive(thought(3, 4));
  state.receive(answered(4, 12));
  state.receive(answered(5, 12));
  assert.equal(state.ended, false);
  state.receive({ type: "end", html: "", title: "", complete: true });
  assert.equal(state.ended, true);
  state.finish();
  assert.deepEqual(phases, ["waiting", "reading", "thinking", "answering", "idle"]);
  assert.equal(state.thoughtFor, 12_000);
  assert.equal(state.busy, false);
});

test("a page that comes later counts from when things happened, and not from its own beginning", () => {
  const { state } = watched();
  state.begin("t1");
  state.receive(accepted(60));
  assert.equal(state.since, 40_000);
  state.receive({ type: "started", queued_s: 5, n: 1, at: 5 });
  state.receive(thought(9, 10));
  assert.equal(state.since, 50_000);
  state.receive(answered(20, 35));
  assert.equal(state.thoughtFor, 25_000);
});

test("a lost connection reads on after the last event, and shows what goes on", () => {
  const { state, phases } = watched();
  state.begin();
  state.receive(accepted());
  state.receive(thought(2, 0));
  state.receive(answered(7, 1));
  state.lose();
  assert.deepEqual([state.turn, state.seen, state.busy, state.ended], ["t1", 7, true, false]);
  state.receive(accepted(3));
  state.receive(answered(7, 1));
  assert.deepEqual(phases, ["waiting", "thinking", "answering", "reconnecting", "answering"]);
});

test("a connection that is back shows what the turn was doing, also while nothing new comes", () => {
  const { state, phases, wait } = watched();
  state.begin();
  state.receive(accepted());
  state.receive(thought(2, 1));
  wait(5_000);
  state.lose();
  wait(2_000);
  state.lose();
  assert.equal(state.since, 105_000);
  state.receive(accepted(7));
  assert.deepEqual([state.phase, state.since], ["thinking", 101_000]);
  state.receive(answered(3, 21));
  assert.equal(state.thoughtFor, 20_000);
  assert.deepEqual(phases, ["waiting", "thinking", "reconnecting", "thinking", "answering"]);
});

test("a turn that is stopped is stopping until the stream is over, whatever still comes", () => {
  const { state, phases } = watched();
  state.stop();
  state.begin();
  state.receive(accepted());
  state.stop();
  state.receive(thought(2, 1));
  state.lose();
  state.receive(answered(3, 2));
  assert.equal(state.busy, true);
  assert.equal(state.seen, 3);
  state.finish();
  assert.deepEqual(phases, ["waiting", "stopping", "idle"]);
});

test("an answer without reasoning has no time of thought", () => {
  const { state } = watched();
  state.begin();
  state.receive(accepted());
  state.receive(answered(1, 3));
  assert.equal(state.thoughtFor, null);
});

test("the question counts as taken in with the server's first word, and not before", () => {
  const { state } = watched();
  state.begin();
  assert.equal(state.accepted, false);
  state.receive(accepted());
  assert.equal(state.accepted, true);
  state.finish();
  state.begin();
  assert.equal(state.accepted, false);
  assert.equal(state.seen, 0);
});

test("each event of the stream is told under its own name", () => {
  const { state } = watched();
  /** @type {unknown[]} */
  const told = [];
  state.addEventListener("tool_call", (event) => told.push(/** @type {CustomEvent} */ (event).detail));
  state.begin();
  const call = /** @type {const} */ ({ type: "tool_call", index: 0, name: "f", arguments: "{}", n: 1, at: 0 });
  state.receive(call);
  assert.deepEqual(told, [call]);
  assert.equal(state.phase, "answering");
});
