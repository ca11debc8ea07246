// A slider over the reconstruction panels of each run.
"use strict";

function showPanel(slider) {
  const place = Number(slider.value), step = slider.dataset.steps.split(" ")[place];
  const section = slider.closest("section"), image = section.querySelector("img");
  image.src = slider.dataset.files.split(" ")[place];
  image.alt = `Reconstructions of ${section.querySelector("h3").textContent} after step ${step}`;
  section.querySelector("output").textContent = Number(step).toLocaleString("en");
  slider.setAttribute("aria-valuetext", `step ${step}`);
}

document.addEventListener("DOMContentLoaded", () => {
  for (const slider of document.querySelectorAll(".slider input")) {
    slider.addEventListener("input", () => showPanel(slider));
  }
});
