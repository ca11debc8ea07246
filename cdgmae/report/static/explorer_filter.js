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

explorer.keptBags = () => {
  const { source, rule, className, key } = explorer.filter;
  const part = key.toLowerCase();
  return explorerData.bags.filter((bag) =>
    (!source || bag.source === source) && (!rule || bag.rules.includes(rule)) && (!className || bag.class === className)
    && bag.key.toLowerCase().includes(part) && explorer.inRanges(bag));
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
  const classes = [...new Set(explorerData.bags.map((bag) => bag.class).filter(Boolean))].sort();
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
  explorer.listeners.push(() => { document.getElementById("command").textContent = explorer.command(); });
  explorer.set({});
});
