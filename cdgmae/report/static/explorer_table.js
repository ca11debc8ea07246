// The table of bags: sorted by its headings, filtered by explorer.filter, forty rows at a time.
"use strict";

const ROWS_AT_ONCE = 40;
const COLUMNS = [
  { id: "strip", title: "real image and views" },
  { id: "key", title: "key", text: true },
  { id: "source", title: "source", text: true },
  { id: "class", title: "class", text: true },
  { id: "rules", title: "chosen as" },
  { id: "gs", title: "GS" },
  { id: "ls", title: "LS" },
  { id: "nps", title: "NPS" },
  { id: "disagreement", title: "disagreement" },
];
const order = { column: "nps", direction: 1 };
let numShown = ROWS_AT_ONCE;

// Bags of the table in its order: what is unknown comes last, equal ones by source and key.
explorer.tableBags = () => {
  const text = (a, b) => (a < b ? -1 : a > b ? 1 : 0);
  return explorer.keptBags().sort((a, b) => {
    const [x, y] = [a[order.column], b[order.column]];
    if ((x === null) !== (y === null)) return x === null ? 1 : -1;
    return order.direction * text(x, y) || text(a.source, b.source) || text(a.key, b.key);
  });
};

function writeHeadings() {
  for (const column of COLUMNS) {
    const cell = document.createElement("th");
    cell.scope = "col";
    cell.dataset.column = column.id;
    if (column.id === "strip" || column.id === "rules") {
      cell.textContent = column.title;
      cell.classList.add("plain");
    } else {
      const button = document.createElement("button");
      button.type = "button";
      if (!column.text) cell.classList.add("n");
      button.addEventListener("click", () => {
        order.direction = order.column === column.id ? -order.direction : 1;
        order.column = column.id;
        drawTable();
      });
      cell.append(button);
    }
    document.querySelector("#table thead tr").append(cell);
  }
}

function markOrder() {
  for (const column of COLUMNS) {
    const cell = document.querySelector(`#table th[data-column="${column.id}"]`), button = cell.querySelector("button");
    if (button === null) continue;
    const sorted = order.column === column.id;
    cell.ariaSort = sorted ? (order.direction > 0 ? "ascending" : "descending") : "none";
    button.textContent = column.title + (sorted ? (order.direction > 0 ? " \u25B2" : " \u25BC") : "");
  }
}

function imageCell(bag) {
  if (bag.strip === null) {
    const lack = document.createElement("div");
    lack.className = "lack";
    lack.textContent = `no images: ${bag.problem}`;
    return lack;
  }
  const image = document.createElement("img");
  image.src = bag.strip;
  image.loading = "lazy";
  image.alt = `images of bag ${bag.key}`;
  return image;
}

function openButton(text) {
  const button = document.createElement("button");
  button.type = "button";
  button.className = "open";
  button.textContent = text;
  return button;
}

function makeRow(bag) {
  const row = document.createElement("tr");
  const score = (id) => bag[id].toFixed(id === "disagreement" ? 2 : 3);
  const content = {
    strip: imageCell, key: () => openButton(bag.key), source: () => bag.source, class: () => bag.class ?? "",
    rules: () => bag.rules.map((rule) => explorerData.rules[rule]).join(", "),
  };
  for (const { id } of COLUMNS) {
    const cell = row.insertCell();
    if (!(id in content)) cell.className = "n";
    cell.append(id in content ? content[id](bag) : score(id));
  }
  row.addEventListener("click", () => explorer.open(bag));
  return row;
}

function drawTable() {
  const bags = explorer.tableBags();
  const body = document.querySelector("#table tbody");
  body.replaceChildren(...bags.slice(0, numShown).map(makeRow));
  markOrder();
  document.getElementById("more").hidden = bags.length <= numShown;
  const whole = (number) => number.toLocaleString("en");
  document.getElementById("count").textContent =
    `${whole(bags.length)} of ${whole(explorerData.bags.length)} bags${bags.length > numShown ? `, the first ${whole(numShown)} shown` : ""}.`;
}

document.addEventListener("DOMContentLoaded", () => {
  writeHeadings();
  document.getElementById("more").addEventListener("click", () => {
    const next = document.querySelectorAll("#table .open").length;
    numShown += ROWS_AT_ONCE;
    drawTable();
    document.querySelectorAll("#table .open")[next].focus();
  });
  explorer.listeners.push(() => {
    numShown = ROWS_AT_ONCE;
    drawTable();
  });
  drawTable();
});
