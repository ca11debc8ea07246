// The curves of all runs: one chart per metric, the runs chosen by check boxes; pointing at a chart names run, steps and value.
"use strict";

const HEIGHT = 240;

const curveColours = {
  domain: pretrainData.runs.map((run) => run.label),
  range: pretrainData.runs.map((run) => run.colour),
};
const curveDashes = {
  domain: curveColours.domain,
  range: pretrainData.runs.map((run) => run.dash.split(" ").filter(Boolean).map(Number)),
};

// One row per run and stretch of steps.
function curveRows(column) {
  return pretrainData.runs.filter((run) => run[column] !== null).flatMap((run) => run.first.map((first, place) => ({
    run: run.label, first, last: run.last[place], step: (first + run.last[place]) / 2,
    mean: run[column].mean[place], low: run[column].low[place], high: run[column].high[place],
  })));
}

// Smallest and largest drawn value of the shown runs, and their last step; null if none of them has this metric.
function curveLimits(metric, shown, band) {
  const runs = pretrainData.runs.filter((run) => shown.includes(run.label) && run[metric.column] !== null);
  if (runs.length === 0) return null;
  const values = runs.flatMap((run) => (band ? [...run[metric.column].low, ...run[metric.column].high] : run[metric.column].mean));
  const [low, high] = [Math.min(...values), Math.max(...values)];
  const bottom = metric.column === "loss" ? low : 0; // all others are rates: their axis begins at nothing
  return { xHigh: Math.max(1, ...runs.map((run) => run.last.at(-1))), yLow: bottom, yHigh: high > bottom ? high : bottom + 1 };
}

function curveSpec(metric) {
  const colour = { field: "run", type: "nominal", scale: curveColours, legend: null };
  const dash = { field: "run", type: "nominal", scale: curveDashes, legend: null };
  const x = { field: "step", type: "quantitative", title: "optimiser step", axis: { format: ",d", tickMinStep: 1, grid: false }, scale: { domain: [0, { expr: "xHigh" }], nice: false } };
  const y = { field: "mean", type: "quantitative", title: metric.axis, axis: { format: metric.axisFormat }, scale: { domain: [{ expr: "yLow" }, { expr: "yHigh" }], zero: false, nice: true } };
  const steps = { calculate: "datum.first == datum.last ? '' + datum.first : datum.first + ' to ' + datum.last", as: "steps" };
  // Written out, because Vega-Lite loses text fields of the point that is nearest to the pointer: there, datum is that point's cell.
  const point = "(datum.datum || datum)", number = (field) => `format(${point}.${field}, '${metric.format}')`;
  const tooltip = { expr: `{run: ${point}.run, step: ${point}.steps, mean: ${number("mean")}, lowest: ${number("low")}, highest: ${number("high")}}` };
  const hover = { name: "hover", select: { type: "point", on: "pointerover", nearest: true, clear: "pointerout" } };
  return {
    width: "container", height: HEIGHT, autosize: { type: "fit-x", contains: "padding" },
    params: [
      { name: "shown", value: curveColours.domain }, { name: "band", value: false },
      ...Object.entries(curveLimits(metric, curveColours.domain, false) ?? { xHigh: 1, yLow: 0, yHigh: 1 }).map(([name, limit]) => ({ name, value: limit })),
    ],
    data: { values: curveRows(metric.column) },
    transform: [{ filter: "indexof(shown, datum.run) >= 0" }, steps],
    encoding: { x },
    layer: [
      { mark: { type: "area", opacity: { expr: "band ? 0.2 : 0" }, clip: true }, encoding: { y: { ...y, field: "low" }, y2: { field: "high" }, color: colour } },
      { mark: { type: "line", strokeJoin: "round" }, encoding: { y, color: colour, strokeDash: dash } },
      {
        params: [hover],
        mark: { type: "point", filled: true, size: 70 },
        encoding: { y, color: colour, opacity: { condition: { param: "hover", value: 1, empty: false }, value: 0 }, tooltip: { value: tooltip } },
      },
    ],
  };
}

async function drawCurves() {
  const views = await Promise.all(
    pretrainData.metrics.map((metric) => report.drawChart(document.getElementById(`chart-${metric.column}`), curveSpec(metric))),
  );
  const boxes = [...document.querySelectorAll("#runs input[name=run]")], band = document.getElementById("show-range");
  const update = () => {
    const shown = boxes.filter((box) => box.checked).map((box) => box.value);
    return Promise.all(views.map((view, number) => {
      const signals = { shown, band: band.checked, ...curveLimits(pretrainData.metrics[number], shown, band.checked) };
      Object.entries(signals).forEach(([name, signal]) => view.signal(name, signal));
      return view.runAsync();
    }));
  };
  const checkAll = (checked) => { boxes.forEach((box) => { box.checked = checked; }); return update(); };
  document.getElementById("runs").addEventListener("change", update);
  document.getElementById("show-all").addEventListener("click", () => checkAll(true));
  document.getElementById("show-none").addEventListener("click", () => checkAll(false));
  document.getElementById("runs").dataset.ready = "true";
}

document.addEventListener("DOMContentLoaded", drawCurves);
