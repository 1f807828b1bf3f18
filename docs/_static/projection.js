// The interactive picture of chapter 2: a gradient in the plane, to be dragged, and its projection.
"use strict";

(() => { // names of its own
/** Φ(g) = g − mean(g), as gc_core.centralize has it for one weight vector. */
function centralize(g) {
  const mean = g.reduce((sum, x) => sum + x, 0) / g.length;
  return g.map((x) => x - mean);
}

const SIZE = 320;
const UNIT = 40; // pixels for 1
const LIMIT = 3.5;

const toPixels = ([x, y]) => [SIZE / 2 + UNIT * x, SIZE / 2 - UNIT * y];
const fromPixels = (x, y) => [(x - SIZE / 2) / UNIT, (SIZE / 2 - y) / UNIT];
/** Within the picture, and on a grid of tenths. */
const kept = (g) => g.map((x) => Math.round(10 * Math.min(LIMIT, Math.max(-LIMIT, x))) / 10);
const shown = (g) => "(" + g.map((x) => (x + 0).toFixed(2).replace(/^-0\.00$/, "0.00").replace("-", "−")).join(", ") + ")";

/** Where an arrow key moves g, or null for other keys. */
function moved(g, key, far) {
  const step = far ? 1 : 0.1;
  const by = { ArrowRight: [step, 0], ArrowLeft: [-step, 0], ArrowUp: [0, step], ArrowDown: [0, -step] }[key];
  return by ? kept([g[0] + by[0], g[1] + by[1]]) : null;
}

function start(place) {
  let g = place.dataset.g.split(" ").map(Number);
  const line = LIMIT + 0.4;
  const [x1, y1] = toPixels([-line, line]);
  const [x2, y2] = toPixels([line, -line]);
  const [ex, ey] = toPixels([Math.SQRT1_2, Math.SQRT1_2]);
  const [ox, oy] = toPixels([0, 0]);
  place.innerHTML = `
    <svg viewBox="0 0 ${SIZE} ${SIZE}" role="group" aria-label="The gradient g and its projection">
      <line class="plane" x1="${x1}" y1="${y1}" x2="${x2}" y2="${y2}"></line>
      <line class="normal" x1="${ox}" y1="${oy}" x2="${ex}" y2="${ey}"></line>
      <text class="normal" x="${ex + 6}" y="${ey}">e</text>
      <line class="dropped"></line>
      <line class="after"></line><circle class="after" r="5"></circle><text class="after">Φ(g)</text>
      <line class="before"></line><text class="before">g</text>
      <circle class="handle" r="11" tabindex="0" role="slider" aria-label="gradient"
              aria-valuemin="${-LIMIT}" aria-valuemax="${LIMIT}"></circle>
    </svg>
    <p class="numbers">g = <output class="before"></output>, mean <output class="mean"></output>,
      Φ(g) = <output class="after"></output></p>`;
  const svg = place.querySelector("svg");
  const handle = place.querySelector(".handle");

  function put(selector, from, to) {
    const [a, b] = toPixels(from);
    const [c, d] = toPixels(to);
    const line = place.querySelector(`line.${selector}`);
    Object.entries({ x1: a, y1: b, x2: c, y2: d }).forEach(([name, value]) => line.setAttribute(name, value));
    const label = place.querySelector(`text.${selector}`);
    if (label) {
      label.setAttribute("x", Math.min(c + 12, SIZE - 36));
      label.setAttribute("y", Math.max(d - 10, 14));
    }
  }

  function draw() {
    const after = centralize(g);
    put("before", [0, 0], g);
    put("after", [0, 0], after);
    put("dropped", g, after);
    for (const [circle, at] of [[handle, g], [place.querySelector("circle.after"), after]]) {
      const [x, y] = toPixels(at);
      circle.setAttribute("cx", x);
      circle.setAttribute("cy", y);
    }
    handle.setAttribute("aria-valuenow", g[0]);
    handle.setAttribute("aria-valuetext", `g ${shown(g)}, projected ${shown(after)}`);
    place.querySelector("output.before").textContent = shown(g);
    place.querySelector("output.after").textContent = shown(after);
    place.querySelector("output.mean").textContent = shown([g[0] - after[0]]).slice(1, -1);
  }

  function follow(event) {
    const box = svg.getBoundingClientRect();
    const scale = SIZE / box.width;
    g = kept(fromPixels((event.clientX - box.left) * scale, (event.clientY - box.top) * scale));
    draw();
  }

  svg.addEventListener("pointerdown", (event) => {
    svg.setPointerCapture(event.pointerId);
    follow(event);
    handle.focus({ preventScroll: true });
    event.preventDefault();
  });
  svg.addEventListener("pointermove", (event) => {
    if (svg.hasPointerCapture(event.pointerId)) follow(event);
  });
  handle.addEventListener("keydown", (event) => {
    const next = moved(g, event.key, event.shiftKey);
    if (!next) return;
    event.preventDefault();
    g = next;
    draw();
  });
  draw();
}

if (typeof document === "undefined") {
  module.exports = { centralize, moved, kept }; // for the tests
} else {
  document.querySelectorAll(".projection").forEach(start);
}
})();
