import assert from "node:assert/strict";
import { test } from "node:test";

import { Spoken, sentencesEnd } from "../../../webui/static/js/spoken.js";

/** Hears `texts`, one a `step` ms later than the other, and collects what was said. */
function heard(texts, step) {
  const said = [];
  let now = 0;
  const element = { get textContent() { return said.at(-1) ?? ""; }, set textContent(words) { said.push(words); } };
  const spoken = new Spoken(element, () => now);
  for (const text of texts) {
    spoken.hear(text);
    now += step;
  }
  return said;
}

const growing = (text) => [...text].map((_, at) => text.slice(0, at + 1));

test("tokens are not said, sentences are", () => {
  assert.deepEqual(heard(growing("One two. Three four! Five"), 5000), ["One two.", "Three four!"]);
});

test("sentences that come fast are said together", () => {
  const said = heard(growing("One. Two. Three. Four. Five. Six. Seven. Eight. "), 200);
  assert.equal(said.join(" "), "One. Two. Three. Four. Five. Six. Seven. Eight.".slice(0, said.join(" ").length));
  assert.ok(said.length <= 4, String(said));
});

test("nothing is said twice", () => {
  assert.deepEqual(heard(["One. ", "One. ", "One. "], 5000), ["One."]);
});

test("numbers and names do not end a sentence, ideographic stops and lines do", () => {
  assert.equal(sentencesEnd("Pi is 3.14 and a.b", 0), 0);
  assert.equal(sentencesEnd("你好。世界", 0), 3);
  assert.equal(sentencesEnd("a line\nanother", 0), 7);
  assert.equal(sentencesEnd("He said “no.” Then", 0), 13);
});

test("a very long piece is cut, and the rest is not said later", () => {
  const [words] = heard([`${"word ".repeat(400)}. `, "x"], 5000);
  assert.equal(words.length, 501);
});
