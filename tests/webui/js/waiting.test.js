import assert from "node:assert/strict";
import test from "node:test";

import { waitingWords } from "../../../webui/static/js/waiting.js";

const told = (ahead, waitMs) => ({ ahead, waitMs, at: 1000 });

test("the place and the wait are said in whole sentences", () => {
  assert.equal(waitingWords(3, told(0, null), 1000), "Waiting for the model, 3 s. Your question is next.");
  assert.equal(waitingWords(3, told(1, 38_000), 1000), "Waiting for the model, 3 s. 1 question comes before yours. It takes about 40 s.");
  assert.equal(waitingWords(3, told(12, 200_000), 1000), "Waiting for the model, 3 s. 12 questions come before yours. It takes about 4 min.");
});

test("the wait gets shorter, and a wrong estimate is not held on to", () => {
  assert.match(waitingWords(30, told(1, 38_000), 29_000), /about 10 s\.$/);
  assert.match(waitingWords(60, told(1, 38_000), 59_000), /longer than expected\.$/);
});
