// @ts-check
// The way to the page of a whole conversation that is made to be printed, and that page's button.

const CONVERSATION = /^\/chat\/[0-9a-f]+$/;

document.querySelector("[data-print]")?.addEventListener("click", () => print());

// A new chat gets its address with the first question, long after the page and its menu were written.
document.addEventListener("toggle", () => {
  const link = document.querySelector("[data-paper]");
  if (!(link instanceof HTMLAnchorElement) || !CONVERSATION.test(location.pathname)) return;
  link.href = `${location.pathname}/print`;
  link.hidden = false;
}, true);
