// @ts-check
// Runs before the first paint, so it is no module. Puts the reader's choice of colours on the root element.
(() => {
  const theme = localStorage.getItem("theme");
  if (theme === "light" || theme === "dark") document.documentElement.dataset.theme = theme;
})();
