// Two scores of the sampled bags against each other, and one score of two sources on the same real images.
"use strict";

const POINT_HEIGHT = 380;

// Points of two numeric fields; the grey layer is everything and may carry a brush, "kept" is filled later.
function pointSpec({ x, y, titles, domains, points, brush, lines }, width) {
  const axis = (field, channel) => ({
    field, type: "quantitative", scale: { domain: domains[channel], nice: false }, axis: { title: titles[channel], format: ".2f", tickCount: 6 },
  });
  const place = { x: axis(x, "x"), y: axis(y, "y") };
  const tooltip = [{ field: "key" }, { field: "source" }, { field: "class" }, { field: x, title: titles.x, format: ".3f" }, { field: y, title: titles.y, format: ".3f" }];
  const params = [{ name: "brush", select: { type: "interval", encodings: ["x", "y"], mark: { fill: "#1c1c1c", fillOpacity: 0.08, stroke: "#1c1c1c" } } }];
  const names = explorerData.sources.map((source) => source.name);
  return {
    width, height: POINT_HEIGHT, autosize: { type: "fit", contains: "padding" }, description: `${titles.y} against ${titles.x}`,
    layer: [
      { data: { values: points }, mark: { type: "point", filled: true, size: 30, color: "#d0d4da" }, encoding: place, ...(brush ? { params } : {}) },
      ...lines,
      {
        data: { name: "kept", values: [] }, mark: { type: "point", filled: true, size: 30, opacity: 0.6 },
        encoding: { ...place, tooltip, color: { field: "source", type: "nominal", scale: { domain: names }, legend: null } },
      },
    ],
  };
}

// The scatter of two metrics; a changed axis draws it anew.
async function startScatter() {
  const element = document.getElementById("scatter"), choices = ["x", "y"].map((channel) => document.getElementById(`scatter-${channel}`));
  let follow = () => {};
  const draw = async () => {
    const [x, y] = choices.map((choice) => choice.value), domains = { x: domainOf(x), y: domainOf(y) };
    const titles = { x: `${explorer.names[x]}, mean of a bag`, y: `${explorer.names[y]}, mean of a bag` };
    explorer.charts?.scatter?.finalize();
    const spec = pointSpec({ x, y, titles, domains, points: explorer.sampled, brush: true, lines: [] }, Math.max(280, element.clientWidth));
    const view = await report.drawChart(element, spec, "canvas");
    const followRanges = bindBrush(view, { x: { metric: x, domain: domains.x }, y: { metric: y, domain: domains.y } });
    follow = () => {
      followRanges();
      view.data("kept", explorer.sampled.filter(explorer.keeps)).runAsync();
    };
    follow();
    return view;
  };
  choices.forEach((choice, number) => {
    addOptions(choice, explorer.metrics.map((metric) => [metric, explorer.names[metric]]));
    choice.value = ["ls", "nps"][number];
    choice.addEventListener("change", async () => {
      const other = choices[1 - number];
      if (other.value === choice.value) other.value = explorer.metrics.find((metric) => metric !== choice.value);
      explorer.charts.scatter = await draw();
    });
  });
  explorer.listeners.push(() => follow());
  return ["scatter", await draw()];
}

// Bags of the same key in two sources, from a list: [of the first, of the second].
function sameKeys(bags, first, second) {
  const theirs = new Map(bags.filter((bag) => bag.source === second).map((bag) => [bag.key, bag]));
  return bags.filter((bag) => bag.source === first && theirs.has(bag.key)).map((bag) => [bag, theirs.get(bag.key)]);
}

function correlation(pairs) {
  const mean = (place) => pairs.reduce((sum, pair) => sum + pair[place], 0) / pairs.length, means = [mean(0), mean(1)];
  const product = (a, b) => pairs.reduce((sum, pair) => sum + (pair[a] - means[a]) * (pair[b] - means[b]), 0);
  return product(0, 1) / Math.sqrt(product(0, 0) * product(1, 1));
}

function pairText(values, first, second, name) {
  if (!values.length) return `No real image of the sample has views of both ${first} and ${second}.`;
  const mean = (place) => values.reduce((sum, pair) => sum + pair[place], 0) / values.length, share = values.filter(([a, b]) => a > b).length / values.length;
  const r = values.length > 2 ? correlation(values) : NaN;
  return `${values.length.toLocaleString("en")} real images: mean ${name} ${mean(0).toFixed(3)} in ${first} and ${mean(1).toFixed(3)} in ${second}, `
    + `higher in ${first} for ${(100 * share).toFixed(0)} %${Number.isFinite(r) ? `, correlation ${r.toFixed(2)}` : ""}.`;
}

const PAIRS_SHOWN = 12;

function pairRow([first, second], metric) {
  const row = document.createElement("tr");
  row.insertCell().append(first.key);
  for (const bag of [first, second]) {
    const cell = row.insertCell();
    cell.append(imageCell(bag), openButton(`${explorer.names[metric]} ${bag[metric].toFixed(3)}`));
    cell.addEventListener("click", () => explorer.open(bag));
  }
  const cell = row.insertCell();
  cell.className = "n";
  cell.textContent = (first[metric] - second[metric]).toFixed(3);
  return row;
}

// The same keys of two sources: points, numbers, and the bags that the page has images of, largest difference first.
async function startPair() {
  const element = document.getElementById("pair");
  if (element === null) return null;
  const [first, second, metric] = ["first", "second", "metric"].map((name) => document.getElementById(`pair-${name}`));
  const names = explorerData.sources.map((source) => [source.name, source.name]);
  [first, second].forEach((choice) => addOptions(choice, names));
  second.selectedIndex = 1;
  addOptions(metric, explorer.metrics.map((name) => [name, explorer.names[name]]));
  metric.value = "nps";
  const draw = async () => {
    const [a, b, name] = [first.value, second.value, metric.value], domain = domainOf(name), title = explorer.names[name];
    const points = sameKeys(explorer.sampled, a, b).map(([ours, theirs]) => ({ key: ours.key, class: ours.class, source: a, first: ours[name], second: theirs[name] }));
    const line = { data: { values: domain.map((value) => ({ value })) }, mark: { type: "line", color: "#8a9099", strokeDash: [4, 4], strokeWidth: 1 },
      encoding: { x: { field: "value", type: "quantitative" }, y: { field: "value", type: "quantitative" } } };
    const spec = pointSpec({ x: "first", y: "second", titles: { x: `${title} in ${a}`, y: `${title} in ${b}` }, domains: { x: domain, y: domain }, points: [], lines: [line] }, Math.min(520, Math.max(280, element.clientWidth)));
    explorer.charts?.pair?.finalize();
    const view = await report.drawChart(element, spec, "canvas");
    await view.data("kept", points).runAsync();
    document.getElementById("pair-text").textContent = pairText(points.map((point) => [point.first, point.second]), a, b, title);
    const difference = ([ours, theirs]) => Math.abs(ours[name] - theirs[name]);
    const bags = sameKeys(explorerData.bags, a, b).sort((x, y) => difference(y) - difference(x)).slice(0, PAIRS_SHOWN);
    document.querySelector("#pair-table tbody").replaceChildren(...bags.map((pair) => pairRow(pair, name)));
    document.querySelectorAll("#pair-table thead th").forEach((cell, place) => { cell.textContent = ["key", a, b, `${title}, difference`][place]; });
    return view;
  };
  [first, second, metric].forEach((choice) => choice.addEventListener("change", async () => { explorer.charts.pair = await draw(); }));
  return ["pair", await draw()];
}
