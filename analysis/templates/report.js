"use strict";
// Without this script the page shows everything; it only adds what a reader can press.
(() => {
  const root = document.documentElement;
  const theme = document.getElementById("theme");
  const dark = () => root.dataset.theme
    ? root.dataset.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
  const name = () => { theme.textContent = dark() ? "Light" : "Dark"; };
  theme.hidden = false;
  theme.addEventListener("click", () => { root.dataset.theme = dark() ? "light" : "dark"; name(); });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", name);
  name();

  // A method taken out of the legend leaves every figure.
  for (const button of document.querySelectorAll("#legend button")) {
    button.addEventListener("click", () => {
      const shown = button.getAttribute("aria-pressed") !== "true";
      button.setAttribute("aria-pressed", String(shown));
      for (const figure of document.querySelectorAll("figure[data-series]")) {
        const place = JSON.parse(figure.dataset.series).indexOf(button.dataset.series);
        if (place < 0) continue;
        for (const part of figure.querySelectorAll(`[id$="-series-${place}"], [id$="-range-${place}"]`)) {
          part.classList.toggle("off", !shown);
        }
      }
    });
  }
})();
