// Gradient Centralization in JavaScript: a port in another language, held to the test vectors by check.mjs.
//
// Arrays are Float32Array or Float64Array in C order, with a shape beside them. Numbers are computed in double precision
// and rounded once, when they are stored.

const sizeOf = (shape) => shape.reduce((a, b) => a * b, 1);

// For each element, the number of the weight vector that it belongs to: its position without the fan-in axes.
function weightVectorOf(shape, axis) {
  const over = new Set(axis.map((a) => (a + shape.length) % shape.length));
  return Array.from({ length: sizeOf(shape) }, (_, element) => {
    let number = 0, stride = 1;
    for (let a = shape.length - 1; a >= 0; a--) {
      if (!over.has(a)) {
        number += (element % shape[a]) * stride;
        stride *= shape[a];
      }
      element = Math.floor(element / shape[a]);
    }
    return number;
  });
}

// Φ(g) = g − mean(g), the mean over the fan-in axes; axis null: not a weight.
export function centralize(grad, shape, axis) {
  const result = grad.slice();
  if (axis === null) return result;
  const of = weightVectorOf(shape, axis), sums = new Map(), counts = new Map();
  grad.forEach((g, i) => {
    sums.set(of[i], (sums.get(of[i]) ?? 0) + g);
    counts.set(of[i], (counts.get(of[i]) ?? 0) + 1);
  });
  return result.map((g, i) => g - sums.get(of[i]) / counts.get(of[i]));
}

// The fan-in axes of a weight stored with its output first or last; null where GC does not apply.
export function fanInAxes(shape, layout) {
  if (shape.length < 2) return null;
  const output = layout === "out_first" ? 0 : shape.length - 1;
  const axes = [...shape.keys()].filter((a) => a !== output);
  return axes.reduce((size, a) => size * shape[a], 1) === 1 ? null : axes;
}

// What both rules do before and after their moments, in double precision.
function prepared(w, grad, shape, axis, { weight_decay, decoupled, gc_on }) {
  let g = Float64Array.from(grad);
  if (weight_decay && !decoupled) g = g.map((x, i) => x + weight_decay * w[i]);
  return gc_on === "gradient" ? centralize(g, shape, axis) : g;
}

function applied(w, d, shape, axis, { lr, weight_decay, decoupled, gc_on }) {
  if (weight_decay && decoupled) d = d.map((x, i) => x + weight_decay * w[i]);
  if (gc_on === "update") d = centralize(d, shape, axis);
  return w.map((x, i) => x - lr * d[i]);
}

export const sgdmInit = (w) => ({ momentum_buffer: w.map(() => 0) });

export function sgdmUpdate(w, grad, shape, state, axis, options) {
  const { momentum, dampening, nesterov } = options;
  const g = prepared(w, grad, shape, axis, options);
  const m = g.map((x, i) => momentum * state.momentum_buffer[i] + (1 - dampening) * x);
  const d = nesterov ? g.map((x, i) => x + momentum * m[i]) : m;
  return [applied(w, d, shape, axis, options), { momentum_buffer: w.constructor.from(m) }];
}

export const adamInit = (w, amsgrad) => ({
  step: 0,
  exp_avg: w.map(() => 0),
  exp_avg_sq: w.map(() => 0),
  max_exp_avg_sq: amsgrad ? w.map(() => 0) : null,
});

export function adamUpdate(w, grad, shape, state, axis, options) {
  const [beta1, beta2] = options.betas;
  const step = state.step + 1;
  const g = prepared(w, grad, shape, axis, options);
  const m = g.map((x, i) => beta1 * state.exp_avg[i] + (1 - beta1) * x);
  const v = g.map((x, i) => beta2 * state.exp_avg_sq[i] + (1 - beta2) * x * x);
  const largest = options.amsgrad ? v.map((x, i) => Math.max(x, state.max_exp_avg_sq[i])) : null;
  const correction = (beta) => -Math.expm1(step * Math.log(beta)); // 1 − βᵗ, without cancellation
  const root = (largest ?? v).map((x) => Math.sqrt(x) / Math.sqrt(correction(beta2)));
  const d = m.map((x, i) => x / correction(beta1) / (root[i] + options.eps));
  const store = (x) => x && w.constructor.from(x);
  const next = { step, exp_avg: store(m), exp_avg_sq: store(v), max_exp_avg_sq: store(largest) };
  return [applied(w, d, shape, axis, options), next];
}
