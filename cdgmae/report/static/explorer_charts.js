// Distributions of the sampled bags, one chart per metric, one row per source; a brush on one chart filters all.
"use strict";

const NUM_BINS = 40;
const ROW_HEIGHT = Math.max(26, Math.min(110, 240 / explorerData.sources.length));
const AXIS_HEIGHT = 45;

// Common range of a metric over all sources, in steps of 0.02.
function domainOf(metric) {
  const values = explorer.sampled.map((bag) => bag[metric]);
  const [low, high] = values.reduce(([a, b], value) => [Math.min(a, value), Math.max(b, value)], [Infinity, -Infinity]);
  return [Math.floor(low * 50) / 50, Math.max(Math.ceil(high * 50), Math.floor(low * 50) + 1) / 50];
}

// Bars of one metric: per source and bin a rectangle from its row's ground line; `keep` says which bags count. Heights are
// relative to the fullest bin of all sampled bags.
function makeBars(metric, domain, keep) {
  const step = (domain[1] - domain[0]) / NUM_BINS;
  return explorerData.sources.flatMap((source, row) => {
    const all = new Array(NUM_BINS).fill(0), kept = new Array(NUM_BINS).fill(0);
    explorer.sampled.filter((bag) => bag.source === source.name).forEach((bag) => {
      const bin = Math.min(NUM_BINS - 1, Math.floor((bag[metric] - domain[0]) / step));
      all[bin] += 1;
      if (keep(bag)) kept[bin] += 1;
    });
    const ground = explorerData.sources.length - 1 - row, scale = 0.92 / Math.max(...all);
    return kept.map((count, bin) => ({
      source: source.name, bags: count, low: domain[0] + bin * step, high: domain[0] + (bin + 1) * step,
      ground, top: ground + count * scale,
    })).filter((bar) => bar.bags > 0);
  });
}

function chartSpec(metric, domain, bars, width) {
  const names = explorerData.sources.map((source) => source.name);
  const bar = {
    x: {
      field: "low", type: "quantitative", scale: { domain, nice: false },
      axis: { title: `${explorer.names[metric]}, mean of a bag`, tickCount: 4, format: ".2f" },
    },
    x2: { field: "high" },
    y: { field: "ground", type: "quantitative", scale: { domain: [0, names.length], nice: false }, axis: null },
    y2: { field: "top" },
  };
  const tooltip = [
    { field: "source", title: "source" }, { field: "bags", title: "bags" },
    { field: "low", title: "from", format: ".3f" }, { field: "high", title: "to", format: ".3f" },
  ];
  return {
    width, height: ROW_HEIGHT * names.length + AXIS_HEIGHT, autosize: { type: "fit", contains: "padding" },
    description: `Distribution of ${explorer.names[metric]} per source`,
    layer: [
      {
        data: { values: bars }, mark: { type: "rect", color: "#d0d4da" }, encoding: bar,
        params: [{ name: "brush", select: { type: "interval", encodings: ["x"], mark: { fill: "#1c1c1c", fillOpacity: 0.08, stroke: "#1c1c1c" } } }],
      },
      {
        data: { name: "kept", values: [] }, mark: { type: "rect" },
        encoding: { ...bar, color: { field: "source", type: "nominal", scale: { domain: names }, legend: null }, tooltip },
      },
    ],
  };
}

const rounded = (value) => Math.round(value * 1000) / 1000;

// Ties the brush of a chart to the ranges of the metrics on its axes, { x: {metric, domain}, ... }; gives what redraws the brush when a
// range changed elsewhere. `drawn` and `pixels` are what the brush shows, so that neither follows the other in circles.
function bindBrush(view, axes) {
  const drawn = {}, pixels = {}, channels = Object.entries(axes);
  for (const [channel, { metric }] of channels) {
    [drawn[channel], pixels[channel]] = [null, []];
    view.addSignalListener(`brush_${channel}`, (_, ends) => {
      if (String(ends) === String(pixels[channel])) return;
      pixels[channel] = ends;
      const range = ends.map((end) => rounded(view.scale(channel).invert(end))).sort((a, b) => a - b);
      drawn[channel] = range.length === 2 && range[0] < range[1] ? range : null;
      explorer.setRange(metric, drawn[channel]);
    });
  }
  return () => {
    const ranges = channels.map(([channel, { metric }]) => [channel, explorer.filter.ranges[metric]]);
    if (ranges.every(([channel, range]) => range === drawn[channel])) return;
    const none = ranges.every(([, range]) => range === null);
    for (const [channel, range] of ranges) {
      const { domain } = axes[channel];
      drawn[channel] = range;
      pixels[channel] = none ? [] : (range ?? domain).map((value) => view.scale(channel)(Math.max(domain[0], Math.min(domain[1], value))));
      view.signal(`brush_${channel}`, pixels[channel]);
    }
  };
}

// One chart with its number fields; both show and change the same range.
async function makeChart(metric) {
  const domain = domainOf(metric);
  const element = document.getElementById(`chart-${metric}`), bars = makeBars(metric, domain, () => true);
  // A width that followed the window would lose the brush when the window changes.
  const view = await report.drawChart(element, chartSpec(metric, domain, bars, Math.max(240, element.clientWidth)));
  const fields = ["from", "to"].map((end) => document.getElementById(`${metric}-${end}`));
  const followRange = bindBrush(view, { x: { metric, domain } });
  fields.forEach((field, end) => field.addEventListener("change", () => {
    const range = [...(explorer.filter.ranges[metric] ?? domain)];
    range[end] = field.value === "" ? domain[end] : Number(field.value);
    explorer.setRange(metric, range[0] <= range[1] ? range : [range[1], range[0]]);
  }));
  document.getElementById(`${metric}-clear`).addEventListener("click", () => explorer.setRange(metric, null));
  const follow = () => {
    const range = explorer.filter.ranges[metric];
    fields.forEach((field, end) => { field.value = range === null ? "" : range[end]; });
    followRange();
    view.data("kept", makeBars(metric, domain, explorer.keeps)).runAsync();
  };
  explorer.listeners.push(follow);
  follow();
  return view;
}

function writeLegend() {
  explorerData.sources.forEach((source, place) => {
    const entry = document.createElement("span"), colour = document.createElement("i");
    colour.style.background = report.palette[place % report.palette.length];
    entry.append(colour, source.name);
    document.getElementById("legend").append(entry);
  });
}

document.addEventListener("DOMContentLoaded", async () => {
  writeLegend();
  const charts = [...explorer.metrics.map(async (metric) => [metric, await makeChart(metric)]), startScatter(), startPair()];
  explorer.charts = Object.fromEntries((await Promise.all(charts)).filter(Boolean));
  document.body.dataset.charts = "drawn";
});
