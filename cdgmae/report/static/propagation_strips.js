// Strips of painted frames: the chosen encoder's worst sequences first, on request with those of all other encoders.
"use strict";

function makeStrip(part, encoder, sequence, named) {
  const figure = make("figure"), image = make("img"), numbers = make("figcaption", "frames");
  const frames = part.strips.frames[sequence], score = part.scores[encoder][part.sequences.indexOf(sequence)];
  image.loading = "lazy";
  image.alt = `${frames.length} frames of ${sequence} under the labels that encoder ${encoder} carried on`;
  image.src = part.strips.files[encoder][sequence];
  numbers.append(...frames.map((frame) => make("span", "", frame === 0 ? "frame 1: given labels" : `frame ${frame + 1}`)));
  if (named) figure.append(make("b", "", `${encoder}: ${part.score} ${propagation.shown(score)}`));
  figure.append(image, numbers);
  return figure;
}

function makeSequence(part, encoder, place, rank, all) {
  const sequence = part.sequences[place], section = make("section", "strip"), title = make("h4", "", sequence);
  const numFrames = `${part.numFrames[place]} frames`;
  const score = part.scores[encoder] && `${part.score} ${propagation.shown(part.scores[encoder][place])}, rank ${rank} of ${part.sequences.length}`;
  title.append(" ", make("span", "", score ? `${encoder}: ${score}, ${numFrames}` : numFrames));
  const encoders = Object.keys(part.strips.files).filter((name) => (all || name === encoder) && Object.hasOwn(part.strips.files[name], sequence));
  section.append(title, ...encoders.map((name) => makeStrip(part, name, sequence, all)));
  if (encoders.length === 0) section.append(make("p", "quiet", `No frames of ${encoder}.`));
  return section;
}

function drawStrips(container) {
  const part = propagation.evaluationSet(container.dataset.set), encoder = propagation.encoder();
  const all = document.getElementById("all-encoders").checked;
  const sections = propagation.worstFirst(part, encoder).map((place, index) => [place, index + 1])
    .filter(([place]) => Object.hasOwn(part.strips.frames, part.sequences[place]))
    .map(([place, rank]) => makeSequence(part, encoder, place, rank, all));
  container.replaceChildren(...sections);
}

document.addEventListener("DOMContentLoaded", () => {
  const containers = document.querySelectorAll("[id^='strips-']"), draw = () => containers.forEach(drawStrips);
  for (const id of ["encoder", "all-encoders"]) document.getElementById(id).addEventListener("change", draw);
  draw();
});
