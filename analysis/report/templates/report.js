"use strict";
// The page is complete without this script, which only adds the interactive controls.
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

  // Legend: hiding a method hides it in every figure.
  for (const button of document.querySelectorAll("#legend button")) {
    button.addEventListener("click", () => {
      const shown = button.getAttribute("aria-pressed") !== "true";
      button.setAttribute("aria-pressed", String(shown));
      for (const figure of document.querySelectorAll("figure[data-series]")) {
        const place = JSON.parse(figure.dataset.series).indexOf(button.dataset.series);
        if (place < 0) continue;
        for (const part of figure.querySelectorAll(`[id$="-series-${place}"], [id$="-range-${place}"], [id$="-mark-${place}"]`)) {
          part.classList.toggle("off", !shown);
        }
      }
    });
  }

  // Headings sort their column: numbers by value, texts alphabetically, undefined values last.
  const value = (cell) => cell.textContent.trim().replace("−", "-");
  for (const table of document.querySelectorAll("table.sortable")) {
    const body = table.tBodies[0];
    table.querySelectorAll("thead th").forEach((heading, column) => {
      const button = document.createElement("button");
      button.type = "button";
      button.append(...heading.childNodes);
      heading.append(button);
      button.addEventListener("click", () => {
        const numeric = !heading.matches(".method, .hyperparameters, .decision");
        const was = heading.getAttribute("aria-sort");
        const up = was ? was === "descending" : !numeric;
        for (const other of table.querySelectorAll("thead th")) other.removeAttribute("aria-sort");
        heading.setAttribute("aria-sort", up ? "ascending" : "descending");
        const rows = [...body.rows].map((row) => [row, value(row.cells[column])]);
        rows.sort(([, a], [, b]) => {
          if ((a === "–") !== (b === "–")) return a === "–" ? 1 : -1;
          const order = numeric ? parseFloat(a) - parseFloat(b) : a.localeCompare(b);
          return up ? order : -order;
        });
        body.append(...rows.map(([row]) => row));
      });
    });
  }

  // The slider shows every method's accuracies at one threshold and moves the line in the figures.
  const data = document.getElementById("reader-data");
  if (data) {
    const { thresholds, methods } = JSON.parse(data.textContent);
    const reader = document.getElementById("reader");
    const slider = document.getElementById("slider");
    const rows = reader.querySelector("tbody").rows;
    const figures = [...document.querySelectorAll("figure")].filter((f) => f.querySelector('[id$="-cursor"]'));
    const start = figures.map((figure) => {
      const [zero, one] = figure.dataset.x.split(" ").map(Number);
      const line = figure.querySelector('[id$="-cursor"]');
      return { line, unit: one - zero, zero, at: line.querySelector("path").getAttribute("d").match(/[\d.]+/)[0] };
    });
    const show = () => {
      const at = Number(slider.value);
      const text = thresholds[at].toFixed(2);
      document.getElementById("threshold-value").textContent = text;
      slider.setAttribute("aria-valuetext", text);
      methods.forEach((method, place) => {
        for (const cell of rows[place].querySelectorAll("[data-read]")) {
          const found = (method[cell.dataset.read] || [])[at];
          cell.textContent = found === null || found === undefined ? "–" : found.toFixed(3);
        }
      });
      for (const { line, unit, zero, at: was } of start) {
        line.setAttribute("transform", `translate(${zero + unit * thresholds[at] - Number(was)} 0)`);
      }
    };
    slider.addEventListener("input", show);
    reader.hidden = false;
    show();
  }
})();
