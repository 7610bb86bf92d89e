// @ts-check
// What every page has: the menus, dialogs' way back, the choice of colours, the list of shortcuts, copying.
//
// Enter in a field presses the first submit button of its form. So a dialog's button that changes nothing is
// [data-close], and submits nothing.

import { isTyping } from "./dom.js";
import { clearDrafts, forgetDrafts } from "./drafts.js";

const keysDialog = /** @type {HTMLDialogElement | null} */ (document.querySelector("[data-keys-dialog]"));

function closeMenus() {
  for (const menu of document.querySelectorAll("details[data-menu][open]")) menu.removeAttribute("open");
}

document.addEventListener("click", (event) => {
  const target = /** @type {Element} */ (event.target);
  if (target.closest("[data-open-keys]")) {
    closeMenus();
    keysDialog?.showModal();
  }
  for (const menu of document.querySelectorAll("details[data-menu][open]")) {
    if (!menu.contains(target)) menu.removeAttribute("open");
  }
  target.closest("[data-close]")?.closest("dialog")?.close();
  const copy = target.closest("[data-copy-text]");
  if (copy instanceof HTMLElement) void copied(copy, copy.dataset.copyText ?? "");
});

// A menu that opens below the edge of the window is scrolled into sight.
document.addEventListener("toggle", (event) => {
  const menu = /** @type {Element} */ (event.target);
  if (menu.matches("details[data-menu][open]")) menu.querySelector(".menu-panel")?.scrollIntoView({ block: "nearest" });
}, true);

document.addEventListener("keydown", (event) => {
  if (event.key === "Escape") {
    const open = document.querySelector("details[data-menu][open]");
    open?.querySelector("summary")?.focus();
    closeMenus();
  }
  if (event.key === "?" && !isTyping(event)) keysDialog?.showModal();
});

// Signing out ends in every tab of the browser: what the others show is not for whoever comes next.
const session = new BroadcastChannel("session");
const signOut = document.querySelector('form[action="/sign-out"]');
signOut?.addEventListener("submit", clearDrafts);
if (signOut) session.addEventListener("message", () => location.reload());
if (document.querySelector("[data-signed-out]")) {
  forgetDrafts();
  session.postMessage("ended");
}

for (const choice of /** @type {NodeListOf<HTMLInputElement>} */ (document.querySelectorAll("[data-theme-choice]"))) {
  choice.checked = choice.value === (localStorage.getItem("theme") ?? "");
  choice.addEventListener("change", () => {
    if (choice.value) {
      localStorage.setItem("theme", choice.value);
      document.documentElement.dataset.theme = choice.value;
    } else {
      localStorage.removeItem("theme");
      delete document.documentElement.dataset.theme;
    }
  });
}

/**
 * Copy `text`, and let the button say so for a moment.
 * @param {HTMLElement} button with a [data-copy-word] inside
 * @param {string} text
 */
export async function copied(button, text) {
  const word = button.querySelector("[data-copy-word]");
  const before = word?.textContent ?? "";
  const done = await copy(text);
  if (!word) return;
  word.textContent = done ? "Copied" : "Copying was refused";
  setTimeout(() => { word.textContent = before; }, 1500);
}

/** @param {string} text */
async function copy(text) {
  if (navigator.clipboard) {
    try {
      await navigator.clipboard.writeText(text);
      return true;
    } catch {
      return false;
    }
  }
  // Browsers give the clipboard to https only; an appliance may be reached by plain http.
  const holder = document.createElement("textarea");
  holder.value = text;
  holder.className = "visually-hidden";
  document.body.append(holder);
  holder.select();
  const done = document.execCommand("copy");
  holder.remove();
  return done;
}
