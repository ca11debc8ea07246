// Charts of all pages: one palette, one look. The pages' scripts draw with report.drawChart.
"use strict";

const report = {
  // Okabe and Ito's colours, as in cdgmae/report/svg_figures.py.
  palette: ["#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000"],
};

report.chartConfig = {
  background: null,
  font: 'system-ui, -apple-system, "Segoe UI", Roboto, "Noto Sans", "DejaVu Sans", sans-serif',
  range: { category: report.palette, ramp: { scheme: "cividis" }, heatmap: { scheme: "cividis" } },
  view: { stroke: null },
  axis: {
    labelColor: "#333333", titleColor: "#1c1c1c", gridColor: "#e3e3e3", domainColor: "#555555", tickColor: "#555555",
    labelFontSize: 12, titleFontSize: 13, titleFontWeight: 600, labelOverlap: "greedy", labelSeparation: 6, labelFlush: false,
  },
  legend: { labelColor: "#1c1c1c", titleColor: "#1c1c1c", labelFontSize: 12, titleFontSize: 13, labelLimit: 260, symbolStrokeWidth: 3 },
  title: { color: "#1c1c1c", fontSize: 14, fontWeight: 600, anchor: "start" },
  line: { strokeWidth: 2 },
};

// Draws into the element; resolves to the Vega view, so that a caller can listen to its signals. Thousands of marks want a canvas.
report.drawChart = async (element, spec, renderer = "svg") => {
  const options = { actions: false, renderer, config: report.chartConfig, tooltip: { theme: "light" } };
  try {
    return (await vegaEmbed(element, spec, options)).view;
  } catch (error) {
    element.textContent = `This chart could not be drawn: ${error.message}`;
    throw error;
  }
};
