// The explorer's state: which bags are kept. Charts and table change it with explorer.set and redraw when told.
"use strict";

const explorer = {
  metrics: ["gs", "ls", "nps"],
  names: { gs: "GS", ls: "LS", nps: "NPS" },
  filter: { source: "", rule: "", className: "", key: "", ranges: { gs: null, ls: null, nps: null } },
  listeners: [],
};

// Changes part of the filter and tells everyone, once per drawn frame; a range is [low, high] or null.
let waiting = false;
explorer.set = (changes) => {
  Object.assign(explorer.filter, changes);
  if (waiting) return;
  waiting = true;
  requestAnimationFrame(() => {
    waiting = false;
    explorer.listeners.forEach((listener) => listener());
  });
};

explorer.setRange = (metric, range) => explorer.set({ ranges: { ...explorer.filter.ranges, [metric]: range } });

// Whether scores lie in all ranges; `except` names a metric whose range does not count.
explorer.inRanges = (scores, except = null) =>
  explorer.metrics.every((metric) => {
    const range = explorer.filter.ranges[metric];
    return metric === except || range === null || (scores[metric] >= range[0] && scores[metric] <= range[1]);
  });

// The bags of the distributions, of all sources.
explorer.sampled = explorerData.sources.flatMap(({ name, sample }) => sample.key.map((key, place) => ({
  source: name, key, class: sample.class[place], gs: sample.gs[place], ls: sample.ls[place], nps: sample.nps[place],
})));

// Whether a bag meets the filter; why it was chosen counts for the bags of the table alone.
explorer.keeps = (bag) => {
  const { source, rule, className, key } = explorer.filter;
  return (!source || bag.source === source) && (!rule || !bag.rules || bag.rules.includes(rule)) && (!className || bag.class === className)
    && bag.key.toLowerCase().includes(key.toLowerCase()) && explorer.inRanges(bag);
};

explorer.keptBags = () => explorerData.bags.filter(explorer.keeps);

// All bags that the page knows and the filter keeps, each once.
explorer.selection = () => {
  const kept = new Map();
  for (const bag of [...explorer.sampled, ...explorerData.bags]) if (explorer.keeps(bag)) kept.set(`${bag.source} ${bag.key}`, bag);
  return [...kept.values()].sort((a, b) => (a.source === b.source ? (a.key < b.key ? -1 : 1) : a.source < b.source ? -1 : 1));
};

explorer.selectionAsCsv = () => {
  const quoted = (value) => (/[",\r\n]/.test(value) ? `"${value.replaceAll('"', '""')}"` : value);
  const rows = explorer.selection().map((bag) => [bag.source, bag.key, bag.class ?? "", bag.gs, bag.ls, bag.nps, (bag.rules ?? []).join(" ")]);
  return [["source", "key", "class_name", "gs", "ls", "nps", "chosen_as"], ...rows].map((row) => `${row.map((value) => quoted(String(value))).join(",")}\n`).join("");
};

// The command that searches all pairs for the ranges of the filter.
explorer.command = () => {
  const conditions = [];
  for (const metric of explorer.metrics) {
    const range = explorer.filter.ranges[metric];
    if (range !== null) conditions.push(`${metric} >= ${range[0]} and ${metric} <= ${range[1]}`);
  }
  const words = [`cdgmae consistency query '${conditions.join(" and ") || "nps >= -1"}'`];
  if (explorer.filter.source) words.push(`--source ${explorer.filter.source}`);
  if (explorerData.results !== "results") words.push(`--results '${explorerData.results.replaceAll("'", "'\\''")}/consistency'`);
  return [...words, "--sort nps", "--limit 100", "--images strips"].join(" ");
};

function addOptions(select, entries) {
  for (const [value, text] of entries) select.add(new Option(text, value));
}

document.addEventListener("DOMContentLoaded", () => {
  const classes = [...new Set([...explorerData.bags, ...explorer.sampled].map((bag) => bag.class).filter(Boolean))].sort();
  addOptions(document.getElementById("filter-source"), explorerData.sources.map((source) => [source.name, source.name]));
  addOptions(document.getElementById("filter-rule"), Object.entries(explorerData.rules));
  addOptions(document.getElementById("filter-class"), classes.map((name) => [name, name]));
  for (const [id, name] of [["source", "source"], ["rule", "rule"], ["class", "className"], ["key", "key"]]) {
    const control = document.getElementById(`filter-${id}`);
    control.addEventListener("input", () => explorer.set({ [name]: control.value }));
  }
  const form = document.getElementById("filters");
  form.addEventListener("submit", (event) => event.preventDefault());
  form.addEventListener("reset", () => explorer.set({
    source: "", rule: "", className: "", key: "", ranges: { gs: null, ls: null, nps: null },
  }));
  const link = document.createElement("a");
  link.download = "selection.csv";
  document.getElementById("download").addEventListener("click", () => {
    URL.revokeObjectURL(link.href);
    link.href = URL.createObjectURL(new Blob([explorer.selectionAsCsv()], { type: "text/csv" }));
    link.click();
  });
  explorer.listeners.push(() => {
    document.getElementById("command").textContent = explorer.command();
    document.getElementById("download").textContent = `Download the selection as CSV (${explorer.selection().length.toLocaleString("en")} bags)`;
  });
  explorer.set({});
});
