// @ts-check
// The turn's state: its phases, and how long the model thought.
import assert from "node:assert/strict";
import test from "node:test";

import { TurnState } from "../../../webui/static/js/state.js";

function watched() {
  let now = 1000;
  const state = new TurnState(() => now);
  /** @type {string[]} */
  const phases = [];
  state.addEventListener("phase", (event) => phases.push(/** @type {CustomEvent} */ (event).detail));
  return { state, phases, wait: (/** @type {number} */ ms) => { now += ms; } };
}

test("a turn goes through waiting, reading, thinking, answering and back", () => {
  const { state, phases, wait } = watched();
  state.begin();
  state.receive({ type: "accepted" });
  state.receive({ type: "started", queued_s: 0 });
  state.receive({ type: "reasoning", text: "a" });
  wait(4000);
  state.receive({ type: "reasoning", text: "b" });
  wait(8000);
  state.receive({ type: "answer", keep: 0, blocks: [] });
  state.receive({ type: "answer", keep: 0, blocks: [] });
  state.receive({ type: "end", html: "", title: "", complete: true });
  state.finish();
  assert.deepEqual(phases, ["waiting", "reading", "thinking", "answering", "idle"]);
  assert.equal(state.thoughtFor, 12000);
  assert.equal(state.busy, false);
});

test("a turn that is stopped is stopping until the stream is over", () => {
  const { state, phases } = watched();
  state.stop();
  state.begin();
  state.receive({ type: "accepted" });
  state.stop();
  assert.equal(state.busy, true);
  state.finish();
  assert.deepEqual(phases, ["waiting", "stopping", "idle"]);
});

test("an answer without reasoning has no time of thought", () => {
  const { state } = watched();
  state.begin();
  state.receive({ type: "answer", keep: 0, blocks: [] });
  assert.equal(state.thoughtFor, null);
});

test("the question counts as taken in with the server's first word, and not before", () => {
  const { state } = watched();
  state.begin();
  assert.equal(state.accepted, false);
  state.receive({ type: "accepted" });
  assert.equal(state.accepted, true);
  state.finish();
  state.begin();
  assert.equal(state.accepted, false);
});

test("each event of the stream is told under its own name", () => {
  const { state } = watched();
  /** @type {unknown[]} */
  const told = [];
  state.addEventListener("tool_call", (event) => told.push(/** @type {CustomEvent} */ (event).detail));
  state.begin();
  const call = /** @type {const} */ ({ type: "tool_call", index: 0, name: "f", arguments: "{}" });
  state.receive(call);
  assert.deepEqual(told, [call]);
  assert.equal(state.phase, "answering");
});
