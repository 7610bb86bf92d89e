// @ts-check
// Wide code, tables and formulae scroll by keyboard: what is wider than its box can be focused and has a name. What fits
// is left out of the tab order, and comes in or goes out when the window changes.

const SCROLLING = ".prose pre, .table-scroll, .prose .math-block, .call-arguments, .event-text";

/** @type {[string, string][]} */
const NAMES = [[".table-scroll", "Table"], [".math-block", "Formula"], ["pre", "Code"]];

const sizes = new ResizeObserver((entries) => { for (const { target } of entries) mark(target); });

/** @param {Element} element */
function mark(element) {
  const isWider = element.scrollWidth > element.clientWidth + 1 || element.scrollHeight > element.clientHeight + 1;
  if (isWider === element.hasAttribute("data-scrolls")) return;
  element.toggleAttribute("data-scrolls", isWider);
  if (isWider) {
    element.setAttribute("tabindex", "0");
    element.setAttribute("role", "group");
    element.setAttribute("aria-label", nameOf(element));
  } else {
    for (const name of ["tabindex", "role", "aria-label"]) element.removeAttribute(name);
  }
}

/** @param {Element} element */
function nameOf(element) {
  const language = element.closest(".code-block")?.getAttribute("data-language");
  const kind = NAMES.find(([selector]) => element.matches(selector))?.[1] ?? "Text";
  return language && language !== "text" ? `${kind}, ${language}` : kind;
}

/** @param {ParentNode} within */
function watch(within) {
  for (const element of within.querySelectorAll(SCROLLING)) sizes.observe(element);
}

new MutationObserver((changes) => {
  for (const { addedNodes } of changes) {
    for (const node of addedNodes) {
      if (!(node instanceof Element)) continue;
      if (node.matches(SCROLLING)) sizes.observe(node);
      watch(node);
    }
  }
}).observe(document.body, { childList: true, subtree: true });

watch(document);
