// @ts-check
// Buttons that save what stands on the page as a file, without asking the server for it again.

for (const button of /** @type {NodeListOf<HTMLElement>} */ (document.querySelectorAll("[data-download-text]"))) {
  button.hidden = false;
  button.addEventListener("click", () => save(button.dataset.downloadName ?? "file", button.dataset.downloadText ?? ""));
}

/**
 * @param {string} name of the file
 * @param {string} text
 */
function save(name, text) {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([text], { type: "text/csv" }));
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 1000);
}
