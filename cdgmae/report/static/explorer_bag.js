// One bag, opened: its images side by side with their scores; a patch of the left image lights up its nearest patch in every other.
"use strict";

const CIVIDIS = [[0, 34, 78], [53, 69, 108], [102, 105, 112], [148, 142, 119], [200, 184, 102], [254, 232, 56]];
const IMAGE_WIDTH = 264;
const SVG = "http://www.w3.org/2000/svg";
const opened = { bag: null, left: 0, patch: null, range: [0, 1] };

// Colour of a similarity (hundredths) between the smallest and the largest of the bag.
function colourOf(similarity) {
  const [low, high] = opened.range;
  const place = Math.max(0, Math.min(1, high > low ? (similarity - low) / (high - low) : 1)) * (CIVIDIS.length - 1);
  const start = Math.min(CIVIDIS.length - 2, Math.floor(place));
  return `rgb(${CIVIDIS[start].map((value, channel) => Math.round(value + (place - start) * (CIVIDIS[start + 1][channel] - value))).join(" ")})`;
}

const nameOf = (index) => (index === 0 ? "real image" : opened.bag.views.some((view) => view.index === 0) ? `view ${index}` : `crop ${index}`);
const inText = (index) => (index === 0 ? "the real image" : nameOf(index));
const pairs = () => opened.bag.pairs.filter((pair) => pair.a === opened.left);
const rowAndColumn = (patch) => `row ${Math.floor(patch / opened.bag.side) + 1}, column ${(patch % opened.bag.side) + 1}`;

function scoreText(pair) {
  if (pair === undefined) return "";
  if (pair.reason) return `not scored: ${pair.reason}`;
  return explorer.metrics.map((metric) => `${explorer.names[metric]} ${pair[metric].toFixed(3)}`).join(", ");
}

// An image of the bag with an empty drawing of its patches above it.
function makeImage(place, width) {
  const bag = opened.bag, view = bag.views[place], figure = document.createElement("figure"), box = document.createElement("div");
  figure.dataset.view = view.index;
  figure.style.width = `${width}px`;
  box.className = "image";
  box.style.width = box.style.height = `${width}px`;
  if (view.problem || bag.strip === null) {
    box.classList.add("missing");
    box.textContent = `no image: ${view.problem ?? bag.problem}`;
  } else {
    box.style.backgroundImage = `url("${bag.strip}")`;
    box.style.backgroundSize = `${bag.views.length * width}px ${width}px`;
    box.style.backgroundPosition = `${-place * width}px 0`;
  }
  const drawing = document.createElementNS(SVG, "svg");
  drawing.setAttribute("viewBox", `0 0 ${bag.side ?? 1} ${bag.side ?? 1}`);
  drawing.setAttribute("aria-hidden", "true");
  box.append(drawing);
  const caption = document.createElement("figcaption");
  const name = document.createElement("b"), scores = document.createElement("div");
  name.textContent = nameOf(view.index);
  scores.textContent = scoreText(pairs().find((pair) => pair.b === view.index));
  caption.append(name, scores);
  figure.append(box, caption);
  return figure;
}

function addPatch(drawing, patch, style) {
  const rect = document.createElementNS(SVG, "rect");
  const values = { x: patch % opened.bag.side, y: Math.floor(patch / opened.bag.side), width: 1, height: 1, "vector-effect": "non-scaling-stroke", ...style };
  Object.entries(values).forEach(([name, value]) => rect.setAttribute(name, value));
  drawing.append(rect);
}

const drawingOf = (index) => document.querySelector(`#bag-images figure[data-view="${index}"] svg`);

// A dark line around a light one is seen on any image.
function lightUp(drawing, patch, colour) {
  addPatch(drawing, patch, { fill: "none", stroke: "#000", "stroke-width": 7, class: "edge" });
  addPatch(drawing, patch, { fill: colour, "fill-opacity": 0.35, stroke: colour, "stroke-width": 4, class: "lit" });
}

function drawPatches() {
  const { bag, left, patch } = opened, status = document.getElementById("bag-status");
  document.querySelectorAll("#bag-images svg").forEach((drawing) => drawing.replaceChildren());
  const coloured = pairs().find((pair) => String(pair.b) === document.getElementById("bag-colour").value);
  coloured?.similarity?.forEach((similarity, number) => addPatch(drawingOf(left), number, { fill: colourOf(similarity), "fill-opacity": 0.72, class: "heat" }));
  if (patch === null) {
    status.textContent = document.querySelector("#bag-images .patches")
      ? `Point at a patch of ${inText(left)}, or move there with Tab and the arrow keys: its nearest patch in the other images lights up.`
      : bag.problem ?? "The nearest patches of this bag were not stored; setting consistency.nearest_bags says of how many bags per shard they are.";
    return;
  }
  lightUp(drawingOf(left), patch, "#ffffff");
  const found = pairs().filter((pair) => pair.nearest).map((pair) => {
    const similarity = pair.similarity[patch];
    lightUp(drawingOf(pair.b), pair.nearest[patch], similarity === undefined ? "#ffffff" : colourOf(similarity));
    const value = similarity === undefined ? "" : `, similarity ${(similarity / 100).toFixed(2)}`;
    return `${nameOf(pair.b)}: ${rowAndColumn(pair.nearest[patch])}${value}`;
  });
  status.textContent = `Patch at ${rowAndColumn(patch)} of ${inText(left)}. Nearest in ${found.join("; ")}.`;
}

