// @ts-check
// Finding elements by their data-* hooks, and taking in HTML that our server has made safe.

/**
 * The one element with the hook.
 * @param {string} hook e.g. "data-send"
 * @param {ParentNode} [within]
 * @returns {HTMLElement}
 */
export function hooked(hook, within = document) {
  const found = within.querySelector(`[${hook}]`);
  if (!(found instanceof HTMLElement)) throw new Error(`the page has no [${hook}]`);
  return found;
}

/**
 * What scrolls the conversation: its column, or on a low screen the column and the composer together.
 * It changes when the window is resized or zoomed, so ask each time.
 * @returns {HTMLElement}
 */
export function scrollArea() {
  const column = hooked("data-scroll");
  return getComputedStyle(column).overflowY === "visible" ? /** @type {HTMLElement} */ (column.parentElement) : column;
}

/**
 * Nodes of HTML written by webui/rendering or a template of ours.
 * @param {string} html
 */
export function fragment(html) {
  const template = document.createElement("template");
  template.innerHTML = html;
  return template.content;
}

/**
 * A copy of the page's template.
 * @param {string} name
 */
export function cloned(name) {
  const template = document.querySelector(`template[data-template="${name}"]`);
  if (!(template instanceof HTMLTemplateElement)) throw new Error(`the page has no template ${name}`);
  const first = /** @type {DocumentFragment} */ (template.content.cloneNode(true)).firstElementChild;
  if (!(first instanceof HTMLElement)) throw new Error(`the template ${name} is empty`);
  return first;
}

/**
 * Whether a key press belongs to a field rather than to the page's shortcuts.
 * @param {KeyboardEvent} event
 */
export function isTyping(event) {
  const target = event.target;
  if (event.ctrlKey || event.metaKey || event.altKey) return true;
  if (document.querySelector("dialog[open]")) return true;
  if (target instanceof HTMLInputElement) return !["radio", "checkbox"].includes(target.type);
  return target instanceof HTMLTextAreaElement || target instanceof HTMLSelectElement;
}
