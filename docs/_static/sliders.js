// What can be dragged in chapters 4, 6 and 8: a slider, and bars that follow it. Their numbers are checked against gc_core.
"use strict";

(() => { // names of its own
const mean = (x) => x.reduce((sum, one) => sum + one, 0) / x.length;
const centered = (x) => x.map((one) => one - mean(x));
const dot = (a, b) => a.reduce((sum, one, i) => sum + one * b[i], 0);
const deviation = (x) => Math.sqrt(mean(centered(x).map((one) => one * one)));

// ---- Chapter 4: the mean of one weight vector, whose loss pulls it to TARGET

const [START, TARGET, RATE] = [[0.5, 1.0, 1.5], [2.0, 0.5, -1.5], 0.05];
const pull = (w) => w.map((one, j) => one - TARGET[j]);

/** SGDM with momentum 0.9, as gc_core.sgdm_update has it. */
function sgdm(gc, steps) {
  let [w, m] = [START, [0, 0, 0]];
  for (let t = 0; t < steps; t++) {
    const g = gc ? centered(pull(w)) : pull(w);
    m = m.map((one, j) => 0.9 * one + g[j]);
    w = w.map((one, j) => one - RATE * m[j]);
  }
  return w;
}

/** Adam, as gc_core.adam_update has it. */
function adam(gc, steps) {
  let [w, m, v] = [START, [0, 0, 0], [0, 0, 0]];
  for (let t = 1; t <= steps; t++) {
    const g = gc === "gradient" ? centered(pull(w)) : pull(w);
    m = m.map((one, j) => 0.9 * one + 0.1 * g[j]);
    v = v.map((one, j) => 0.999 * one + 0.001 * g[j] * g[j]);
    const d = m.map((one, j) => one / (1 - 0.9 ** t) / (Math.sqrt(v[j] / (1 - 0.999 ** t)) + 1e-8));
    const step = gc === "update" ? centered(d) : d;
    w = w.map((one, j) => one - RATE * step[j]);
  }
  return w;
}

function means(steps) {
  return [
    ["SGDM, no GC", mean(sgdm(false, steps))],
    ["SGDM with GC", mean(sgdm(true, steps))],
    ["Adam, GC on the gradient", mean(adam("gradient", steps))],
    ["Adam, GC on the update", mean(adam("update", steps))],
  ];
}

// ---- Chapter 6: how far the output of a unit moves when γ is added to each input

const [WEIGHTS, BATCH] = [[0.8, -0.3, 0.5], [[1.0, 0.2, 0.6], [0.1, 1.4, 0.3], [0.9, 0.5, 1.7], [0.4, 0.0, 0.8]]];

function shifts(gamma) {
  const shifted = BATCH.map((x) => x.map((one) => one + gamma));
  const standardized = centered(WEIGHTS).map((one) => one / deviation(WEIGHTS));
  const [before, after] = [BATCH, shifted].map((batch) => batch.map((x) => dot(WEIGHTS, x)));
  const [m, s] = [mean(before), deviation(before)]; // what a layer has kept from training
  const normalized = (z) => centered(z).map((one) => one / deviation(z));
  return [
    ["plain: γ · 1ᵀw", after[0] - before[0]],
    ["weight standardization", dot(standardized, shifted[0]) - dot(standardized, BATCH[0])],
    ["batch normalization, statistics of the batch", normalized(after)[0] - normalized(before)[0]],
    ["batch normalization, running statistics", (after[0] - m) / s - (before[0] - m) / s],
  ];
}

// ---- Chapter 8: the student and the teacher whose weights have a mean

const [PROBLEMS, FAN_IN, EXAMPLES, STEPS] = [20, 16, 20, 150];

/** Normal numbers that are the same in every browser: mulberry32, then Box and Muller. */
function normals(seed) {
  let state = seed >>> 0;
  const uniform = () => {
    state = (state + 0x6d2b79f5) >>> 0;
    let x = Math.imul(state ^ (state >>> 15), state | 1);
    x ^= x + Math.imul(x ^ (x >>> 7), x | 61);
    return (((x ^ (x >>> 14)) >>> 0) + 0.5) / 4294967296;
  };
  return () => Math.sqrt(-2 * Math.log(uniform())) * Math.cos(2 * Math.PI * uniform());
}

const many = (n, draw) => Array.from({ length: n }, draw);

/** A problem: inputs, a teacher whose weights have this mean, and its noisy answers. */
function problem(teacherMean, seed) {
  const normal = normals(seed);
  const x = many(EXAMPLES, () => many(FAN_IN, normal));
  const teacher = centered(many(FAN_IN, () => 0.25 * normal())).map((one) => one + teacherMean);
  return { x, teacher, y: x.map((one) => dot(one, teacher) + 0.5 * normal()) };
}

/** The squared distance between student and teacher after training from zero. */
function testError({ x, teacher, y }, gc) {
  let [w, m] = [teacher.map(() => 0), teacher.map(() => 0)];
  for (let t = 0; t < STEPS; t++) {
    const residual = x.map((one, k) => dot(one, w) - y[k]);
    let g = w.map((_, j) => residual.reduce((sum, r, k) => sum + r * x[k][j], 0) / EXAMPLES);
    if (gc) g = centered(g);
    m = m.map((one, j) => 0.9 * one + g[j]);
    w = w.map((one, j) => one - 0.05 * m[j]);
  }
  return w.reduce((sum, one, j) => sum + (one - teacher[j]) ** 2, 0);
}

function errors(teacherMean) {
  const all = many(PROBLEMS, (_, seed) => problem(teacherMean, seed + 1));
  const [without, withGC] = [false, true].map((gc) => mean(all.map((one) => testError(one, gc))));
  return [["test error, SGDM", without], ["test error, SGDM with GC", withGC], ["difference", withGC - without]];
}

// ---- On the page

const SLIDERS = {
  means: { name: "steps of training", min: 0, max: 100, step: 1, value: 0, rows: means, most: 1.2,
    about: "The mean of one weight vector; at the start it is 1" },
  shifts: { name: "γ, added to each input", min: -2, max: 2, step: 0.1, value: 1, rows: shifts, most: 6,
    about: "How far the output moves" },
  errors: { name: "mean of the teacher's weights", min: 0, max: 0.3, step: 0.01, value: 0, rows: errors, most: 2.4,
    about: `Test errors, means of ${PROBLEMS} problems` },
};

const shown = (x) => (Math.abs(x) < 5e-4 ? 0 : x).toFixed(3).replace("-", "−");

function start(place) {
  const { name, min, max, step, value, rows, most, about } = SLIDERS[place.dataset.shows];
  const id = `slider-${place.dataset.shows}`;
  place.innerHTML = `
    <p><label for="${id}">${name}: <output class="at" for="${id}"></output></label>
      <input id="${id}" type="range" min="${min}" max="${max}" step="${step}" value="${value}"></p>
    <table aria-live="polite"><caption>${about}</caption><tbody></tbody></table>`;
  const input = place.querySelector("input");
  const body = place.querySelector("tbody");

  function draw() {
    const found = rows(Number(input.value));
    place.querySelector(".at").textContent = input.value.replace("-", "−");
    body.innerHTML = found.map(([title, x]) => {
      const half = Math.min(50, (50 * Math.abs(x)) / most);
      return `<tr><th scope="row">${title}</th><td class="value">${shown(x)}</td><td class="bar" aria-hidden="true">
        <span style="left: ${x < 0 ? 50 - half : 50}%; width: ${half}%"></span></td></tr>`;
    }).join("");
  }

  input.addEventListener("input", draw);
  draw();
}

if (typeof document === "undefined") {
  module.exports = { means, shifts, errors, problem, testError, sgdm, adam, START, TARGET, RATE, WEIGHTS, BATCH }; // for the tests
} else {
  document.querySelectorAll(".slider[data-shows]").forEach(start);
}
})();