function select(patch) {
  opened.patch = patch;
  drawPatches();
}

// Pointer and arrow keys choose a patch of the left image.
function listenForPatches(box) {
  const side = opened.bag.side;
  const moves = { ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [-1, 0], ArrowDown: [1, 0] };
  const clamp = (number) => Math.max(0, Math.min(side - 1, number));
  box.classList.add("patches");
  box.tabIndex = 0;
  box.setAttribute("role", "application");
  box.setAttribute("aria-label", `Patches of ${inText(opened.left)}; arrow keys move`);
  box.addEventListener("pointermove", (event) => {
    const area = box.getBoundingClientRect();
    const patch = clamp(Math.floor((event.clientY - area.top) / area.height * side)) * side + clamp(Math.floor((event.clientX - area.left) / area.width * side));
    if (patch !== opened.patch) select(patch);
  });
  box.addEventListener("pointerleave", () => { if (document.activeElement !== box) select(null); });
  box.addEventListener("focus", () => { if (opened.patch === null) select(Math.floor(side / 2) * (side + 1)); });
  box.addEventListener("keydown", (event) => {
    if (!(event.key in moves)) return;
    event.preventDefault();
    const [down, right] = moves[event.key], patch = opened.patch ?? 0;
    select(clamp(Math.floor(patch / side) + down) * side + clamp((patch % side) + right));
  });
}

function writeScale() {
  const similarities = opened.bag.pairs.flatMap((pair) => pair.similarity ?? []);
  opened.range = similarities.reduce(([low, high], value) => [Math.min(low, value), Math.max(high, value)], [100, -100]);
  const bar = document.createElement("i"), ends = opened.range.map((value) => (value / 100).toFixed(2));
  bar.style.background = `linear-gradient(to right, ${CIVIDIS.map((colour) => `rgb(${colour.join(" ")})`).join(", ")})`;
  document.getElementById("bag-scale").replaceChildren(...(similarities.length ? [`similarity ${ends[0]}`, bar, ends[1]] : []));
}

// Shows the pairs of the chosen left image.
function drawImages() {
  const bag = opened.bag, shown = new Set([opened.left, ...pairs().map((pair) => pair.b)]);
  const places = bag.views.map((_, place) => place).filter((place) => shown.has(bag.views[place].index));
  const width = Math.min(IMAGE_WIDTH, Math.max(140, Math.floor(1080 / places.length) - 14));
  const figures = places.map((place) => makeImage(place, width));
  document.getElementById("bag-images").replaceChildren(...figures);
  const stored = pairs().filter((pair) => pair.nearest), box = figures.find((figure) => Number(figure.dataset.view) === opened.left)?.firstChild;
  box?.classList.add("left");
  if (box && stored.length && !box.classList.contains("missing")) listenForPatches(box);
  const colour = document.getElementById("bag-colour");
  const coloured = stored.filter((pair) => pair.similarity.length);
  colour.replaceChildren(new Option("none", ""), ...coloured.map((pair) => new Option(nameOf(pair.b), pair.b)));
  document.getElementById("colour-choice").hidden = coloured.length === 0;
  select(null);
}

explorer.open = (bag) => {
  opened.bag = bag;
  const lefts = [...new Set(bag.pairs.map((pair) => pair.a))];
  opened.left = lefts[0] ?? bag.views[0]?.index ?? 0;
  document.getElementById("bag-title").textContent = bag.key;
  const rules = bag.rules.map((rule) => explorerData.rules[rule]).join(", ");
  document.getElementById("bag-scores").textContent =
    `Source ${bag.source}${bag.class ? `, class ${bag.class}` : ""}, chosen as: ${rules}. Means: `
    + explorer.metrics.map((metric) => `${explorer.names[metric]} ${bag[metric].toFixed(3)}`).join(", ") + ".";
  const choice = document.getElementById("bag-left");
  choice.replaceChildren(...lefts.map((index) => new Option(nameOf(index), index)));
  document.getElementById("left-choice").hidden = lefts.length < 2;
  writeScale();
  drawImages();
  const dialog = document.getElementById("bag");
  if (!dialog.open) dialog.showModal();
};

// The bag before or after the opened one in the order of the table.
function step(distance) {
  const bags = explorer.tableBags(), next = bags[bags.indexOf(opened.bag) + distance];
  if (next !== undefined) explorer.open(next);
}

document.addEventListener("DOMContentLoaded", () => {
  const dialog = document.getElementById("bag");
  document.getElementById("bag-close").addEventListener("click", () => dialog.close());
  document.getElementById("bag-previous").addEventListener("click", () => step(-1));
  document.getElementById("bag-next").addEventListener("click", () => step(1));
  dialog.addEventListener("click", (event) => { if (event.target === dialog) dialog.close(); });
  document.getElementById("bag-colour").addEventListener("input", drawPatches);
  document.getElementById("bag-left").addEventListener("input", (event) => {
    opened.left = Number(event.target.value);
    drawImages();
  });
});
