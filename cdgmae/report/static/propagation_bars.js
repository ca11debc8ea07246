// One chart per clip set: a row per sequence with a bar per encoder, worst first for the chosen encoder.
"use strict";

const ROWS_AT_FIRST = 20;
const BAR_SHARE = 0.8; // of the width is 100 %; the rest holds the number behind the longest bar
const TICKS = [0, 20, 40, 60, 80, 100];
const propagation = { expanded: new Set() };

function make(tag, className, text) {
  const element = document.createElement(tag);
  if (className) element.className = className;
  if (text !== undefined) element.textContent = text;
  return element;
}

// Places of a clip set's sequences, lowest score of the encoder first, unknown ones last; without that encoder in their own order.
propagation.worstFirst = (part, encoder) => {
  const places = part.sequences.map((_, place) => place), scores = part.scores[encoder];
  if (scores === undefined) return places;
  const value = (place) => scores[place] ?? Infinity;
  return places.sort((a, b) => (value(a) === value(b) ? a - b : value(a) - value(b)));
};

propagation.evaluationSet = (name) => propagationData.sets.find((part) => part.name === name);
propagation.encoder = () => document.getElementById("encoder").value;
propagation.shown = (score) => (score === null ? "none" : score.toFixed(1));

function makeBar(encoder, score) {
  const bar = make("div", "bar"), length = make("i");
  length.style.width = `${(score ?? 0) * BAR_SHARE}%`;
  length.style.background = propagationData.colours[encoder];
  bar.append(length, make("b", "", propagation.shown(score)), make("span", "", encoder));
  return bar;
}

function makeHead(part) {
  const head = make("tr"), scale = make("th", "scale");
  for (const tick of TICKS) {
    const label = make("span", "", `${tick} %`);
    label.style.left = `${Math.max(1.5, tick * BAR_SHARE)}%`;
    scale.append(label);
  }
  scale.setAttribute("aria-label", `${part.score} in percent`);
  head.append(make("th", "rank", "#"), make("th", "name", "sequence"), scale);
  return head;
}

function makeRow(part, place, rank) {
  const row = make("tr"), name = make("th", "name", part.sequences[place]), plot = make("td", "plot");
  name.scope = "row";
  plot.append(...Object.entries(part.scores).map(([encoder, scores]) => makeBar(encoder, scores[place])));
  row.append(make("td", "rank", rank), name, plot);
  return row;
}

function drawBars(container) {
  const part = propagation.evaluationSet(container.dataset.set), places = propagation.worstFirst(part, propagation.encoder());
  const count = propagation.expanded.has(part.name) ? places.length : Math.min(ROWS_AT_FIRST, places.length);
  const table = make("table"), head = make("thead"), body = make("tbody");
  head.append(makeHead(part));
  body.append(...places.slice(0, count).map((place, index) => makeRow(part, place, index + 1)));
  table.append(head, body);
  container.replaceChildren(table);
  if (count < places.length) {
    const more = make("button", "", `Show all ${places.length} sequences`);
    more.type = "button";
    more.addEventListener("click", () => {
      propagation.expanded.add(part.name);
      drawBars(container);
      const next = container.querySelectorAll("tbody tr")[count];
      next.tabIndex = -1;
      next.focus();
    });
    container.append(more);
  }
}

propagation.drawBars = () => document.querySelectorAll(".bars").forEach(drawBars);

document.addEventListener("DOMContentLoaded", () => {
  document.getElementById("encoder").addEventListener("change", propagation.drawBars);
  propagation.drawBars();
});
