// @ts-check
// The parser of the event stream, on bytes cut at every place.
import assert from "node:assert/strict";
import test from "node:test";

import { StreamParser } from "../../../webui/static/js/stream.js";

const EVENTS = [
  { type: "accepted" },
  { type: "reasoning", text: "Grüße, 世界 \u{1F680}" },
  { type: "answer", keep: 0, blocks: ["<p>a\\nb</p>\n"] },
  { type: "end", html: "<p>é</p>", title: "t", complete: true },
];
const BYTES = new TextEncoder().encode(EVENTS.map((event) => `${JSON.stringify(event)}\n`).join(""));

for (const size of [1, 2, 3, 5, 7, 64, BYTES.length]) {
  test(`events come out whole from pieces of ${size} bytes`, () => {
    const parser = new StreamParser();
    const events = [];
    for (let at = 0; at < BYTES.length; at += size) events.push(...parser.push(BYTES.subarray(at, at + size)));
    assert.deepEqual(events, EVENTS);
    assert.equal(parser.finish(), true);
  });
}

test("an event is handed over as soon as its line ends", () => {
  const parser = new StreamParser();
  const half = BYTES.indexOf(10) + 5;
  assert.deepEqual(parser.push(BYTES.subarray(0, half)), EVENTS.slice(0, 1));
});

test("empty lines keep the connection alive and are no events", () => {
  assert.deepEqual(new StreamParser().push(new TextEncoder().encode('\n\n{"type":"accepted"}\n\n')), EVENTS.slice(0, 1));
});

test("a stream that ends within a line is told from a whole one", () => {
  const parser = new StreamParser();
  parser.push(BYTES.subarray(0, BYTES.length - 1));
  assert.equal(parser.finish(), false);
});

test("bytes that are not UTF-8 are refused", () => {
  assert.throws(() => new StreamParser().push(new Uint8Array([0xff, 10])), TypeError);
});

test("a line that is not JSON is refused", () => {
  assert.throws(() => new StreamParser().push(new TextEncoder().encode("nonsense\n")), SyntaxError);
});
