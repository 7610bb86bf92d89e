// @ts-check
// Runs before the first paint, hence no module: puts the reader's own choice of colours on the root element.
(() => {
  const theme = localStorage.getItem("theme");
  if (theme === "light" || theme === "dark") document.documentElement.dataset.theme = theme;
})();
