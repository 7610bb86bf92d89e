// @ts-check
// The banner follows the marking of the conversation, which can rise with a question.

const HEADER = "X-Marking"; // style, blank, words (webui/markings.py)

/** @param {Response} response the answer to a question */
export function showMarking(response) {
  const [style, words] = (response.headers.get(HEADER) ?? "").split(" ");
  if (!words) return;
  for (const banner of document.querySelectorAll("[data-banner]")) {
    const place = banner.classList.contains("banner-top") ? "banner-top" : "banner-bottom";
    banner.className = style ? `banner ${place} banner-${style}` : `banner ${place}`;
    const shown = banner.firstElementChild;
    if (shown) shown.textContent = decodeURIComponent(words);
  }
}

const CONVERSATION = /^\/chat\/[0-9a-f]+$/;

/** A new chat gets its address with the first question; then it can be marked. */
export function offerMarking() {
  const link = document.querySelector("[data-marking-link]");
  if (!(link instanceof HTMLAnchorElement) || !CONVERSATION.test(location.pathname)) return;
  link.href = `${location.pathname}/marking`;
  link.hidden = false;
}
