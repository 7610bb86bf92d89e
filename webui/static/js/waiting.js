// @ts-check
// What is said while a turn waits for the engine. Pure. Every sentence is whole, so that it can be translated.

/**
 * News of the queue: how many turns come before this one, about how long that takes, and when it was told (ms of
 * performance.now()). The wait is null while the engine cannot tell.
 * @typedef {{ahead: number, waitMs: number | null, at: number}} Queued
 */

/**
 * @param {number} seconds how long it has waited
 * @param {Queued} queued
 * @param {number} now ms of performance.now()
 */
export function waitingWords(seconds, queued, now) {
  const waited = `Waiting for the model, ${seconds} s.`;
  const place = queued.ahead === 0 ? "Your question is next."
    : queued.ahead === 1 ? "1 question comes before yours."
    : `${queued.ahead} questions come before yours.`;
  return [waited, place, expected(queued, now)].filter(Boolean).join(" ");
}

/**
 * @param {Queued} queued
 * @param {number} now
 */
function expected(queued, now) {
  if (queued.waitMs === null) return "";
  const left = Math.ceil((queued.waitMs - (now - queued.at)) / 1000);
  if (left <= 0) return "It takes longer than expected.";
  if (left < 60) return `It takes about ${Math.ceil(left / 5) * 5} s.`;
  return `It takes about ${Math.ceil(left / 60)} min.`;
}
